"""The contrastive loss of `gan3d`, and the slices that it compares (METHODS 2.5 and 2.7)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from LabelFreeCovidSegLib.training.contrast import high_and_low, supervised_contrast, varied

seeds = st.integers(0, 2**32 - 1)


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


def test_contrast_sees_small_differences_in_bfloat16_too():
    features, labels = 1.0 + 0.05 * torch.rand(8, 16, generator=torch.Generator().manual_seed(0)), two_clusters()[1]
    loss = supervised_contrast(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(supervised_contrast(features, labels), loss, rtol=1e-6, atol=0)


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
