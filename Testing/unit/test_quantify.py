"""Ground glass, consolidation and volumes, on blocks whose answer can be counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from LabelFreeCovidSegLib import quantify
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.quantify import CONSOLIDATION, GROUND_GLASS, Band
from LabelFreeCovidSegLib.scan import Grid, Scan
from scipy import ndimage

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
EVERY_PIECE = Band(island_ml=0.0)


def scan_of(hu: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Scan:
    grid = Grid(hu.shape[::-1], spacing_mm[::-1], (0.0, 0.0, 0.0), IDENTITY)
    return Scan(hu.astype(np.float32), grid, grid, "block")


@pytest.mark.parametrize(("density", "expected"), [(-300.0, CONSOLIDATION), (-300.1, GROUND_GLASS)])
def test_exactly_minus_300_hu_is_consolidation_and_a_tenth_less_is_not(density, expected):
    lesion = np.zeros((9, 9, 9), np.uint8)
    lesion[2:7, 2:7, 2:7] = 1
    classes = quantify.classify(scan_of(np.full(lesion.shape, density)), lesion)
    assert (classes == lesion * expected).all()


@pytest.mark.parametrize("between", [-1024.0, 1500.0])
def test_neither_air_nor_bone_beside_a_lesion_changes_it(between):
    lesion = np.zeros((8, 12, 12), np.uint8)
    lesion[1:3], lesion[5:7] = 1, 1  # two plates, and something else between them
    hu = np.where(lesion, np.where(np.arange(12) < 6, -600.0, 0.0), between)
    classes = quantify.classify(scan_of(hu), lesion)
    assert (classes[..., :6] == lesion[..., :6] * GROUND_GLASS).all()
    assert (classes[..., 6:] == lesion[..., 6:] * CONSOLIDATION).all()


def test_the_ct_is_smoothed_by_one_millimetre_and_not_by_one_voxel():
    # One voxel at 400 HU in a lesion of -500 HU. Smoothed by 1 mm, a voxel of 3 mm keeps 0.978^3 = 94 % of what it has
    # above its surroundings, one of 0.5 mm keeps 0.1995^3 = 0.8 %.
    lesion = np.ones((9, 9, 9), np.uint8)
    hu = np.full(lesion.shape, -500.0)
    hu[4, 4, 4] = 400.0
    coarse = quantify.classify(scan_of(hu, (3.0, 3.0, 3.0)), lesion, EVERY_PIECE)
    fine = quantify.classify(scan_of(hu, (0.5, 0.5, 0.5)), lesion, EVERY_PIECE)
    assert np.count_nonzero(coarse == CONSOLIDATION) == 1
    assert np.count_nonzero(fine == CONSOLIDATION) == 0


@pytest.mark.parametrize(("voxels", "stays"), [(24, False), (25, True), (26, True)])
@pytest.mark.parametrize(("inner", "outer"), [(0.0, -700.0), (-700.0, 0.0)])
def test_an_island_below_a_tenth_of_a_millilitre_joins_what_surrounds_it(voxels, stays, inner, outer):
    # A voxel of 4 x 1 x 1 mm is 0.004 mL, so 25 of them are 0.1 mL.
    spacing_mm = (4.0, 1.0, 1.0)
    lesion = np.ones((5, 5, 60), np.uint8)
    hu = np.full(lesion.shape, outer)
    hu[2, 2, 10 : 10 + voxels] = inner
    classes = quantify.classify(scan_of(hu, spacing_mm), lesion, Band(smoothing_mm=0.01))
    island = classes != (CONSOLIDATION if outer == 0.0 else GROUND_GLASS)
    assert np.count_nonzero(island) == (voxels if stays else 0)


def test_voxels_that_share_a_corner_are_one_island():
    lesion = np.ones((60, 60, 60), np.uint8)
    hu = np.full(lesion.shape, -700.0)
    diagonal = np.arange(5, 55)
    hu[diagonal, diagonal, diagonal] = 0.0  # 50 voxels of 0.008 mL: 0.4 mL together
    classes = quantify.classify(scan_of(hu, (2.0, 2.0, 2.0)), lesion, Band(smoothing_mm=0.01))
    assert np.count_nonzero(classes == CONSOLIDATION) == 50


def test_a_whole_lesion_keeps_its_class_however_small_it_is():
    lesion = np.zeros((9, 9, 20), np.uint8)
    lesion[4, 4, 3:6] = 1
    lesion[4, 4, 12:15] = 1
    hu = np.where(np.arange(20) < 9, -700.0, 0.0) * np.ones(lesion.shape)
    classes = quantify.classify(scan_of(hu), lesion)
    assert (classes[lesion > 0] == [GROUND_GLASS] * 3 + [CONSOLIDATION] * 3).all()


def test_no_lesion_gives_no_classes():
    assert not quantify.classify(scan_of(np.zeros((4, 4, 4))), np.zeros((4, 4, 4), np.uint8)).any()


@given(
    lesion=arrays.arrays(np.uint8, (6, 7, 8), elements=st.integers(0, 1)),
    dense=arrays.arrays(np.bool_, (6, 7, 8)),
    island_ml=st.sampled_from([0.0, 0.004, 0.01, 0.1]),
)
def test_the_classes_sum_to_the_lesion_and_no_island_is_left(lesion, dense, island_ml):
    band = Band(smoothing_mm=0.01, island_ml=island_ml)
    classes = quantify.classify(scan_of(np.where(dense, 0.0, -700.0)), lesion, band)
    assert ((classes > 0) == (lesion > 0)).all()
    assert classes.max(initial=0) <= CONSOLIDATION
    for own in (GROUND_GLASS, CONSOLIDATION):
        pieces, count = ndimage.label(classes == own, np.ones((3, 3, 3)))
        for piece in range(1, count + 1):
            around = ndimage.binary_dilation(pieces == piece, np.ones((3, 3, 3)))
            voxels = np.count_nonzero(pieces == piece)
            assert voxels * 0.001 >= island_ml - 1e-9 or not (around & (classes > 0) & (classes != own)).any()


def test_volumes_and_shares_are_those_counted_by_hand():
    lungs = np.zeros((2, 4, 10), np.uint8)
    lungs[:, :, :4], lungs[:, :, 5:] = 1, 2  # 32 and 40 voxels
    classes = np.zeros_like(lungs)
    classes[0, 0, :3] = GROUND_GLASS  # right
    classes[0, 1, 0] = CONSOLIDATION  # right
    classes[1, :, 9] = CONSOLIDATION  # left
    classes[0, 0, 4] = GROUND_GLASS  # between the lungs: counts nowhere
    both, right, left = quantify.measure(classes, LungMask(lungs, "given"), voxel_ml=0.5).regions
    assert [region.name for region in (both, right, left)] == ["both", "right", "left"]
    assert (right.lung_ml, right.ground_glass_ml, right.consolidation_ml, right.lesion_ml) == (16, 1.5, 0.5, 2)
    assert (left.lung_ml, left.ground_glass_ml, left.consolidation_ml, left.lesion_ml) == (20, 0, 2, 2)
    assert (both.lung_ml, both.ground_glass_ml, both.consolidation_ml, both.lesion_ml) == (36, 1.5, 2.5, 4)
    assert right.lesion_percent == 12.5
    assert left.lesion_percent == 10
    assert both.lesion_percent == pytest.approx(100 / 9)


def test_a_lung_that_is_not_there_has_no_share():
    lungs = LungMask(np.ones((2, 2, 2), np.uint8), "given")
    left = quantify.measure(np.ones((2, 2, 2), np.uint8), lungs, voxel_ml=1.0).regions[2]
    assert (left.lung_ml, left.lesion_percent) == (0, 0)


def test_the_band_that_was_used_goes_with_the_numbers():
    band = Band(consolidation_hu=-250.0)
    classes = np.zeros((2, 2, 2), np.uint8)
    assert quantify.measure(classes, LungMask(classes, "given"), 1.0, band).band is band
