"""The HU threshold: the baseline that needs no weights."""

import numpy as np
import pytest
from LabelFreeCovidSegLib import cli
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Grid, Scan

GRID = Grid((4, 2, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
HU = np.array([[[-900.0, -501.0, -500.0, 300.0], [-900.0, -501.0, -500.0, 300.0]]], np.float32)


def test_it_marks_lung_from_500_hu_below_water_on():
    lungs = LungMask(np.array([[[1, 1, 2, 2], [0, 0, 0, 0]]], np.uint8), "given")
    prediction = base.load("threshold").predict(Scan(HU, GRID, GRID, "chest"), lungs, Compute(), silent)
    assert prediction.lesion.tolist() == [[[0, 0, 1, 1], [0, 0, 0, 0]]]
    assert prediction.score[0, 0] == pytest.approx([0, 299 / 900, 1 / 3, 1])
    assert not prediction.score[0, 1].any()


def test_it_is_no_method_to_segment_with(capsys):
    with pytest.raises(SystemExit):
        cli.main(["segment", "ct.nii.gz", "--method", "threshold"])
    assert "'threshold' is what `evaluate` compares methods with" in capsys.readouterr().err
