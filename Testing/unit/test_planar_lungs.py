"""Lungs in one picture without Hounsfield units, in both fields of view."""

import numpy as np
import pytest
from LabelFreeCovidSegLib.lungs import planar
from slice_pictures import belly, chest_slice, dice

WINDOWS = [(-1350, 150), (-1000, 400), (-1250, 250), (-1024, 1500)]


@pytest.mark.parametrize("window", WINDOWS)
def test_lungs_are_found_in_a_whole_slice_in_any_window(window):
    chest = chest_slice()
    assert dice(planar.find(chest.window(*window)), chest.lung) > 0.95


@pytest.mark.parametrize("window", WINDOWS)
def test_lungs_that_touch_the_sides_of_a_cropped_picture_are_found(window):
    chest = chest_slice().cropped()
    assert dice(planar.find(chest.window(*window)), chest.lung) > 0.95


def test_air_between_body_and_table_is_no_lung():
    chest = chest_slice()
    hu = chest.hu.copy()
    below = np.flatnonzero((hu > -200).any(axis=1))[-1] + 12
    hu[below : below + 3] = 0
    picture = type(chest)(hu, chest.lung, chest.lesion).window(-1350, 150)
    assert not planar.find(picture)[below - 10 :].any()


def test_consolidation_at_the_pleura_belongs_to_the_lung():
    ill, solid = chest_slice().consolidated(6)  # 18 mm wide
    assert (planar.find(ill.window(-1350, 150)) & solid).sum() > 0.6 * solid.sum()  # all but a sliver at the wall


def test_a_slice_of_the_belly_has_no_lungs():
    assert not planar.find(belly()).any()


def test_the_chest_wall_in_the_corners_of_a_cropped_picture_is_no_lung():
    chest = chest_slice().cropped()
    assert not planar.find(chest.window(-1350, 150))[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    beyond = planar.find(chest.window(-1350, 150)) & ~chest.lung
    assert beyond[:4].sum() + beyond[-4:].sum() < 30


def test_the_heart_between_lungs_that_touch_is_no_lung():
    j, i = np.ogrid[-128:128, -128:128]
    body = (j / 90) ** 2 + (i / 115) ** 2 <= 1
    lungs = ((j / 70) ** 2 + (i / 95) ** 2 <= 1) & ~((j / 40) ** 2 + (i / 30) ** 2 <= 1)
    vessel = (j - 20) ** 2 + (i - 60) ** 2 <= 25
    grey = np.where(body, 200.0, 0.0)
    grey[lungs] = 40
    grey[vessel] = 200
    found = planar.find(grey)
    assert not found[128, 128]
    assert found[vessel].all()
