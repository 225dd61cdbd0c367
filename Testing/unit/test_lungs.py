"""The classical lung finder on a chest built of ellipsoids, where every voxel's tissue is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.errors import CancelledError, LungError
from LabelFreeCovidSegLib.lungs import plausibility
from LabelFreeCovidSegLib.lungs.classical import find
from LabelFreeCovidSegLib.scan import Grid, Scan

MM = 3.0
SHAPE = (84, 88, 112)
AIR, GAS, LUNG, SOFT, CONSOLIDATION, BONE = -1000, -995, -850, 40, 35, 500


@dataclass(frozen=True)
class Chest:
    """A chest of (k, j, i) voxels of 3 mm, and the truth about it."""

    hu: np.ndarray
    right: np.ndarray
    left: np.ndarray
    airways: np.ndarray
    stomach: np.ndarray
    consolidation: np.ndarray

    @property
    def lungs(self) -> np.ndarray:
        return self.right | self.left

    def image(self) -> sitk.Image:
        image = sitk.GetImageFromArray(self.hu)
        image.SetSpacing((MM, MM, MM))
        image.SetOrigin((-160.0, -120.0, 30.0))
        return image


def ball(z, y, x, centre, radii):
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)) < 1


def tube(z, y, x, start, stop, radius):
    """A cylinder with round ends between two points (z, y, x)."""
    start, along = np.array(start, float), np.subtract(stop, start)
    point = np.stack(np.broadcast_arrays(z, y, x), axis=-1) - start
    share = np.clip(point @ along / (along @ along), 0, 1)
    return np.linalg.norm(point - share[..., None] * along, axis=-1) < radius


@cache
def chest() -> Chest:
    """Lungs that touch at the front, a trachea that divides, a consolidation at the ribs, stomach gas, a table."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    z, y, x = (z - 42) * MM, (y - 38) * MM, (x - 56) * MM
    hu = np.full(SHAPE, AIR, dtype=np.float32)
    hu[np.broadcast_to((x / 155) ** 2 + (y / 108) ** 2 < 1, SHAPE)] = SOFT
    hu[np.broadcast_to((np.abs(x) < 120) & (y > 120) & (y < 128), SHAPE)] = 100  # the table
    dome_top = 1 - (np.maximum(z, 0) / 110) ** 2  # the cage narrows towards the apex
    cage = (x / 130) ** 2 + (y / 86) ** 2 - dome_top
    hu[(cage > 0.06) & (cage < 0.3) & (z % 24 < 12)] = BONE
    hu[np.broadcast_to((np.abs(x) < 20) & (y > 55) & (y < 98), SHAPE)] = BONE

    diaphragm = (z < -85) | ball(z, y, x, (-85, 0, -65), (35, 65, 50)) | ball(z, y, x, (-85, 0, 65), (30, 65, 50))
    cavity = (cage < 0) & ~diaphragm
    septum = np.where(y < -62, 1, 28)
    right, left = cavity & (x < -septum), cavity & (x > septum)
    hu[right | left] = LUNG
    hu[cavity & (x == 0) & (y < -62)] = -500  # the anterior junction line, blurred by its thinness
    carina = (20, 10, 0)
    airways = tube(z, y, x, (140, 10, 0), carina, 9)
    walls = np.zeros(SHAPE, dtype=bool)
    for side in (-1, 1):
        hilum = (-5, 10, side * 40)
        walls |= tube(z, y, x, carina, hilum, 10)
        airways |= tube(z, y, x, carina, hilum, 6)
    hu[walls] = SOFT
    hu[airways] = GAS
    consolidation = right & ball(z, y, x, (-20, 56, -75), (36, 24, 30))
    hu[consolidation] = CONSOLIDATION
    hu[(right | left) & tube(z, y, x, (0, 20, 60), (20, -20, 100), 4)] = SOFT  # a vessel
    stomach = ball(z, y, x, (-85, -10, 65), (20, 45, 35))
    hu[stomach] = GAS
    hu += np.random.default_rng(0).normal(0, 20, SHAPE).astype(np.float32)
    inside = walls | airways
    return Chest(hu, right & ~inside, left & ~inside, airways, stomach, consolidation)


@cache
def found():
    return find(Scan.from_image(chest().image(), "chest.nrrd"))


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def test_both_lungs_are_found_each_on_its_side_although_they_touch():
    assert dice(found().labels == 1, chest().right) > 0.96
    assert dice(found().labels == 2, chest().left) > 0.96
    assert np.count_nonzero((found().labels == 2) & chest().right) < 0.005 * np.count_nonzero(chest().right)


def test_a_consolidation_at_the_ribs_is_inside():
    inside = (found().labels == 1)[chest().consolidation]
    assert inside.mean() > 0.9


def test_a_vessel_is_inside():
    vessel = chest().lungs & (chest().hu > -200) & ~chest().consolidation
    assert (found().labels > 0)[vessel].mean() > 0.9


def test_trachea_and_main_bronchi_are_outside():
    assert (found().labels > 0)[chest().airways].mean() < 0.05


def test_gas_in_the_stomach_is_outside():
    assert not found().labels[chest().stomach].any()


def test_nothing_outside_the_chest_is_lung():
    labels = found().labels > 0
    far = np.zeros(SHAPE, dtype=bool)
    far[:, :4], far[:, 72:], far[:, :, :8], far[:, :, -8:] = True, True, True, True
    assert not (labels & far).any()


