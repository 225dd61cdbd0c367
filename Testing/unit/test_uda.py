"""Domain adaptation on a whole scan: four classes, back on the scan's grid, and lungs that are compared."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib import picture_pipeline, pipeline, weights
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, LabelFreeCovidSegError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base, uda
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Scan
from LabelFreeCovidSegLib.store import Entry

PRESET = replace(uda.PRESETS["small"], canvas=(64, 96))
CPU = Compute("cpu", "float32")
SHAPE, SPACING_MM = (37, 60, 84), (2.5, 2.1, 2.1)
RIGHT, LEFT = np.s_[2:35, 12:50, 12:38], np.s_[2:35, 12:50, 46:72]
GLASS, SOLID, BESIDE = np.s_[8:20, 20:30, 16:30], np.s_[15:30, 20:32, 50:64], np.s_[5:30, 0:6, 30:50]
DENSITIES_HU = (-1000.0, -700.0, -300.0, 20.0)
"""Below each: air, lung, ground glass, consolidation; above the last, soft tissue."""


class Thresholds(torch.nn.Module):
    """Tells the classes by density alone, and remembers the extents that it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = set()

    def forward(self, slices):
        self.shown.add(tuple(slices.shape[2:]))
        steps = torch.from_numpy(uda.window(np.array(DENSITIES_HU)))
        label = torch.bucketize(slices[:, 0].double(), steps.double(), right=True) % 4
        return 20.0 * torch.nn.functional.one_hot(label, 4).movedim(3, 1).float()


def made_scan():
    hu = np.full(SHAPE, 60.0, np.float32)
    hu[RIGHT] = hu[LEFT] = -860
    hu[GLASS] = -500
    hu[SOLID] = hu[BESIDE] = -50
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection((1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96))
    return Scan.from_image(image, "made up")


def lung_mask(*boxes):
    labels = np.zeros(SHAPE, np.uint8)
    for side, box in enumerate(boxes, start=1):
        labels[box] = side
    return LungMask(labels, "made up")


def predict(lungs, network=None, progress=silent):
    return DomainAdaptation(network or Thresholds(), PRESET, "none").predict(made_scan(), lungs, CPU, progress)


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def box_mask(box):
    mask = np.zeros(SHAPE, bool)
    mask[box] = True
    return mask


def test_both_classes_come_back_on_the_grid_of_the_scan():
    found = predict(lung_mask(RIGHT, LEFT))
    assert found.classes.shape == found.lesion.shape == found.score.shape == SHAPE
    assert (found.classes.dtype, found.lesion.dtype, found.score.dtype) == (np.uint8, np.uint8, np.float32)
    assert dice(found.classes == 1, box_mask(GLASS)) > 0.85
    assert dice(found.classes == 2, box_mask(SOLID)) > 0.85
    for name, box in (("classes", GLASS), ("lesion", GLASS), ("score", SOLID)):
        inner = tuple(slice(axis.start + 2, axis.stop - 2) for axis in box)
        np.testing.assert_allclose(getattr(found, name)[inner], 1, atol=1e-6)
    np.testing.assert_array_equal(found.lesion, found.classes > 0)


def test_slices_are_not_mixed():
    found = predict(lung_mask(RIGHT, LEFT))
    hit = np.flatnonzero((found.classes == 2).sum(axis=(1, 2)) > 50)
    assert (hit.min(), hit.max()) == (SOLID[0].start, SOLID[0].stop - 1)


def test_nothing_is_marked_outside_the_lungs():
    found = predict(lung_mask(RIGHT))
    assert not found.classes[LEFT].any()
    assert not found.score[LEFT].any()
    assert not found.lesion[BESIDE].any()


class Constant(torch.nn.Module):
    """The same probabilities of background, lung, ground glass and consolidation everywhere."""

    def __init__(self, *probabilities):
        super().__init__()
        self.scores = torch.log(torch.tensor(probabilities))[None, :, None, None]

    def forward(self, slices):
        return self.scores.expand(len(slices), -1, *slices.shape[2:])


