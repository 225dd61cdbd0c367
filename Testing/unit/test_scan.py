"""The grid a scan lies on: every orientation in, LPS inside, the same voxels and the same places out."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from LabelFreeCovidSegLib.scan import Grid, Scan, bounding_box, resample, windowed

SPACING = (0.7, 0.8, 2.5)
ORIGIN = (10.0, -20.0, 33.0)
AXIS_ALIGNED = [
    np.array([np.eye(3)[axis] * sign for axis, sign in zip(axes, signs, strict=True)]).T
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def image_of(array: np.ndarray, direction: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(np.ravel(direction))
    return image


def asymmetric() -> np.ndarray:
    return np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


def positions(grid: Grid, array: np.ndarray) -> dict[float, tuple[float, ...]]:
    """Where in the patient each of a few values of `array` lies."""
    image = grid.image(array)
    found = {}
    for value in (0.0, 6.0, 35.0, 100.0, 209.0):
        k, j, i = (int(index) for index in np.argwhere(array == value)[0])
        found[value] = image.TransformIndexToPhysicalPoint((i, j, k))
    return found


def assert_same_places(image: sitk.Image) -> None:
    array = sitk.GetArrayFromImage(image)
    scan = Scan.from_image(image, "marker")
    before, after = positions(Grid.of(image), array), positions(scan.grid, scan.hu)
    for value, place in before.items():
        assert np.abs(np.subtract(place, after[value])).max() < 1e-6
    back = scan.native_image(scan.hu)
    assert np.array_equal(sitk.GetArrayFromImage(back), array)
    assert Grid.of(back).origin == scan.native.origin
    assert Grid.of(back).direction == scan.native.direction
    assert np.allclose(back.GetSpacing(), image.GetSpacing(), rtol=0, atol=1e-12)
    assert np.array_equal(scan.oriented(back), scan.hu)


def test_there_are_48_orientations():
    assert len({tuple(direction.ravel()) for direction in AXIS_ALIGNED}) == 48


@pytest.mark.parametrize("direction", AXIS_ALIGNED, ids=lambda d: "".join(map(str, d.astype(int).ravel())))
def test_every_orientation_becomes_lps_and_returns_to_itself(direction):
    image = image_of(asymmetric(), direction)
    assert_same_places(image)
    inside = Scan.from_image(image, "marker").grid
    assert np.allclose(np.reshape(inside.direction, (3, 3)), np.eye(3))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_oblique_and_left_handed_grids_return_to_themselves(seed):
    direction, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    assert_same_places(image_of(asymmetric(), direction))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_grid_turned_by_exactly_45_degrees_returns_to_itself(axis):
    direction = np.eye(3)
    first, second = (a for a in range(3) if a != axis)
    direction[first, first] = direction[second, second] = np.sqrt(0.5)
    direction[first, second], direction[second, first] = -np.sqrt(0.5), np.sqrt(0.5)
    assert_same_places(image_of(asymmetric(), direction))


def test_the_patients_left_lies_at_large_i_the_back_at_large_j_the_head_at_large_k():
    array = np.zeros((5, 6, 7), np.float32)
    array[4, 5, 6] = 1
    ras = np.diag([-1.0, -1.0, 1.0])
    flipped = Scan.from_image(image_of(array, ras), "marker").hu
    assert np.argwhere(flipped == 1).tolist() == [[4, 0, 0]]


def test_what_lies_outside_the_scan_circle_is_air():
    array = np.full((2, 3, 4), 40, np.int16)
    array[0, 0] = [-3024, -2048, -2000, -1024]
    hu = Scan.from_image(image_of(array, np.eye(3)), "circle").hu
    assert hu.dtype == np.float32
    assert hu[0, 0].tolist() == [-1024] * 4
    assert (hu[0, 1:] == 40).all()


def test_grid_terms_are_given_in_array_order():
    grid = Grid((7, 6, 5), SPACING, ORIGIN, tuple(np.eye(3).ravel()))
    assert grid.shape == (5, 6, 7)
    assert grid.spacing_mm == (2.5, 0.8, 0.7)
    assert grid.voxel_ml == pytest.approx(0.0014)


def test_a_covering_grid_starts_and_ends_at_the_faces_of_its_box():
    grid = Grid((40, 30, 20), (1.0, 1.0, 3.0), ORIGIN, tuple(np.eye(3).ravel()))
    box = (slice(2, 6), slice(5, 15), slice(10, 22))
    coarse = grid.covering(box, (2.0, 2.0, 2.0))
    assert coarse.size == (6, 5, 6)
    # The face before voxel 10 along x lies at 10 + 10 - 0.5 mm; the first coarse voxel is centred 1 mm behind it.
    assert coarse.origin == pytest.approx((20.5, -14.5, 38.5))
    assert coarse.direction == grid.direction


@given(
    direction=st.sampled_from(AXIS_ALIGNED),
    lower=st.tuples(*[st.integers(0, 5)] * 3),
    length=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
)
@settings(deadline=None)
def test_a_covering_grid_holds_the_whole_box_and_less_than_a_voxel_more(direction, lower, length, spacing):
    grid = Grid((30, 30, 30), SPACING, ORIGIN, tuple(direction.ravel()))
    box = tuple(slice(start, start + n) for start, n in zip(lower, length, strict=True))
    new = grid.covering(box, spacing)
    wanted = np.array(length[::-1]) * SPACING
    extent = np.array(new.size) * new.spacing
    assert (extent >= wanted - 1e-5).all()
    assert (extent < wanted + np.array(new.spacing) + 1e-5).all()


def test_resampling_onto_the_same_grid_changes_nothing():
    array = asymmetric()
    grid = Grid((7, 6, 5), SPACING, ORIGIN, tuple(np.eye(3).ravel()))
    assert np.array_equal(resample(array, grid, grid), array)
    labels = (array > 100).astype(np.uint8)
    again = resample(labels, grid, grid, nearest=True)
    assert again.dtype == np.uint8
    assert np.array_equal(again, labels)


def test_resampling_keeps_a_linear_ramp_and_its_place():
    grid = Grid((20, 20, 20), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    k, _, i = np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij")
    ramp = (3 * i + 10 * (2 * k)).astype(np.float32)  # 3 HU a mm along x, 10 HU a mm along z
    fine = grid.covering((slice(4, 10), slice(4, 10), slice(4, 10)), (0.5, 0.5, 0.5))
    got = resample(ramp, grid, fine)
    place = fine.image(got).TransformIndexToPhysicalPoint((2, 3, 5))
    assert got[5, 3, 2] == pytest.approx(3 * place[0] + 10 * place[2], abs=1e-3)


def test_corners_are_the_centres_of_the_outermost_voxels():
    quarter_turn = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # i runs along y, j against x
    grid = Grid((3, 2, 5), (2.0, 3.0, 1.0), (10.0, 20.0, 30.0), quarter_turn)
    assert sorted(map(tuple, grid.corners)) == list(itertools.product((7.0, 10.0), (20.0, 24.0), (30.0, 34.0)))


def test_a_window_ends_where_its_values_do():
    hu = np.array([-1024, -800, -575, 100, 3000], np.float32)
    np.testing.assert_array_equal(windowed(hu, (-800.0, 100.0)), np.float32([0, 0, 0.25, 1, 1]))
    np.testing.assert_array_equal(windowed(hu, (-800.0, 100.0), (-1.0, 1.0)), np.float32([-1, -1, -0.5, 1, 1]))


def test_beyond_the_source_stands_the_value_for_outside():
    small = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    large = Grid((8, 8, 8), (1.0, 1.0, 1.0), (-2.0, -2.0, -2.0), small.direction)
    got = resample(np.zeros((4, 4, 4), np.float32), small, large, outside=-1024)
    assert (got == -1024).sum() == 8**3 - 4**3
    assert (got[2:6, 2:6, 2:6] == 0).all()


@given(mask=arrays.arrays(bool, (4, 5, 6)), margin=st.tuples(*[st.integers(0, 3)] * 3))
def test_the_bounding_box_is_the_smallest_that_holds_every_true_voxel(mask, margin):
    if not mask.any():
        with pytest.raises(ValueError, match="no bounding box"):
            bounding_box(mask)
        return
    tight = bounding_box(mask)
    assert mask[tight].sum() == mask.sum()
    assert all(mask[tight].any(axis=tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3))
    wide = bounding_box(mask, margin)
    for inner, outer, extra, size in zip(tight, wide, margin, mask.shape, strict=True):
        assert outer == slice(max(inner.start - extra, 0), min(inner.stop + extra, size))
