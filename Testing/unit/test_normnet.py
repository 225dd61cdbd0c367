"""NormNet's steps after the network, by counts that can be worked out on the paper's grid (METHODS 3.10)."""

from dataclasses import replace

import numpy as np
import pytest
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.methods.normnet import Growing
from LabelFreeCovidSegLib.postprocess import box_mean, close, dilate
from LabelFreeCovidSegLib.scan import Grid
from LabelFreeCovidSegLib.synthesis import FINAL, UNIT_MM
from scipy import ndimage

G = Growing()
SHAPE = (41, 41, 41)


def ball(radius, shape=SHAPE):
    centre = [(n - 1) / 2 for n in shape]
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2


def tube(radius):
    _, j, i = np.ogrid[:41, :41, :41]
    return np.broadcast_to((j - 20) ** 2 + (i - 20) ** 2 <= radius**2, SHAPE)


def seeds(bright):
    return box_mean(bright, G.seed_width_mm, UNIT_MM) > G.seed_share


def rim(intensity):
    return box_mean(intensity, G.rim_width_mm, UNIT_MM) > G.rim_intensity


def outline(intensity, healthy=None, lung=None, growing=G):
    lung = np.ones(intensity.shape, bool) if lung is None else lung
    healthy = np.zeros(intensity.shape, np.float32) if healthy is None else healthy.astype(np.float32)
    return normnet.outline(intensity.astype(np.float32), [healthy], lung, UNIT_MM, growing)


MASK = LungMask(np.ones(SHAPE, np.uint8), "made up")


