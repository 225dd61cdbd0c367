"""What a method is shown of pictures: a stack of slices with their lungs, and how certain these are."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import picture_pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import picturenet
from LabelFreeCovidSegLib.methods.base import Prediction
from LabelFreeCovidSegLib.methods.opacitynet2d import CARD
from LabelFreeCovidSegLib.pictures import Picture
from slice_pictures import chest_slice
from torch import nn

CPU = Compute("cpu", "float32")


@dataclass
class Looker:
    """A stand-in method that finds nothing and keeps the lungs that it was shown."""

    card = CARD
    weights = "none"
    shown: list = field(default_factory=list)

    def predict(self, scan, lungs, compute, progress):
        self.shown.append(lungs)
        return Prediction(np.zeros(scan.hu.shape, np.uint8), np.zeros(scan.hu.shape, np.float32))


class LikesDarkness(nn.Module):
    """A stand-in network for which what is dark is lung with 0.88, and what is bright with 0.12."""

    def forward(self, pictures):
        return torch.where(pictures[:, :1] < 0.5, 2.0, -2.0)


@pytest.fixture
def chest(monkeypatch):
    monkeypatch.setattr(picturenet, "load", lambda store=None: (LikesDarkness(),))
    return chest_slice()


def test_a_method_is_told_how_certain_the_lungs_are_that_were_found(chest):
    upright = Picture("a.png", chest.window(-1350, 150)).upright("LP")
    looker = Looker()
    outlined, _ = picture_pipeline.outline([upright, upright], looker, CPU)
    (lungs,) = looker.shown
    np.testing.assert_allclose(lungs.certainty, np.concatenate([one.certainty for one in outlined]), atol=1e-6)
    np.testing.assert_array_equal(lungs.certainty > 0, lungs.labels > 0)
    assert np.median(lungs.certainty[lungs.labels > 0]) == pytest.approx(0.88, abs=0.01)
    assert lungs.certainty.min() == 0


def test_neighbours_have_a_say_in_how_certain_lung_is_but_not_in_lungs_that_were_given(chest, monkeypatch):
    upright = Picture("a.png", chest.window(-1350, 150)).upright("LP")
    lungs = [chest.lung.astype(np.float32) * share for share in (0.8, 0.4, 0.8)]
    lungs[1][:, :128] = 0  # one lung is not seen in the middle slice
    answers = iter(lungs)
    monkeypatch.setattr(picture_pipeline, "find_in_picture", lambda grey: (next(answers), ()))
    looker = Looker()
    outlined, _ = picture_pipeline.outline([upright] * 3, looker, CPU)
    right = chest.lung & (np.arange(chest.lung.shape[1]) < 128)
    left = chest.lung & ~right
    assert right.any()
    told = looker.shown[0].certainty
    for k, (seen_right, seen_left) in enumerate(((0.6, 0.7), (0.0, 0.6), (0.6, 0.7))):
        np.testing.assert_allclose(told[k][right], seen_right, atol=1e-6)
        np.testing.assert_allclose(told[k][left], seen_left, atol=1e-6)
    np.testing.assert_array_equal(outlined[1].certainty[0], lungs[1])
    picture_pipeline.outline([upright] * 3, looker, CPU, np.stack([mask > 0 for mask in lungs]))
    np.testing.assert_array_equal(looker.shown[1].certainty, np.stack([mask > 0 for mask in lungs]))


def test_lungs_that_were_given_are_certain(chest):
    upright = Picture("a.png", chest.window(-1350, 150)).upright("LP")
    looker = Looker()
    picture_pipeline.outline([upright], looker, CPU, chest.lung[None])
    (lungs,) = looker.shown
    np.testing.assert_array_equal(lungs.certainty[0], chest.lung.astype(np.float32))
    assert lungs.source == "given"
