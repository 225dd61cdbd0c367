"""Runs: which scans they see, what is exported of them, and leaving each scan out once."""

import json
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.training import loop, recipes, runs
from LabelFreeCovidSegLib.training.leave_one_out import leave_one_out
from LabelFreeCovidSegLib.training.normnet import NormNetTrainee
from LabelFreeCovidSegLib.training.prepare import Cache, CachedScan, open_cache
from LabelFreeCovidSegLib.training.runs import Machine, Plan

NAMES = ("anna", "bela", "carl", "dora")
MACHINE = Machine(every=2, device="cpu")


@dataclass(frozen=True)
class ToyPreset:
    name: str = "plain"
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    batch: int = 1
    iterations: int = 6


class ToyTrainee:
    """A weight that counts iterations, and is best at 4; it keeps the numbers of the scans that it was given."""

    made = ()

    def __init__(self, train, judge):
        ToyTrainee.made += (([int(blocks[0]["number"][0]) for blocks in train], [int(b["number"][0]) for b in judge]),)
        self.network = torch.nn.Linear(1, 1, bias=False)
        self.networks = {"network": self.network, "adversary": torch.nn.Linear(1, 1)}
        torch.nn.init.zeros_(self.network.weight)

    def optimizers(self):
        return {"network": torch.optim.SGD(self.network.parameters(), lr=1.0)}

    def learning_rates(self, share):
        return {"network": 1.0}

    def sample(self, seed, share):
        return {"one": np.ones(1, np.float32)}

    def step(self, batch, share, update):
        loss = -self.network(batch["one"]).mean()
        update("network", loss)
        return {"loss": loss}

    def validate(self):
        return -abs(self.network.weight.item() - 4)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """A method called "toy" that can be trained in no time."""
    module = ModuleType("toy")
    module.PRESETS = {"plain": ToyPreset()}
    module.CITATION, module.EXPECTS, module.SHIPS = "Nobody 2020.", "Nothing.", ("network",)
    module.trainee = lambda preset, train, judge: ToyTrainee(train, judge)
    module.calibrate = lambda preset, states, judge, progress: {"judged": [int(b["number"][0]) for b in judge]}
    monkeypatch.setitem(sys.modules, "toy", module)
    monkeypatch.setitem(recipes.REGISTRY, "toy", "toy")
    monkeypatch.setattr(recipes, "VOTING", ("toy",))
    monkeypatch.setattr(ToyTrainee, "made", ())


def write_cache(folder, method, spacing_mm, blocks):
    """A cache of `blocks`: name of the scan -> arrays."""
    folder.mkdir()
    for name, arrays in blocks.items():
        np.savez_compressed(folder / f"{name}-0.npz", **arrays)
    rows = [{"name": name, "collection": "C", "licence": "CC0", "blocks": [f"{name}-0.npz"]} for name in blocks]
    (folder / "cache.json").write_text(json.dumps({"method": method, "spacing_mm": spacing_mm, "scans": rows}))
    return open_cache(folder, method)


@pytest.fixture
def cache(tmp_path):
    blocks = {name: {"number": np.array([number])} for number, name in enumerate(NAMES)}
    return write_cache(tmp_path / "cache", "toy", ToyPreset.spacing_mm, blocks)


def weight(path):
    return loop.read_checkpoint(path).below("network")["weight"].item()


def test_a_plan_keeps_the_numbers_that_it_is_given_and_takes_the_others_from_the_preset():
    plans = [Plan.of("toy"), Plan.of("toy", iterations=0), Plan.of("toy", batch=3)]
    assert [(plan.preset.batch, plan.preset.iterations) for plan in plans] == [(1, 6), (1, 0), (3, 6)]


def test_what_is_held_out_judges_and_what_is_left_out_is_not_even_given(cache, tmp_path):
    path = runs.train(Plan.of("toy", hold_out="bela", without=("dora",)), cache, tmp_path / "run", MACHINE)
    assert ToyTrainee.made == (([0, 2], [1]),)
    assert weight(path) == 4
    recipe = loop.read_checkpoint(path).recipe
    assert (recipe["scans"], recipe["hold_out"], recipe["without"]) == (["anna", "carl"], "bela", ["dora"])


