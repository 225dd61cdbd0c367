"""Fixtures of the tests of `evaluate`."""

import types
from pathlib import Path

import numpy as np
import pytest
from evaluating import CARDS, StandIn, write
from LabelFreeCovidSegLib import device, pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.methods import base
from reading import chest

LESION = np.s_[5:10, 15:21, 15:19]


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(pipeline, "segment", stand_in)
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute())
    monkeypatch.setattr(base, "card", lambda name: CARDS[name])
    monkeypatch.setattr(base, "load", lambda name: types.SimpleNamespace(weights="toy 1", card=CARDS[name]))
    return stand_in


@pytest.fixture
def data(tmp_path) -> Path:
    """Three chests: one lesion is found, half of one, and one that is too faint for "taught"."""
    folder = tmp_path / "chests"
    for name, hu, drawn in (("a", -300, LESION), ("b", -300, np.s_[5:10, 15:21, 15:23]), ("c", -500, LESION)):
        ct, lesions = chest(), np.zeros(chest().shape, np.uint8)
        ct[LESION], lesions[drawn] = hu, 1
        write(folder / "ct" / f"{name}.nii.gz", ct)
        write(folder / "lesions" / f"{name}.nii.gz", lesions)
    return folder
