"""Two anchors give the window of a picture back, or it is said why not."""

import numpy as np
import pytest
from LabelFreeCovidSegLib import anchors
from LabelFreeCovidSegLib.errors import ScanError
from slice_pictures import chest_slice


def test_the_line_goes_through_both_anchors():
    line = anchors.Calibration("air", 60.0, -1000.0, 220.0, 40.0, 0.1)
    np.testing.assert_allclose(line.hu(np.array([60, 220, 140])), [-1000, 40, -480])
    assert line.window_hu == pytest.approx((-1390, 267.5))  # 6.5 HU a grey level


@pytest.mark.parametrize(
    ("window", "dark"), [((-1350, 150), "air"), ((-1250, 250), "air"), ((-900, 400), "lung"), ((-1024, 600), "air")]
)
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_the_window_of_a_whole_slice_comes_back(window, dark, gain):
    chest = chest_slice()
    picture = np.round(chest.window(*window) * gain)  # a picture that does not use all greys is as good
    found = anchors.calibrate(picture, chest.lung, "a.png")
    assert found.dark == dark
    inside = (chest.hu > -900) & (chest.hu < 100)
    assert np.abs(found.hu(picture) - chest.hu)[inside].mean() < 40
    assert not found.warnings


def test_a_cropped_slice_is_calibrated_by_its_lungs():
    chest = chest_slice().cropped()
    found = anchors.calibrate(chest.window(-1350, 150), chest.lung, "a.png")
    assert found.dark == "lung"
    assert found.window_hu == pytest.approx((-1350, 150), abs=60)


def test_what_fills_the_corners_is_not_taken_for_air():
    chest = chest_slice()
    outside = chest.hu < -940
    filled = np.where(outside & ~chest.lung, 64, chest.window(-1250, 250))  # by this air, lung would have -980 HU
    found = anchors.calibrate(filled, chest.lung, "a.png")
    assert found.dark == "lung"
    assert found.window_hu == pytest.approx((-1250, 250), abs=60)


def test_clipped_anchors_are_doubted():
    chest = chest_slice()
    doubts = anchors.calibrate(chest.window(-700, -100), chest.lung, "a.png").warnings
    assert len(doubts) == 2
    assert "Soft tissue is white" in doubts[0]
    assert "lungs are black" in doubts[1]


def test_lungs_cut_out_on_black_have_no_second_anchor():
    chest = chest_slice()
    with pytest.raises(ScanError, match=r"^a.png: no soft tissue is seen"):
        anchors.calibrate(np.where(chest.lung, chest.window(-1350, 150), 0), chest.lung, "a.png")


def test_a_window_that_nobody_uses_is_refused():
    chest = chest_slice()
    flat = chest.window(-1350, 150) // 4  # lung and tissue 35 grey levels apart: 900 HU of 6500
    with pytest.raises(ScanError, match="which nobody uses"):
        anchors.calibrate(flat, chest.lung, "a.png")


def test_pixels_are_as_large_as_lungs_and_scanners_allow():
    lungs = np.zeros((300, 400), bool)
    lungs[100:200, 50:315] = True
    assert anchors.pixel_mm(lungs) == pytest.approx(1.0)  # 265 columns are 265 mm, and 400 columns 400 mm
    lungs[:, 100:] = False
    assert anchors.pixel_mm(lungs) == pytest.approx(1.0)  # 50 columns would make the field 2 m wide
