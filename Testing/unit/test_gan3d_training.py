"""What the 3-D GAN and its slice network learn from, and how: noise, contrast, pseudo masks, two phases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from LabelFreeCovidSegLib.training.contrast import high_and_low, supervised_contrast, varied
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
    assert abs(np.mean([plane(-0.5, 10, seed) for seed in range(200)])) < 0.01


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


def two_clusters(n=4):
    return torch.eye(2).repeat_interleave(n, dim=0), torch.arange(2).repeat_interleave(n)


def test_contrast_of_two_orthogonal_clusters_is_log_3():
    # Of seven others three are alike, and the four opposite ones are e^-20 as likely.
    assert supervised_contrast(*two_clusters()).item() == pytest.approx(math.log(3), abs=1e-4)


def test_contrast_of_features_that_are_all_alike_is_log_7():
    _, labels = two_clusters()
    assert supervised_contrast(torch.ones(8, 5), labels).item() == pytest.approx(math.log(7), abs=1e-5)


@given(seeds)
def test_contrast_depends_neither_on_the_length_of_features_nor_on_their_order(seed):
    rng = torch.Generator().manual_seed(seed)
    features, (_, labels) = torch.rand(8, 16, generator=rng), two_clusters()
    loss = supervised_contrast(features, labels)
    lengths = torch.rand(8, 1, generator=rng) + 0.1
    torch.testing.assert_close(supervised_contrast(features * lengths, labels), loss, rtol=1e-4, atol=1e-4)
    order = torch.randperm(8, generator=rng)
    torch.testing.assert_close(supervised_contrast(features[order], labels[order]), loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0, 1]])
def test_who_is_alone_with_a_label_makes_neither_loss_nor_gradient_undefined(labels):
    features = torch.rand(len(labels), 4, requires_grad=True)
    loss = supervised_contrast(features, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_features_that_are_all_0_make_no_undefined_gradient():
    features = torch.zeros(4, 4, requires_grad=True)
    supervised_contrast(features, torch.tensor([0, 0, 1, 1])).backward()
    assert features.grad.isfinite().all()


def test_a_twelfth_of_the_slices_is_high_and_low_ones_are_a_quarter_below():
    sums = np.arange(1000.0)
    high, low = high_and_low(sums)
    assert set(sums[high]) == set(range(916, 1000))
    assert len(low) == len(high) == 84
    assert sums[low].min() == math.ceil(0.68 * 916)
    assert sums[low].max() <= 0.84 * 916


@given(st.lists(st.floats(0, 1e4), max_size=200))
def test_high_and_low_slices_are_as_many_and_not_the_same(sums):
    sums = np.array(sums)
    high, low = high_and_low(sums)
    assert len(high) == len(low)
    assert not set(high) & set(low)
    if len(high):
        assert sums[high].min() >= sums[low].max()


def test_a_varied_slice_is_turned_and_shifted_but_no_brighter():
    slices = torch.zeros(20, 1, 32, 32)
    slices[:, :, 12:20, 8:12] = 1.0
    made = varied(slices, np.random.default_rng(0))
    assert made.shape == slices.shape
    assert made.max() <= 1 + 1e-5
    assert all(not torch.equal(a, b) for a, b in zip(made, slices, strict=True))
    torch.testing.assert_close(made.sum(dim=(1, 2, 3)), slices.sum(dim=(1, 2, 3)), rtol=0.1, atol=0)