def test_in_the_lungs_background_that_is_not_sure_is_no_answer():
    found = predict(lung_mask(RIGHT, LEFT), Constant(0.6, 0.1, 0.05, 0.25))
    inner = np.s_[5:30, 16:46, 16:34]
    np.testing.assert_array_equal(found.classes[inner], 2)
    np.testing.assert_allclose(found.score[inner], 0.3 / 0.4, rtol=1e-4)
    (warning,) = found.warnings
    assert "Dice 0.00" in warning  # its own lungs are empty


def test_where_background_is_sure_nothing_is_marked():
    found = predict(lung_mask(RIGHT, LEFT), Constant(0.85, 0.0, 0.0, 0.15))
    assert not found.lesion.any()
    assert not found.score.any()


def test_lungs_that_agree_are_not_mentioned():
    own = box_mask(RIGHT) | box_mask(LEFT) | box_mask(BESIDE)
    lungs = LungMask(np.where(own, 1, 0).astype(np.uint8), "made up")
    assert predict(lungs).warnings == ()


def test_lungs_that_differ_are_a_warning_that_says_by_how_much():
    (warning,) = uda.disagreement(box_mask(LEFT), lung_mask(RIGHT), made_scan())
    size_ml = 33 * 38 * 26 * np.prod(SPACING_MM) / 1000
    assert "Dice 0.00" in warning
    assert warning.count(f"{size_ml:.0f} mL") == 2


def test_slices_are_padded_to_the_canvas_and_larger_ones_to_a_multiple_of_16():
    # Lungs with 20 mm around them, as far as the scan goes: 58 x 80 pixels of 2.1 mm, 82 x 112 of 1.5 mm.
    network = Thresholds()
    predict(lung_mask(RIGHT, LEFT), network)
    assert network.shown == {(96, 112)}
    slices = np.zeros((3, 40, 50), np.float32)
    found = uda.probabilities(network, slices, PRESET.canvas, CPU)
    assert network.shown == {(96, 112), (64, 96)}
    assert found.shape == (4, 3, 40, 50)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)


def test_the_window_reaches_from_air_to_bone():
    np.testing.assert_allclose(uda.window(np.array([-1024.0, -1000, -300, 400, 900])), [-1, -1, 0, 1, 1], atol=1e-6)


def test_a_person_may_cancel_between_slabs():
    def progress(fraction, phase):
        if fraction > 0.4:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        predict(lung_mask(RIGHT, LEFT), progress=progress)


# Equalised pictures


@pytest.mark.parametrize("preset", ["small", "small-clahe256"])
def test_weights_say_what_they_learned_from_and_are_only_used_on_that(preset, tmp_path, monkeypatch):
    entry = Entry(
        name="uda", version="1", files={}, recipe={"preset": preset}, scans=[], licence="", licence_confirmed=False,
        citation="", expects="",
    )  # fmt: skip
    weights.store_entry(entry, {"uda.safetensors": uda.build(uda.PRESETS[preset]).state_dict()}, tmp_path)
    model = uda.load(tmp_path)
    equalised = preset == "small-clahe256"
    assert model.card.domain == (base.CLAHE256 if equalised else base.HU)
    monkeypatch.setattr(base, "card", lambda name: uda.CARD)
    monkeypatch.setattr(base, "load", lambda name: model)
    assert picture_pipeline.load("uda", equalised) is model
    with pytest.raises(LabelFreeCovidSegError, match="were trained on"):
        picture_pipeline.load("uda", not equalised)
    lungs = LungMask(np.zeros(SHAPE, np.uint8), "none")
    if equalised:
        with pytest.raises(LabelFreeCovidSegError, match="not on Hounsfield units"):
            pipeline.segment(made_scan(), "uda", lungs, "cpu")
