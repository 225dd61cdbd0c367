"""What domain adaptation is compared with, from the training loop to a row that segments; and its supervised row."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib import phantom, weights
from LabelFreeCovidSegLib.errors import CancelledError, TrainingError
from LabelFreeCovidSegLib.evaluation import target_only
from LabelFreeCovidSegLib.methods import base, uda
from LabelFreeCovidSegLib.store import Entry
from LabelFreeCovidSegLib.training import loop, recipes, runs
from LabelFreeCovidSegLib.training.adaptation import intrada
from LabelFreeCovidSegLib.training.domains import Slices
from LabelFreeCovidSegLib.training.loop import CHECKPOINT, Settings
from LabelFreeCovidSegLib.training.scanlist import ListedScan

ADAPTING = ("minent", "advent", "intrada", "self-ensembling", "ssl")
CANVAS = (32, 32)
TINY = replace(
    uda.PRESETS["small"], spacing_mm=(6.0, 6.0, 6.0), canvas=CANVAS, channels=(2, 3, 4, 5), critic_width=2, batch=2,
    iterations=4,
)  # fmt: skip


def chest(healthy):
    hu = np.full((6, *CANVAS), 40, np.int16)
    hu[:, 6:26, 4:28] = -860
    return {"hu": hu, "labels": (hu < 0).astype(np.uint8)} if healthy else {"hu": hu}


def train(name, folder, progress=lambda *_: None, **settings):
    torch.manual_seed(0)
    trainee = recipes.recipe(name).trainee(TINY, [[chest(True)], [chest(False)]], [chest(True)])
    given = Settings(iterations=4, batch=2, every=1, device="cpu", choose=True)
    loop.fit(trainee, given, {"method": name}, folder, progress=progress, **settings)
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize("name", ADAPTING)
def test_a_run_that_was_cut_off_resumes_to_the_same_bytes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(intrada, "POOL", 6)

    def stop(fraction, phase):
        if phase.startswith("Iteration 3,"):
            raise CancelledError(phase)

    unbroken = train(name, tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        train(name, tmp_path / "cut", progress=stop)
    assert train(name, tmp_path / "cut", resume=True) == unbroken


@pytest.mark.parametrize("name", ADAPTING)
def test_what_ships_of_a_run_is_the_row_that_evaluate_loads(name, tmp_path, monkeypatch):
    monkeypatch.setattr(intrada, "POOL", 6)
    train(name, tmp_path / "run")
    recipe, module = recipes.recipe(name), base._module(name)
    monkeypatch.setattr(module, "PRESETS", {"tiny": TINY})
    state = runs.shipped(loop.read_checkpoint(tmp_path / "run" / CHECKPOINT), recipe.SHIPS)
    entry = Entry(name, "0.1", {}, {"preset": "tiny"}, [], "Apache-2.0", True, recipe.CITATION, recipe.EXPECTS)
    weights.store_entry(entry, {"0.safetensors": state}, tmp_path / "store")
    method = module.load(tmp_path / "store")
    assert (method.card.name, method.weights[: len(name)]) == (name, name)
    found = method.network(torch.zeros(1, 1, *CANVAS))
    assert found.shape == (1, 4, *CANVAS)
    assert found.isfinite().all()


# Target-only: supervised


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0), lesions=())
    path = tmp_path_factory.mktemp("scans") / "ct.nii.gz"
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), path)
    return ListedScan("chest", path, exclude=((20, 23),))


@pytest.fixture(scope="module")
def planted(listed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_only, "PLANTINGS", 2)
        return target_only.blocks(listed, replace(TINY, spacing_mm=(5.0, 3.0, 3.0)))


def test_planted_lesions_are_labelled_as_what_they_are(planted):
    healthy, glass, solid = (
        np.concatenate([block["hu"][block["labels"] == label] for block in planted])
        for label in (uda.LUNG, uda.GROUND_GLASS, uda.CONSOLIDATION)
    )
    assert np.median(healthy) < -800
    assert -700 < np.median(glass) < -350
    assert -150 < np.median(solid) < 60
    assert min(len(glass), len(solid)) > 100


def test_each_planting_puts_other_lesions_into_the_same_lungs(planted):
    first, second = planted[0], planted[2]  # the excluded slices cut each into two
    assert len(planted) == 4
    np.testing.assert_array_equal(first["labels"] > 0, second["labels"] > 0)
    assert ((first["labels"] > uda.LUNG) != (second["labels"] > uda.LUNG)).any()


def test_slices_are_learned_from_as_they_were_planted(planted):
    trainee = target_only.trainee(replace(TINY, canvas=(128, 160)), [planted], planted)
    slices = Slices.of([{"hu": np.full((1, 40, 40), -860, np.int16), "labels": np.ones((1, 40, 40), np.uint8)}])
    for seed in range(5):
        _, labels = trainee.labelled(slices, np.random.SeedSequence(seed))
        assert set(np.unique(labels)) == {uda.BACKGROUND, uda.LUNG}
    classes = {int(c) for n in range(8) for c in np.unique(trainee.sample(np.random.SeedSequence(n), 0.0)["labels"])}
    assert classes == {uda.BACKGROUND, uda.LUNG, uda.GROUND_GLASS, uda.CONSOLIDATION}


def test_patients_are_refused_by_the_supervised_row(listed):
    with pytest.raises(TrainingError, match="is of a patient"):
        target_only.blocks(replace(listed, covid=True), TINY)
