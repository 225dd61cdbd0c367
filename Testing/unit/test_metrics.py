"""Metrics and statistics: by hand on a few voxels, and against MONAI and SimpleITK on random masks."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from LabelFreeCovidSegLib.evaluation import statistics
from LabelFreeCovidSegLib.evaluation.metrics import (
    Counts,
    Detection,
    SurfaceDistances,
    areas_under_curves,
    twelve_regions,
)
from LabelFreeCovidSegLib.scan import Grid, resample
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def cube(*voxels: int) -> np.ndarray:
    """2 x 2 x 2 voxels, those true that are named by their number."""
    mask = np.zeros(8, bool)
    mask[list(voxels)] = True
    return mask.reshape(2, 2, 2)


NONE, ALL = cube(), cube(*range(8))
masks = arrays.arrays(bool, (2, 3, 4))


# Overlap


def test_overlap_by_hand():
    counts = Counts.of(cube(0, 1, 2), cube(1, 2, 3, 4))
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (2, 1, 2, 3)
    assert counts.dsc == 4 / 7
    assert counts.psc == 2 / 3
    assert counts.sen == 2 / 4
    assert counts.spc == 3 / 4
    assert not counts.empty


def test_nothing_to_find_and_nothing_found_is_perfect_and_told_apart():
    counts = Counts.of(NONE, NONE)
    assert (counts.dsc, counts.psc, counts.sen, counts.spc) == (1, 1, 1, 1)
    assert counts.empty


def test_nothing_to_find_and_something_found():
    counts = Counts.of(cube(5), NONE)
    assert (counts.dsc, counts.psc, counts.spc) == (0, 0, 7 / 8)
    assert np.isnan(counts.sen)
    assert not counts.empty


def test_something_to_find_and_nothing_found_has_precision_0():
    counts = Counts.of(NONE, cube(5))
    assert (counts.dsc, counts.psc, counts.sen, counts.spc) == (0, 0, 0, 1)


def test_specificity_is_not_defined_where_all_is_lesion():
    assert np.isnan(Counts.of(ALL, ALL).spc)


def test_identical_masks_are_1_and_complements_0():
    truth = cube(0, 3, 6)
    same, opposite = Counts.of(truth, truth), Counts.of(~truth, truth)
    assert (same.dsc, same.psc, same.sen, same.spc) == (1, 1, 1, 1)
    assert (opposite.dsc, opposite.psc, opposite.sen, opposite.spc) == (0, 0, 0, 0)


@given(masks, masks, st.randoms(use_true_random=False))
def test_the_order_of_voxels_does_not_matter(found, truth, random):
    order = list(range(found.size))
    random.shuffle(order)
    assert Counts.of(found.ravel()[order], truth.ravel()[order]) == Counts.of(found, truth)


@given(masks, masks)
def test_dice_is_the_harmonic_mean_of_precision_and_sensitivity(found, truth):
    counts = Counts.of(found, truth)
    if counts.tp:
        assert counts.dsc == pytest.approx(2 / (1 / counts.psc + 1 / counts.sen))


def test_the_mean_dice_is_not_the_harmonic_mean_of_the_means():
    cases = [Counts(tp=1, fp=0, fn=3, tn=0), Counts(tp=1, fp=3, fn=0, tn=0)]
    dsc, psc, sen = (np.mean([getattr(case, name) for case in cases]) for name in ("dsc", "psc", "sen"))
    assert dsc == pytest.approx(0.4)
    assert 2 / (1 / psc + 1 / sen) == pytest.approx(0.625)


def test_a_ball_survives_the_way_to_a_paper_grid_and_back():
    grid = Grid((60, 60, 12), (0.7, 0.7, 5.0), (0.0, 0.0, 0.0), IDENTITY)
    k, j, i = np.ogrid[:12, :60, :60]
    ball = ((k - 5.5) * 5) ** 2 + ((j - 29.5) * 0.7) ** 2 + ((i - 29.5) * 0.7) ** 2 <= 10**2
    there = grid.covering((slice(0, 12), slice(0, 60), slice(0, 60)), (1.0, 0.8, 0.8))
    moved = resample(ball.astype(np.uint8), grid, there, nearest=True)
    back = resample(moved, there, grid, nearest=True) > 0
    assert Counts.of(back, ball).dsc > 0.9


# Score maps


def test_areas_under_curves_by_hand():
    # Ranked 0.9+ 0.7- 0.6+ 0.2-: 3 of 4 pairs are in order; precision at the two lesions is 1/1 and 2/3.
    auc, average_precision = areas_under_curves(np.array([0.9, 0.7, 0.6, 0.2]), np.array([True, False, True, False]))
    assert auc == pytest.approx(3 / 4)
    assert average_precision == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("label", [True, False])
def test_areas_are_not_defined_for_one_label(label):
    assert np.isnan(areas_under_curves(np.array([0.1, 0.9]), np.array([label, label]))).all()


# Surfaces


def test_surface_distances_by_hand():
    # Single voxels 2 slices of 5 mm apart, and one voxel that both have, 3 mm beside the true one.
    found, truth = np.zeros((3, 1, 3), bool), np.zeros((3, 1, 3), bool)
    found[0, 0, 0] = found[0, 0, 1] = truth[2, 0, 0] = True
    distances = SurfaceDistances.between(found, truth, (5.0, 1.0, 3.0))
    assert sorted(distances.found) == pytest.approx([10, np.hypot(10, 3)])
    assert list(distances.truth) == pytest.approx([10])
    assert distances.hd95_mm == pytest.approx(10 + 0.95 * (np.hypot(10, 3) - 10))
    assert distances.nsd(9.99) == 0
    assert distances.nsd(10.0) == pytest.approx(2 / 3)


def test_surfaces_of_nothing():
    nothing = SurfaceDistances.between(NONE, NONE, (1.0, 1.0, 1.0))
    assert nothing.nsd(3.0) == 1
    assert np.isnan(nothing.hd95_mm)
    missed = SurfaceDistances.between(NONE, cube(1), (1.0, 1.0, 1.0))
    assert missed.nsd(3.0) == 0
    assert np.isnan(missed.hd95_mm)


def blobs(seed: int) -> np.ndarray:
    """A random mask with coherent pieces, some of them at the border of the array."""
    noise = np.random.default_rng(seed).normal(size=(9, 14, 16)).astype(np.float32)
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 1.5)) > 0.02


def by_simpleitk(found: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
    """Distances of the contours of two masks to each other, by another way than ours."""
    contours = []
    for mask in (found, truth):
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contours.append(sitk.LabelContour(image))
    maps = [
        sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True))
        for contour in contours
    ]
    inside = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    return [np.abs(maps[1][inside[0]]), np.abs(maps[0][inside[1]])]


@pytest.mark.parametrize("seed", range(5))
def test_overlap_and_surfaces_agree_with_simpleitk(seed):
    found, truth, spacing = blobs(seed), blobs(100 + seed), (2.5, 0.8, 0.7)
    distances = SurfaceDistances.between(found, truth, spacing)
    theirs = by_simpleitk(found, truth, spacing)
    theirs_mm = max(np.percentile(one, 95) for one in theirs)
    assert distances.hd95_mm == pytest.approx(theirs_mm, rel=1e-6)  # float32 holds no more
    assert distances.nsd(1.0) == pytest.approx(np.mean(np.concatenate(theirs) <= 1.0), abs=1e-6)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (found, truth)))
    assert Counts.of(found, truth).dsc == pytest.approx(overlap.GetDiceCoefficient(1), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_and_surfaces_agree_with_monai(seed):
    found, truth, spacing = blobs(seed), blobs(100 + seed), (2.5, 0.75, 0.5)
    one, other = (torch.from_numpy(mask[None, None]).float() for mask in (found, truth))
    distances = SurfaceDistances.between(found, truth, spacing)
    hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    nsd = compute_surface_dice(one, other, [1.0], include_background=True, spacing=spacing)
    assert distances.hd95_mm == pytest.approx(hd95.item(), abs=1e-6)
    assert distances.nsd(1.0) == pytest.approx(nsd.item(), abs=1e-6)
    assert Counts.of(found, truth).dsc == pytest.approx(compute_dice(one, other).item(), abs=1e-6)


# Lesions one by one, and regions


def test_lesions_are_detected_one_by_one():
    truth, found = np.zeros((1, 5, 9), bool), np.zeros((1, 5, 9), bool)
    truth[0, 0:2, 0:2] = truth[0, 0:2, 4:6] = truth[0, 4, 8] = True
    found[0, 1, 1] = found[0, 3, 0] = found[0, 4, 4] = True  # one hit, two false marks
    assert Detection.of(found, truth) == Detection(lesions=3, detected=1, false=2)
    assert Detection.of(found, truth).sen == 1 / 3


def test_pieces_that_share_a_corner_are_one_lesion():
    assert Detection.of(NONE, cube(0, 7)) == Detection(lesions=1, detected=0, false=0)


def test_there_is_no_share_of_no_lesions():
    assert np.isnan(Detection.of(cube(1), NONE).sen)


def test_twelve_regions_cut_each_lung_in_three_by_two():
    lungs = np.zeros((6, 4, 5), np.uint8)
    lungs[:, :, :2], lungs[:3, :2, 3:] = 1, 2
    regions = twelve_regions(lungs)
    assert regions[:, :, 0].tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2 + [[5, 5, 6, 6]] * 2
    assert regions[:3, :2, 3].tolist() == [[7, 8], [9, 10], [11, 12]]
    assert not regions[lungs == 0].any()


# Statistics


def test_summary_by_hand():
    summary = statistics.summary([0.2, 0.4, float("nan"), 0.9])
    assert (summary.mean, summary.n) == (0.5, 3)
    assert summary.sd == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 3))  # ddof 0
    assert 0.2 <= summary.low < 0.5 < summary.high <= 0.9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_bootstrap_interval_contains_the_mean_and_repeats(values):
    summary = statistics.summary(values)
    assert summary.low - 1e-12 <= summary.mean <= summary.high + 1e-12
    assert statistics.summary(values) == summary


@pytest.mark.parametrize("values", [[], [float("nan")], [0.7]])
def test_no_interval_for_fewer_than_two_cases(values):
    summary = statistics.summary(values)
    assert np.isnan([summary.low, summary.high]).all()
    assert summary.n == sum(np.isfinite(values))


def test_the_normal_interval_is_that_of_chen():
    summary = statistics.normal_summary([0.2, 0.4, 0.6, 0.8])
    assert summary.high - summary.mean == pytest.approx(1.96 * np.sqrt(0.05) / 2)


def test_paired_test_by_hand():
    # All 6 differences have the same sign: two of 2**6 sign patterns are as extreme.
    ours = [0.5, 0.6, 0.7, 0.8, 0.9, 0.85, float("nan")]
    theirs = [0.4, 0.48, 0.55, 0.6, 0.67, 0.59, 0.1]
    difference = statistics.paired(ours, theirs)
    assert difference.p == pytest.approx(2 / 2**6)
    assert difference.mean == pytest.approx((0.1 + 0.12 + 0.15 + 0.2 + 0.23 + 0.26) / 6)
    assert difference.n == 6
    assert 0.1 < difference.low < difference.mean < difference.high < 0.26


def test_the_interval_of_a_difference_is_not_that_of_either_method():
    # The cases differ much, the methods always by the same.
    theirs = [0.1, 0.3, 0.5, 0.7, 0.9]
    difference = statistics.paired([one + 0.05 for one in theirs], theirs)
    assert (difference.low, difference.high) == pytest.approx((0.05, 0.05))
    for ours in (0.4, 0.3):
        single = statistics.paired([ours], [0.3])
        assert np.isnan([single.low, single.high]).all()


def test_equal_methods_do_not_differ():
    assert statistics.paired([0.1, 0.2], [0.1, 0.2]) == statistics.Difference(0.0, 0.0, 0.0, 1.0, 2)