def test_the_mask_is_repeated_bit_for_bit():
    again = find(Scan.from_image(chest().image(), "chest.nrrd"))
    np.testing.assert_array_equal(again.labels, found().labels)


@pytest.mark.parametrize("code", ["RAI", "ASL"])
def test_right_stays_right_however_the_file_is_turned(code):
    scan = Scan.from_image(sitk.DICOMOrient(chest().image(), code), "turned.nrrd")
    np.testing.assert_array_equal(find(scan).labels, found().labels)


def test_a_field_of_view_that_cuts_the_body_still_shows_both_lungs():
    image = sitk.RegionOfInterest(chest().image(), (96, 64, 84), (8, 6, 0))
    labels = find(Scan.from_image(image, "cropped.nrrd")).labels
    assert dice(labels == 1, chest().right[:, 6:70, 8:104]) > 0.96
    assert dice(labels == 2, chest().left[:, 6:70, 8:104]) > 0.96


def test_thick_slices_and_thin_pixels_give_the_same_lungs():
    image = sitk.Resample(
        chest().image(), (160, 126, 50), sitk.Transform(), sitk.sitkLinear, (-160.0, -120.0, 30.0), (2.1, 2.1, 5.0)
    )
    mask = find(Scan.from_image(image, "thick.nrrd"))
    volume_ml = np.count_nonzero(mask.labels) * 2.1 * 2.1 * 5.0 / 1000
    assert volume_ml == pytest.approx(np.count_nonzero(chest().lungs) * MM**3 / 1000, rel=0.04)


def test_a_scan_cut_through_the_lungs_is_warned_about():
    image = sitk.RegionOfInterest(chest().image(), (112, 88, 30), (0, 0, 25))
    warnings = find(Scan.from_image(image, "cut.nrrd")).warnings
    assert any("lowest slice" in text for text in warnings)
    assert any("highest slice" in text for text in warnings)


def test_a_healthy_mask_has_no_warnings():
    assert found().warnings == ()


def test_a_lung_full_of_fluid_leaves_the_other_one_and_a_warning():
    hu = np.where(chest().left, np.float32(5), chest().hu)
    image = sitk.GetImageFromArray(hu)
    image.CopyInformation(chest().image())
    mask = find(Scan.from_image(image, "one.nrrd"))
    assert dice(mask.labels == 1, chest().right) > 0.95
    assert any("left lung" in text for text in mask.warnings)


def test_the_last_air_of_a_lung_is_still_the_left_one():
    k = np.arange(SHAPE[0])[:, None, None]
    rest = chest().left & (k > 60)
    hu = np.where(chest().left & ~rest, np.float32(35), chest().hu)
    image = sitk.GetImageFromArray(hu)
    image.CopyInformation(chest().image())
    mask = find(Scan.from_image(image, "one.nrrd"))
    assert rest.sum() < 0.15 * chest().right.sum()
    assert dice(mask.labels == 1, chest().right) > 0.95
    assert (mask.labels == 2)[rest].mean() > 0.9
    assert not (mask.labels == 2)[chest().stomach].any()


@pytest.mark.parametrize("value", [40.0, -1000.0])
def test_a_scan_without_lungs_is_refused_by_its_name(value):
    image = sitk.GetImageFromArray(np.full((20, 40, 40), value, dtype=np.float32))
    image.SetSpacing((MM, MM, MM))
    with pytest.raises(LungError, match=r"abdomen\.nrrd: no lungs in view"):
        find(Scan.from_image(image, "abdomen.nrrd"))


def test_cancelling_passes_through():
    def progress(fraction, phase):
        if fraction > 0.1:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        find(Scan.from_image(chest().image(), "chest.nrrd"), progress=progress)


def labels_of(right_ml, left_ml):
    labels = np.zeros((5, 100, 200), dtype=np.uint8)
    for side, volume, start in ((1, right_ml, 0), (2, left_ml, 100)):
        block = np.zeros(3 * 100 * 100, dtype=np.uint8)
        block[:volume] = side
        labels[1:4, :, start : start + 100] = block.reshape(3, 100, 100)
    return labels


@pytest.mark.parametrize(
    ("right_ml", "left_ml", "said"),
    [
        (500, 400, ["only 900 mL"]),
        (6000, 5000, ["11000 mL, more than"]),
        (2000, 0, ["No left lung"]),
        (400, 2000, ["right lung measures 400 mL"]),
        (2000, 1700, []),
    ],
)
def test_implausible_volumes_are_said_in_words(right_ml, left_ml, said):
    grid = Grid((200, 100, 5), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    warnings = plausibility.warnings(labels_of(right_ml, left_ml), grid)
    assert len(warnings) == len(said)
    assert all(part in text for part, text in zip(said, warnings, strict=True))


def test_a_consolidation_on_the_heart_with_lung_around_it_is_inside():
    made = phantom.make(shape=(100, 128, 170), spacing_mm=(3.0, 2.0, 2.0))
    (retrocardiac,) = (
        lesion.label
        for lesion in made.planted
        if lesion.kind is phantom.SOLID and lesion.radius_mm == 16 and lesion.subpleural
    )
    found = find(made.scan).labels
    assert (found[made.instances == retrocardiac] > 0).mean() > 0.9
    for side in (1, 2):
        dice = 2 * ((found == side) & (made.lungs == side)).sum() / ((found == side).sum() + (made.lungs == side).sum())
        assert dice > 0.98
