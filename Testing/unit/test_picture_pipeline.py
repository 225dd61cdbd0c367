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
    np.testing.assert_array_equal(lungs.certainty, np.concatenate([one.certainty for one in outlined]))
    np.testing.assert_array_equal(lungs.certainty > 0, lungs.labels > 0)
    assert np.median(lungs.certainty[lungs.labels > 0]) == pytest.approx(0.88, abs=0.01)
    assert lungs.certainty.min() == 0


def test_lungs_that_were_given_are_certain(chest):
    upright = Picture("a.png", chest.window(-1350, 150)).upright("LP")
    looker = Looker()
    picture_pipeline.outline([upright], looker, CPU, chest.lung[None])
    (lungs,) = looker.shown
    np.testing.assert_array_equal(lungs.certainty[0], chest.lung.astype(np.float32))
    assert lungs.source == "given"
