"""The model store gives back what was stored, and refuses everything else."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from LabelFreeCovidSegLib import store as stores
from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.methods.base import PICTURES, REGISTRY, load
from LabelFreeCovidSegLib.store import Entry, read_manifest, sha256
from torch import nn

ENTRY = Entry(
    name="normnet", version="1.2.3", files={}, recipe={"preset": "small"}, scans=[], licence="Apache-2.0",
    licence_confirmed=False, citation="", expects="",
)  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))


@pytest.fixture
def store(tmp_path):
    weights.store_entry(ENTRY, {"one.safetensors": network().state_dict()}, tmp_path)
    return tmp_path


def only_file(store):
    (path,) = store.glob("*.safetensors")
    return path


def test_weights_come_back_as_float32_within_float16(store):
    entry, (state,) = weights.load("normnet", store)
    original = network().state_dict()
    assert entry.version == "1.2.3"
    ((name, sha),) = entry.files.items()
    assert name == f"one-{sha[:8]}.safetensors"
    assert {path.name for path in store.iterdir()} == {name, "manifest.json"}
    assert state["0.weight"].dtype == torch.float32
    torch.testing.assert_close(state["0.weight"], original["0.weight"], rtol=1e-3, atol=1e-4)
    filled = weights.fill(network(), state, entry)
    torch.testing.assert_close(filled.state_dict()["0.weight"], state["0.weight"])


def test_numbers_that_float16_cannot_hold_come_back_too(tmp_path):
    state = network().state_dict()
    state["1.running_var"] = torch.tensor([1e6, 3.0])
    weights.store_entry(ENTRY, {"one.safetensors": state}, tmp_path)
    _, (back,) = weights.load("normnet", tmp_path)
    assert back["1.running_var"].tolist() == [1e6, 3.0]


def test_storing_the_same_weights_twice_gives_the_same_bytes(store, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    weights.store_entry(ENTRY, {"one.safetensors": network().state_dict()}, again)
    first, second = ({path.name: path.read_bytes() for path in folder.glob("*.*")} for folder in (store, again))
    assert first == second


def test_weights_that_are_replaced_half_way_are_still_the_old_ones(store, monkeypatch):
    def cut_off(*args):
        raise OSError("no space left")

    before = weights.load("normnet", store)
    with monkeypatch.context() as cut:
        cut.setattr(stores, "write_manifest", cut_off)
        with pytest.raises(OSError, match="no space"):
            weights.store_entry(replace(ENTRY, version="2"), {"one.safetensors": nn.Linear(2, 2).state_dict()}, store)
    entry, (state,) = weights.load("normnet", store)
    assert entry == before[0]
    assert state.keys() == before[1][0].keys()


def test_weights_that_were_replaced_are_removed(store):
    weights.store_entry(replace(ENTRY, version="2"), {"one.safetensors": nn.Linear(2, 2).state_dict()}, store)
    assert len(list(store.glob("*.safetensors"))) == 1
    assert weights.load("normnet", store)[0].version == "2"


def test_a_second_method_leaves_the_first_one_in_the_manifest(store):
    other = replace(ENTRY, name="other")
    weights.store_entry(other, {"two.safetensors": network().state_dict()}, store)
    assert set(read_manifest(store)) == {"normnet", "other"}


def test_an_unknown_name_is_answered_with_the_manifest_that_lacks_it(store):
    with pytest.raises(WeightsError, match=r"manifest\.json: no weights for 'cyclegan'"):
        weights.load("cyclegan", store)


def test_a_missing_file_is_named(store):
    only_file(store).unlink()
    with pytest.raises(WeightsError, match=r"one-\w+\.safetensors: this weight file is missing"):
        weights.load("normnet", store)


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: data[:-1] + b"?", lambda data: b""])
def test_a_damaged_file_is_refused_by_its_hash(store, damage):
    path = only_file(store)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"one-\w+\.safetensors: this is not the file that the manifest describes"):
        weights.load("normnet", store)


def test_a_pickle_is_never_opened_even_if_the_manifest_vouches_for_it(store, tmp_path):
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    data = pickle.dumps(Bomb())
    only_file(store).write_bytes(data)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["weights"][0]["files"] = {only_file(store).name: sha256(data)}
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights.load("normnet", store)
    assert not witness.exists()


def test_weights_of_another_network_are_refused_with_an_example(store):
    entry, (state,) = weights.load("normnet", store)
    with pytest.raises(WeightsError, match=r"of another network: .* '0\.bias'"):
        weights.fill(nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4)), state, entry)


def test_weights_that_are_not_finite_are_refused_with_an_example(store):
    entry, (state,) = weights.load("normnet", store)
    state["1.running_var"][0] = torch.inf
    with pytest.raises(WeightsError, match=r"not finite, in 1 tensors, for example '1\.running_var'"):
        weights.fill(network(), state, entry)


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    state = {"0.weight": torch.tensor([1.0, torch.nan])}
    with pytest.raises(WeightsError, match=r"net\.safetensors: 0\.weight is not finite"):
        weights.store_entry(ENTRY, {"net.safetensors": state}, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("preset", [{"preset": "of next year"}, {}])
@pytest.mark.parametrize("method", [*REGISTRY, *PICTURES, "vae", "advent"])
def test_weights_of_a_preset_that_the_method_does_not_know_are_refused(tmp_path, monkeypatch, method, preset):
    made = replace(ENTRY, name=method, recipe={"threshold": 0.5, **preset})
    weights.store_entry(made, {"one.safetensors": network().state_dict()}, tmp_path)
    monkeypatch.setenv(stores.VARIABLE, str(tmp_path))
    with pytest.raises(WeightsError, match=rf"weights {method} 1\.2\.3 \(\w+\) are of the preset .*this version"):
        load(method)


def test_weights_that_the_user_installed_are_loaded_and_named_before_the_shipped_ones(store, tmp_path, monkeypatch):
    monkeypatch.setenv(stores.VARIABLE, str(tmp_path / "users"))
    stores.install(store)
    entry, (state,) = weights.load("normnet")
    assert entry.label.startswith("normnet 1.2.3 (")
    assert state["0.weight"].shape == (2, 1, 3, 3, 3)
