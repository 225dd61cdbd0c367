"""Calibration: a monotone curve that brings a score nearer to the share of lesion."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training.calibrate import KNOTS, calibrate, curve, expected_error
from LabelFreeCovidSegLib.training.crops import Blocks, views


def drawn(size=20_000, seed=0):
    """Scores of which the true probability of lesion is the square root."""
    rng = np.random.default_rng(seed)
    score = (rng.random(size) ** 4).astype(np.float32)
    return score, rng.random(size) < np.sqrt(score)


def test_the_error_is_the_distance_between_what_is_said_and_what_is_true_in_each_bin():
    # One bin: 0.9 is said of ten voxels and half of them are lesion; another: 0.1 of thirty, none is.
    probability = np.repeat([0.9, 0.1], [10, 30])
    lesion = np.arange(40) < 5
    assert expected_error(probability, lesion) == pytest.approx((10 * 0.4 + 30 * 0.1) / 40)
    assert expected_error(np.ones(3), np.ones(3, bool)) == 0


def test_a_curve_fitted_on_some_voxels_is_right_about_others():
    knots = np.array(curve(*drawn(seed=0)))
    score, lesion = drawn(seed=1)
    assert expected_error(score, lesion) > 0.12  # the mean of sqrt(x) - x is 1/3 - 1/5
    assert expected_error(np.interp(score, *knots.T), lesion) < 0.02
    np.testing.assert_allclose(np.interp([0.09, 0.25, 0.64], *knots.T), [0.3, 0.5, 0.8], atol=0.05)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50))
def test_a_curve_rises_from_knot_to_knot_and_stays_a_probability(pairs):
    score, lesion = (np.array(column) for column in zip(*pairs, strict=True))
    places, probability = np.transpose(curve(score.astype(np.float32), lesion))
    assert 1 <= len(places) <= KNOTS
    assert places[0] == 0
    assert (np.diff(places) > 0).all()
    assert (np.diff(probability) >= 0).all()
    assert probability.min() >= 0
    assert probability.max() <= 1


def timid(view):
    """The score of NormNets that call all bright tissue healthy with a probability of 0.6."""
    healthy = np.full(view.image.shape, 0.6, np.float32)
    return normnet.doubt(view.image, [healthy, healthy], view.lung, TINY.spacing_mm)


@pytest.fixture(scope="module")
def lung():
    """Black lung without a vessel: whatever is bright is lesion."""
    inside = np.zeros((30, 60, 60), np.uint8)
    inside[2:-2, 4:-4, 4:-4] = 1
    return Blocks.of([{"hu": np.full(inside.shape, -900, np.int16), "lung": inside}])


TINY = replace(normnet.PRESETS["small"], spacing_mm=(4.0, 3.0, 3.0), crop=(16, 32, 32), channels=(4, 8, 8))


def test_networks_that_are_too_timid_become_surer_of_what_is_bright(lung):
    found = calibrate(timid, TINY, lung, silent)
    error = found["calibration_error"]
    assert error["after"] < 0.7 * error["before"]
    places, probability = np.transpose(found["calibration"])
    assert np.interp(0.2, places, probability) > 0.5
    assert places.max() <= 0.4 + 1e-4


def test_views_depend_on_their_seed_alone_and_every_third_is_healthy(lung):
    one, same, other = (views(TINY, lung, seed, 6) for seed in (1, 1, 2))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    assert any((a.image != b.image).any() for a, b in zip(one, other, strict=True))
    assert [bool(view.lesion.any()) for view in one] == [False, True, True, False, True, True]
    assert not any((view.lesion & ~view.lung).any() for view in one)
