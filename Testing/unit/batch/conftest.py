"""Fixtures of the tests of batches."""

import types
from pathlib import Path

import pytest
from batches import StandIn, write_ct
from LabelFreeCovidSegLib import device, pipeline, report
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.methods import base


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(report, "render", lambda result: "a report")  # pictures take longer than all the rest
    monkeypatch.setattr(pipeline, "segment", stand_in)
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute())
    monkeypatch.setattr(base, "load", lambda name: types.SimpleNamespace(weights="toy 1"))
    return stand_in


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder with two scans."""
    write_ct(tmp_path / "scans" / "a.nii.gz")
    write_ct(tmp_path / "scans" / "deep" / "b.nrrd")
    return tmp_path / "scans"