def test_a_poisoned_scan_never_appears_in_what_normnet_learns_from(tmp_path, monkeypatch):
    tiny = replace(normnet.PRESETS["small"], spacing_mm=(4.0, 3.0, 3.0), crop=(16, 32, 32), channels=(4, 8, 8))
    lung = np.zeros((20, 40, 40), np.uint8)
    lung[4:-4, 8:-8, 8:-8] = 1
    blocks = {name: {"hu": np.full(lung.shape, -850.0, np.float32), "lung": lung} for name in NAMES}
    for name in ("bela", "dora"):
        blocks[name]["hu"][:] = np.nan
    cache = write_cache(tmp_path / "healthy", "normnet", tiny.spacing_mm, blocks)
    monkeypatch.setattr(loop, "fit", lambda trainee, *_: trainee)

    def poisoned(**left_out):
        trainee: NormNetTrainee = runs.train(Plan("normnet", tiny, **left_out), cache, tmp_path)
        samples = [trainee.sample(np.random.SeedSequence(seed), 0.0) for seed in range(24)]
        return sum(not np.isfinite(sample["image"]).all() for sample in samples)

    assert poisoned() > 0
    assert poisoned(without=("bela",)) > 0
    assert poisoned(without=("bela", "dora")) == 0
    assert poisoned(without=("bela",), hold_out="dora") == 0


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"without": ("emil",)}, "there is no scan 'emil'. There are: anna, bela, carl, dora"),
        ({"hold_out": "emil"}, "there is no scan 'emil'"),
        ({"without": NAMES}, "no scan is left to train on"),
        ({"without": NAMES[1:], "hold_out": "anna"}, "no scan is left to train on"),
        ({"without": ("anna",), "hold_out": "anna"}, "'anna' is left out and can't choose the checkpoint"),
    ],
)
def test_scans_that_can_t_be_left_out_are_answered_with_the_reason(cache, tmp_path, plan, message):
    with pytest.raises(TrainingError, match=message):
        runs.train(Plan.of("toy", **plan), cache, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cache_of_another_grid_is_refused_with_the_command_that_helps(cache, tmp_path):
    plan = Plan("toy", replace(ToyPreset(), spacing_mm=(1.0, 1.0, 1.0)))
    with pytest.raises(TrainingError, match="Run `train prepare toy --preset plain`"):
        runs.train(plan, cache, tmp_path / "run")


def test_a_cache_of_another_kind_of_slices_is_refused_too(tmp_path):
    small, equalised = (recipes.preset("uda", name) for name in ("small", "small-clahe256"))
    cropped = write_cache(tmp_path / "cache", "uda", small.spacing_mm, {"anna": {"hu": np.zeros((1, 1, 1))}})
    with pytest.raises(TrainingError, match=r"for hu, but .* on clahe256. Run `train prepare uda --preset small-clahe"):
        runs.train(Plan("uda", equalised), cropped, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"for clahe256, but preset 'small' .* on hu"):
        runs.train(Plan("uda", small), replace(cropped, domain="clahe256"), tmp_path / "run")


def test_the_manifest_of_weights_for_equalised_pictures_expects_such(cache, tmp_path, monkeypatch):
    equalised = replace(ToyPreset(), name="equal")
    object.__setattr__(equalised, "domain", "clahe256")
    monkeypatch.setitem(sys.modules["toy"].PRESETS, "equal", equalised)
    folder = tmp_path / "run"
    runs.train(Plan("toy", equalised), replace(cache, domain="clahe256"), folder, MACHINE)
    assert "equalised place by place" in runs.export([folder], cache.folder, tmp_path / "store", "1").expects


def trained(cache, folder, **plan):
    runs.train(Plan.of("toy", **plan), cache, folder, MACHINE)
    return folder


def test_the_best_networks_are_exported_with_all_that_they_were_trained_with(cache, tmp_path):
    left = {"hold_out": "bela", "without": ("dora",)}
    folders = [trained(cache, tmp_path / f"run{seed}", seed=seed, **left) for seed in (0, 3)]
    entry = runs.export(folders, cache.folder, tmp_path / "store", "2.0")
    assert [name.rsplit("-", 1)[0] for name in entry.files] == ["toy-plain-0", "toy-plain-3"]
    assert entry.recipe == {
        "preset": "plain", "iterations": 6, "batch": 1, "precision": "float32",
        "hold_out": "bela", "without": ["dora"], "presets": ["plain", "plain"], "seeds": [0, 3],
        "judged": [1],
    }  # fmt: skip
    assert [scan["name"] for scan in entry.scans] == ["anna", "carl"]
    read, states = weights.load("toy", tmp_path / "store")
    assert read == entry
    assert [state["weight"].item() for state in states] == [4, 4]


def test_the_last_network_is_exported_where_none_was_chosen(cache, tmp_path):
    runs.export([trained(cache, tmp_path / "run")], cache.folder, tmp_path / "store", "1")
    assert weights.load("toy", tmp_path / "store")[1][0]["weight"].item() == 6


def test_networks_that_a_scan_does_not_need_stay_behind_and_several_keep_their_names(cache, tmp_path, monkeypatch):
    folder = trained(cache, tmp_path / "run")
    assert set(loop.read_checkpoint(folder / "checkpoint.safetensors").below("adversary")) == {"weight", "bias"}
    runs.export([folder], cache.folder, tmp_path / "one", "1")
    assert set(weights.load("toy", tmp_path / "one")[1][0]) == {"weight"}
    monkeypatch.setattr(sys.modules["toy"], "SHIPS", ("network", "adversary", "of another preset"))
    runs.export([folder], cache.folder, tmp_path / "two", "1")
    assert set(weights.load("toy", tmp_path / "two")[1][0]) == {"network.weight", "adversary.weight", "adversary.bias"}


@pytest.mark.parametrize(
    ("licences", "wanted"),
    [
        (("CC BY 3.0", "CC0"), "Apache-2.0"),
        (("CC BY 3.0", "CC BY-NC 4.0", "CC BY-NC 4.0"), "CC BY-NC 4.0"),
        (("CC BY-NC-SA 4.0", "CC BY-NC 3.0"), "CC BY-NC 3.0 and CC BY-NC-SA 4.0"),
        (("FUNCTIONAL", ""), "Apache-2.0"),
        (("CC0", "Non-commercial use only"), "Non-commercial use only"),
        (("cc-by-nc 4.0",), "cc-by-nc 4.0"),
    ],
)
def test_non_commercial_scans_make_non_commercial_weights(licences, wanted):
    assert runs.licence([CachedScan(name, "", name, ()) for name in licences]) == wanted


def test_the_licence_of_the_weights_is_in_the_manifest(cache, tmp_path):
    index = tmp_path / "cache" / "cache.json"
    rows = json.loads(index.read_text())
    rows["scans"][3] |= {"licence": "CC BY-NC 4.0", "covid": True}
    index.write_text(json.dumps(rows))
    for left_out, wanted in (((), "CC BY-NC 4.0"), (("dora",), "Apache-2.0")):
        folder = trained(open_cache(cache.folder, "toy"), tmp_path / f"run{len(left_out)}", without=left_out)
        entry = runs.export([folder], cache.folder, tmp_path / "store", "1")
        assert entry.licence == wanted
        assert [scan["covid"] for scan in entry.scans] == [False, False, False, True][: 4 - len(left_out)]


def test_networks_that_learned_from_other_paint_vote_together_others_do_not(cache, tmp_path, monkeypatch):
    presets = sys.modules["toy"].PRESETS
    monkeypatch.setitem(presets, "painted", replace(presets["plain"], name="painted"))
    plain, painted = (trained(cache, tmp_path / name, preset=name) for name in ("plain", "painted"))
    entry = runs.export([plain, painted], cache.folder, tmp_path / "store", "1")
    assert [name.rsplit("-", 1)[0] for name in entry.files] == ["toy-plain-0", "toy-painted-0"]
    assert entry.recipe["presets"] == ["plain", "painted"]
    monkeypatch.setitem(presets, "painted", replace(presets["plain"], name="painted", spacing_mm=(3, 3, 3)))
    with pytest.raises(TrainingError, match="differs in preset"):
        runs.export([plain, painted], cache.folder, tmp_path / "store", "2")


def test_runs_that_do_not_belong_together_are_not_exported(cache, tmp_path):
    one, other, again = (
        trained(cache, tmp_path / name, **plan)
        for name, plan in {"one": {}, "other": {"seed": 1, "without": ("anna",)}, "again": {}}.items()
    )
    for folders, message in (([one, other], "differs in scans, without"), ([one, again], "the same seed: 0, 0")):
        with pytest.raises(TrainingError, match=message):
            runs.export(folders, cache.folder, tmp_path / "store", "1")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        runs.export([tmp_path / "nothing"], cache.folder, tmp_path / "store", "1")
    assert not (tmp_path / "store").exists()


def test_of_a_method_that_does_not_vote_one_run_is_exported(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "VOTING", ())
    folders = [trained(cache, tmp_path / f"run{seed}", seed=seed) for seed in (0, 3)]
    with pytest.raises(TrainingError, match=r"Networks of toy do not vote, and 2 runs were given\. Give one\."):
        runs.export(folders, cache.folder, tmp_path / "store", "1")
    runs.export(folders[1:], cache.folder, tmp_path / "store", "1")
    with pytest.raises(TrainingError, match="Networks of toy do not vote"):
        leave_one_out(Plan.of("toy"), cache, FOLDS, [0, 7], tmp_path / "out", MACHINE)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_cut_off_is_not_exported(cache, tmp_path):
    with pytest.raises(CancelledError):
        runs.train(Plan.of("toy"), cache, tmp_path / "run", MACHINE, progress=stop_at("Iteration 5"))
    with pytest.raises(TrainingError, match="stopped at iteration 4 of 6"):
        runs.export([tmp_path / "run"], cache.folder, tmp_path / "store", "1")


def stop_at(phase, times=1):
    """Progress that cancels when it hears `phase` for the n-th time."""
    heard = []

    def progress(fraction, now):
        heard.extend([now] if now.startswith(phase) else [])
        if len(heard) == times:
            raise CancelledError(now)

    return progress


FOLDS = [("anna",), ("carl", "dora")]


def every_fold(cache, folder, **more):
    return leave_one_out(Plan.of("toy", hold_out="bela"), cache, FOLDS, [0, 7], folder, MACHINE, **more)


def test_each_fold_gets_a_store_of_networks_that_never_saw_it(cache, tmp_path):
    stores = every_fold(cache, tmp_path / "out")
    assert stores == [tmp_path / "out" / "anna" / "models", tmp_path / "out" / "carl+dora" / "models"]
    assert ToyTrainee.made == (([2, 3], [1]), ([2, 3], [1]), ([0], [1]), ([0], [1]))
    for store, fold in zip(stores, FOLDS, strict=True):
        entry, states = weights.load("toy", store)
        assert tuple(entry.recipe["without"]) == fold
        assert not {scan["name"] for scan in entry.scans} & {*fold, "bela"}
        assert entry.recipe["seeds"] == [0, 7]
        assert len(states) == 2


def test_complete_runs_are_skipped_and_a_run_that_was_cut_off_goes_on(cache, tmp_path):
    with pytest.raises(CancelledError):
        every_fold(cache, tmp_path / "out", progress=stop_at("Iteration 5", times=3))
    assert len(ToyTrainee.made) == 3
    files = sorted((tmp_path / "out").rglob("checkpoint.safetensors"))
    assert [loop.read_checkpoint(file).iteration for file in files] == [6, 6, 4]
    before = [file.stat().st_mtime_ns for file in files]
    phases = []
    every_fold(cache, tmp_path / "out", progress=lambda fraction, phase: phases.append(phase.split(",")[0]))
    assert [file.stat().st_mtime_ns for file in files][:2] == before[:2]
    assert len(ToyTrainee.made) == 3 + 2
    assert phases[:3] == ["Going on after iteration 4", "Iteration 5", "Iteration 6"]
    assert phases[3:] == ["Starting", *(f"Iteration {n}" for n in range(1, 7))]
    again = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.safetensors")}
    every_fold(cache, tmp_path / "unbroken")
    assert again == {tmp_path / "out" / p.relative_to(tmp_path / "unbroken"): p.read_bytes()
                     for p in (tmp_path / "unbroken").rglob("*.safetensors")}  # fmt: skip


def test_a_fault_in_the_last_fold_is_told_before_the_first_is_trained(cache, tmp_path):
    with pytest.raises(TrainingError, match="there is no scan 'emil'"):
        leave_one_out(Plan.of("toy"), cache, [("anna",), ("emil",)], [0], tmp_path / "out", MACHINE)
    with pytest.raises(TrainingError, match="A seed is there twice in 3, 0, 3"):
        leave_one_out(Plan.of("toy"), cache, [("anna",)], [3, 0, 3], tmp_path / "out", MACHINE)
    assert not ToyTrainee.made


def test_runs_of_another_recipe_are_not_gone_on_with(cache, tmp_path):
    every_fold(cache, tmp_path / "out")
    with pytest.raises(TrainingError, match="differs in hold_out"):
        leave_one_out(Plan.of("toy"), cache, FOLDS, [0], tmp_path / "out", MACHINE)


def test_the_cache_names_what_is_left():
    scans = tuple(CachedScan(name, "", "", ()) for name in NAMES)
    assert Cache(None, "toy", (1, 1, 1), scans).without(["bela"]) == ["anna", "carl", "dora"]
