"""Perlin noise in healthy lungs: what the generator of `gan3d` learns to mend (METHODS 2.3 and 2.7)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LabelFreeCovidSegLib.training.perlin import blotched, lattice_noise, noise_plane

seeds = st.integers(0, 2**32 - 1)


def lattice(seed=0):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 2 * np.pi, 256)
    return rng.permutation(256), math.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def plane(persistence, octaves=1, seed=0, wavelength=8.0):
    return noise_plane((32, 40), wavelength, octaves, persistence, np.random.default_rng(seed))


def lungs(rng, shape=(32, 24, 24)):
    lung = np.zeros(shape, bool)
    lung[4:28, 6:18, 3:21] = True
    return (rng.uniform(0.1, 0.3, shape) * lung).astype(np.float32), lung


def test_perlin_noise_is_0_at_whole_lattice_points_and_not_between():
    j, i = np.arange(300.0), np.arange(20.0)
    assert not lattice_noise(j, i, *lattice()).any()
    assert np.abs(lattice_noise(j + 0.5, i + 0.5, *lattice())).mean() > 0.1


def test_perlin_noise_is_continuous_across_cells():
    j = np.array([0.3])
    before, after = (lattice_noise(j, np.array([5.0 + step]), *lattice())[0, 0] for step in (-1e-9, 1e-9))
    assert before == pytest.approx(after, abs=1e-6)


@settings(max_examples=20)
@given(seeds)
def test_one_octave_lies_between_minus_1_and_1(seed):
    assert np.abs(plane(0.0, seed=seed)).max() <= 1


def test_persistence_0_is_one_octave():
    np.testing.assert_array_equal(plane(0.0, octaves=10), plane(0.3, octaves=1))


def test_a_negative_persistence_makes_noise_stronger():
    weak, strong = (np.mean([plane(p, 10, seed).std() for seed in range(20)]) for p in (0.5, -0.5))
    # Amplitudes are divided by 2 and by 2/3, the sums of the powers of either.
    assert strong / weak == pytest.approx(3.0, rel=0.15)


def test_perlin_noise_is_0_on_average():
    assert abs(np.mean([plane(-0.5, 10, seed) for seed in range(100)])) < 0.02


@settings(max_examples=10)
@given(seeds)
def test_a_quarter_of_the_slices_is_changed_and_nothing_outside_the_lung(seed):
    rng = np.random.default_rng(seed)
    image, lung = lungs(rng)
    noisy = blotched(image, lung, rng)
    assert np.count_nonzero((noisy != image).any(axis=(1, 2))) == 8
    np.testing.assert_array_equal(noisy[~lung], image[~lung])
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_noise_makes_lungs_darker_as_well_as_brighter():
    rng = np.random.default_rng(0)
    image, lung = lungs(rng)
    change = np.concatenate([blotched(image, lung, rng) - image for _ in range(5)])
    assert (change < -0.05).any()
    assert (change > 0.05).any()