def made_work():
    """A bright ball in a lung that fills the array, already on the working grid."""
    grid = Grid(SHAPE, UNIT_MM[::-1], (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    box = tuple(slice(0, n) for n in SHAPE)
    return normnet.Working(box, grid, grid, np.ones(SHAPE, np.uint8), (900 * ball(8) * 0.8 - 800).astype(np.float32))


def test_tau_is_a_third():
    assert pytest.approx(1 / 3) == normnet.TAU
    np.testing.assert_allclose(
        normnet.window(np.array([-1024.0, -800, -500, 100, 900])), [0, 0, 1 / 3, 1, 1], atol=1e-6
    )


@pytest.mark.parametrize(("radius", "voxels", "peak", "seeded"), [(3, 123, 0.169, 0), (4, 257, 0.353, 365)])
def test_a_ball_of_three_voxels_is_no_seed_and_one_of_four_is(radius, voxels, peak, seeded):
    assert ball(radius).sum() == voxels
    assert box_mean(ball(radius), G.seed_width_mm, UNIT_MM).max() == pytest.approx(peak, abs=1e-3)
    assert seeds(ball(radius)).sum() == seeded


@pytest.mark.parametrize(("radius", "share", "kept"), [(2, 0.160, False), (2.5, 0.259, True)])
def test_a_vessel_of_two_voxels_is_no_seed_and_one_of_two_and_a_half_is(radius, share, kept):
    mean = box_mean(tube(radius), G.seed_width_mm, UNIT_MM)[20, 20, 20]
    assert mean == pytest.approx(share, abs=1e-3)
    assert seeds(tube(radius))[20].any() == kept


@pytest.mark.parametrize(("intensity", "radius", "voxels"), [(0.4, 3, 0), (0.4, 4, 147), (1.0, 3, 251), (1.0, 4, 619)])
def test_the_rim_of_a_ball_depends_on_its_intensity(intensity, radius, voxels):
    assert rim(intensity * ball(radius)).sum() == voxels


def test_the_result_lies_in_the_rim_and_within_reach_of_a_seed():
    rng = np.random.default_rng(0)
    intensity = np.clip(ball(7) * 0.8 + rng.normal(0, 0.1, SHAPE), 0, 1)
    lesion = outline(intensity)
    assert lesion.any()
    assert not (lesion & ~rim(intensity)).any()
    assert not (lesion & ~dilate(seeds(intensity >= normnet.TAU), G.reach_mm, UNIT_MM)).any()


def test_a_dim_rim_is_regained_around_a_bright_core_but_a_dim_island_is_not():
    dim = normnet.window(np.float32(-600.0))
    shape = (41, 41, 100)
    core = np.zeros(shape, bool)
    core[:, :, :41] = ball(6)
    halo = np.zeros(shape, bool)
    halo[:, :, :41] = ball(9)
    island = np.zeros(shape, bool)
    island[:, :, 55:96] = ball(9)
    intensity = np.where(core, 0.8, np.where(halo | island, dim, 0.0))
    lesion = outline(intensity)
    assert lesion[halo].mean() > 0.8
    assert not lesion[island].any()


def test_what_is_recognised_as_healthy_is_no_lesion():
    bright = ball(9) * 0.9
    assert outline(bright).any()
    assert not outline(bright, healthy=ball(9)).any()


def test_nothing_is_found_outside_the_lung():
    lung = np.ones(SHAPE, bool)
    lung[:, :, 20:] = False
    lesion = outline(ball(9) * 0.9 * lung, lung=lung)
    assert lesion.any()
    assert not (lesion & ~lung).any()


@pytest.mark.parametrize(("sure", "healthy"), [(2, False), (3, True)])
def test_three_of_five_networks_must_be_sure(sure, healthy):
    probabilities = [np.full((2, 2, 2), 0.96 if n < sure else 0.5, np.float32) for n in range(5)]
    assert normnet.recognised(probabilities).all() == healthy


def test_a_probability_of_exactly_the_threshold_is_not_enough():
    assert not normnet.recognised([np.full((1, 1, 1), normnet.HEALTHY_PROBABILITY)]).any()


def test_the_median_is_the_vote_for_every_threshold():
    rng = np.random.default_rng(0)
    probabilities = [rng.random((6, 6, 6), dtype=np.float32) for _ in range(5)]
    bright = np.ones((6, 6, 6), np.float32)
    for threshold in (0.2, 0.5, 0.95):
        votes = sum(p > threshold for p in probabilities)
        np.testing.assert_array_equal(normnet.agreed(probabilities, bright) > threshold, votes >= 3)
    assert not normnet.agreed(probabilities, bright * 0.3).any()


def test_a_network_that_is_nearly_sure_leaves_a_mark_in_the_paper_and_none_in_ours():
    bright, nearly = np.full(SHAPE, 0.6), np.full(SHAPE, 0.9)
    assert outline(bright, nearly)[5:-5, 5:-5, 5:-5].all()
    # A tenth of a mark a voxel does not exceed the share of 0.1.
    assert not outline(bright, nearly + 0.01, growing=normnet.FITTED).any()


@pytest.mark.parametrize(("doubt", "kept"), [(0.35, False), (0.45, True)])
def test_a_piece_that_networks_doubt_a_little_is_a_vessel(doubt, kept):
    vessel = tube(5)
    healthy = vessel * (1 - doubt)
    assert outline(vessel * 0.9, healthy, growing=normnet.FITTED).any() == kept
    unweeded = replace(normnet.FITTED, edge=replace(normnet.FITTED.edge, least_doubt=0.0))
    assert outline(vessel * 0.9, healthy, growing=unweeded).any()


def test_a_doubtful_piece_goes_and_a_sure_one_beside_it_stays():
    shape = (41, 41, 82)
    sure, doubtful = np.zeros(shape, bool), np.zeros(shape, bool)
    sure[..., :41], doubtful[..., 41:] = ball(8), ball(8)
    lesion = outline((sure | doubtful) * 0.9, doubtful * 0.7, growing=normnet.FITTED)
    assert lesion[sure].mean() > 0.95
    assert not lesion[doubtful].any()


def test_an_airway_within_a_lesion_belongs_to_it_and_a_cavity_does_not():
    airway, cavity = tube(2) & ball(12), ball(7)  # radii of 1.6 and 5.6 mm; gaps below 3 mm are closed
    assert outline((ball(14) & ~airway) * 0.9, growing=normnet.FITTED)[airway].all()
    assert not outline((ball(14) & ~cavity) * 0.9, growing=normnet.FITTED)[ball(3)].any()


@pytest.mark.parametrize("radius", [6, 8, 10])
def test_a_consolidation_is_fitted_to_its_edge(radius):
    lesion = ball(radius)
    hu = ndimage.gaussian_filter(np.where(lesion, 40.0, -860.0), 1.0)
    intensity = normnet.window(hu.astype(np.float32))

    def dice(found):
        return 2 * (found & lesion).sum() / (found.sum() + lesion.sum())

    assert dice(outline(intensity, growing=normnet.FITTED)) > 0.9
    assert dice(outline(intensity)) < 0.78


def test_ground_glass_around_a_consolidation_belongs_to_it():
    intensity = np.where(ball(6), 0.95, np.where(ball(9), normnet.window(np.float32(-550.0)), 0.0))
    assert outline(intensity, growing=normnet.FITTED)[ball(8)].mean() > 0.99
    # Half-way to the consolidation alone would cut a third of it off.
    halfway = replace(normnet.FITTED, edge=replace(normnet.FITTED.edge, most=1.0))
    assert outline(intensity, growing=halfway)[ball(8)].mean() < 0.7


def test_a_fitted_lesion_at_the_pleura_keeps_its_border():
    lung = np.ones(SHAPE, bool)
    lung[:, 20:] = False
    intensity = ball(9) * 0.9 * lung
    lesion = outline(intensity, lung=lung, growing=normnet.FITTED)
    assert lesion[:, 19][ball(9)[:, 19]].all()
    assert not (lesion[:, 19] & ~ball(11)[:, 19]).any()


def test_specks_are_dropped_from_a_fitted_outline():
    # The paper keeps a ball of 4 voxels, 257 of 0.64 mm3, 0.16 mL; what is fitted to it stays above 0.05 mL.
    whole = outline(ball(4) * 1.0, growing=normnet.FITTED)
    assert whole.sum() * 0.64 / 1000 >= 0.05
    fewer = replace(normnet.FITTED, edge=replace(normnet.FITTED.edge, least_ml=0.3))
    assert not outline(ball(4) * 1.0, growing=fewer).any()


def test_the_score_is_calibrated_by_the_curve_of_the_manifest():
    work = made_work()
    raw = normnet.conclude(work, MASK, [np.zeros(SHAPE, np.float32)])
    calibrated = normnet.conclude(work, MASK, [np.zeros(SHAPE, np.float32)], calibration=[[0.0, 0.0], [1.0, 0.5]])
    np.testing.assert_allclose(calibrated.score, raw.score / 2, atol=1e-6)
    np.testing.assert_array_equal(calibrated.lesion, raw.lesion)


def test_the_mean_filter_averages_the_same_millimetres_on_another_grid():
    step = np.zeros((1, 1, 60), np.float32)
    step[..., 30:] = 1
    fine = box_mean(step, (1, 1, 7.2), (1, 1, 0.8))[0, 0]
    coarse = box_mean(step[..., ::2], (1, 1, 7.2), (1, 1, 1.6))[0, 0]
    # Nine fine voxels; at half the resolution 4.5, the outer ones by the quarter.
    assert fine[30] == pytest.approx(5 / 9)
    assert coarse[15] == pytest.approx((1 + 1 + 0.75) / 4.5)


def test_dilation_reaches_its_millimetres_along_each_axis():
    point = np.zeros((21, 21, 21), bool)
    point[10, 10, 10] = True
    grown = dilate(point, (5.0, 4.0, 4.0), UNIT_MM)
    reach = [np.flatnonzero(grown.any(axis=tuple(a for a in range(3) if a != axis))).max() - 10 for axis in range(3)]
    assert reach == [5, 5, 5]
    assert not dilate(np.zeros((3, 3, 3), bool), (5, 4, 4), UNIT_MM).any()


def test_closing_fills_what_its_ellipsoid_does_not_fit_into():
    mask = np.zeros((15, 15, 42), bool)
    mask[:, :, 1:41] = True
    mask[:, :, 11:15] = mask[:, :, 21:28] = False
    closed = close(mask, (3.0, 3.0, 3.0), (1.0, 1.0, 1.0))
    # Twice 3 mm: a gap of 4 mm is filled, one of 7 mm is not. The array's own edge counts as a border.
    assert closed[7, 7, 11:15].all()
    assert not closed[7, 7, 21:28].any()
    assert (closed >= mask).all()


@pytest.mark.parametrize(
    "mask", [ball(6), ball(0), np.zeros(SHAPE, bool), np.arange(41)[:, None, None] + np.zeros(SHAPE) < 20]
)
def test_closing_leaves_a_convex_shape_as_it_is(mask):
    np.testing.assert_array_equal(close(mask, (3.0, 3.0, 3.0), (1.0, 1.0, 1.0)), mask)


def test_each_row_of_table_4_changes_one_thing_of_what_it_is_compared_with():
    whole = normnet.PRESETS["table4"]
    assert (whole.lesions, whole.growing) == (FINAL, G)
    rows = {name: preset for name, preset in normnet.PRESETS.items() if name.startswith("table4-")}
    assert len(rows) == 14 + 3 + 4
    for name, preset in rows.items():
        changed = (preset.lesions != whole.lesions) + (preset.growing != whole.growing)
        assert (name, changed, replace(preset, name="table4", lesions=FINAL, growing=G)) == (name, 1, whole)
    assert len({(preset.lesions, preset.growing) for preset in rows.values()}) == len(rows)
