"""The 3-D GAN on a whole scan: with networks that know the answer, on the scan's own grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import store, weights
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import gan3d
from LabelFreeCovidSegLib.methods.gan3d import PRESETS, Frame, Gan3D, Threshold
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Grid, Scan
from torch import nn

HEALTHY_HU, LESION_HU = -860.0, -300.0
SPACING_MM = (1.5, 2.0, 2.0)
SHAPE = (80, 70, 90)
PRESET = replace(PRESETS["small"], canvas=(16, 48, 64))
ALONE = replace(PRESETS["small-gan"], canvas=(16, 48, 64))


class Knows(nn.Module):
    """A generator that knows how bright healthy lung is, and makes nothing darker lung."""

    def forward(self, x, z):
        return x.clamp_max(float(gan3d.window(np.float32(HEALTHY_HU))))


class Excess(nn.Module):
    """A slice network that knows it too."""

    def forward(self, x):
        return x - float(gan3d.window(np.float32(HEALTHY_HU)))


def made(lesion=(slice(30, 50), slice(25, 40), slice(18, 30))):
    """A scan of two boxes of lung with a lesion in the right one, its lungs, and the lesion; air all around.

    A body around the lungs would shine into their outermost voxels, which only a trained generator takes for healthy.
    """
    hu = np.full(SHAPE, -1000.0, np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:75, 10:60, 8:40], labels[5:75, 10:60, 50:82] = 1, 2
    hu[labels > 0] = HEALTHY_HU
    truth = np.zeros(SHAPE, bool)
    truth[lesion] = True
    hu[truth] = LESION_HU
    grid = Grid(SHAPE[::-1], SPACING_MM[::-1], (-10.0, 4.0, 7.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    return Scan(hu, grid, grid, "made up"), LungMask(labels, "made up"), truth


def predict(scan, lungs, preset=PRESET, progress=silent):
    method = Gan3D({"generator": Knows(), "segmenter": Excess()}, preset, Threshold(), "none")
    return method.predict(scan, lungs, Compute(), progress)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("preset", [PRESET, ALONE, replace(PRESET, slice_mm=0.0)])
def test_networks_that_know_the_answer_outline_the_lesion_where_it_is(preset):
    scan, lungs, truth = made()
    found = predict(scan, lungs, preset)
    assert found.lesion.shape == found.score.shape == scan.hu.shape
    assert found.lesion.dtype == np.uint8
    assert dice(found.lesion > 0, truth) > 0.9
    assert not found.score[lungs.labels == 0].any()
    assert np.median(found.score[truth]) == pytest.approx((LESION_HU - HEALTHY_HU) / 1400, rel=0.02)


def test_the_scan_without_its_lesion_is_healthy_there_and_untouched_elsewhere():
    scan, lungs, truth = made()
    without = predict(scan, lungs).healthy_hu
    inner = np.zeros_like(truth)
    inner[35:45, 29:36, 21:27] = True
    assert without[inner].mean() == pytest.approx(HEALTHY_HU, abs=30)
    far = np.ones_like(truth)
    far[20:60, 20:45, 13:35] = False
    np.testing.assert_allclose(without[far], scan.hu[far], atol=1.0)


def test_a_lesion_thinner_than_the_generators_slices_is_found_in_its_own_slices_only():
    scan, lungs, _ = made((slice(40, 42), slice(25, 40), slice(18, 30)))
    assert PRESET.slice_mm > 2 * SPACING_MM[0]
    found = predict(scan, lungs).lesion
    assert set(np.flatnonzero(found.any(axis=(1, 2)))) == {40, 41}


def test_lungs_lower_than_a_slab_are_no_problem():
    scan, lungs, truth = made()
    labels = lungs.labels.copy()
    labels[:25] = labels[55:] = 0
    found = predict(scan, LungMask(labels, "made up"))
    assert dice(found.lesion > 0, truth) > 0.9


def test_the_lungs_box_is_stretched_to_the_canvas():
    scan, lungs, _ = made()
    whole, slabs = (Frame.of(scan, lungs, mm, (16, 48, 64)) for mm in (0.0, 6.0))
    assert whole.hu.shape == (16, 48, 64)
    assert slabs.hu.shape == (18, 48, 64)  # 105 mm in slices of 6 mm
    for frame in (whole, slabs):
        assert frame.lung[:, :, [0, -1]].any()
        assert not frame.image[~frame.lung].any()


def test_slabs_that_overlap_agree_with_what_one_would_have_made():
    image = np.random.default_rng(0).uniform(0, 0.5, (37, 16, 16)).astype(np.float32)
    answer = gan3d.healthy(Knows(), image, (16, 16, 16), Compute(), silent)
    np.testing.assert_allclose(answer, np.minimum(image, gan3d.window(np.float32(HEALTHY_HU))), atol=1e-6)


def test_a_relative_threshold_finds_lesions_where_there_is_next_to_nothing_and_an_absolute_one_does_not():
    nothing = np.full((1, 4, 4), 1e-6, np.float32)
    assert Threshold(relative=True).lesion(nothing).all()
    assert not Threshold().lesion(nothing).any()


def test_a_relative_threshold_is_relative_to_its_own_slice():
    score = np.zeros((2, 1, 3), np.float32)
    score[0, 0], score[1, 0] = [1.0, 0.3, 0.1], [0.1, 0.03, 0.01]
    assert Threshold(relative=True).lesion(score).tolist() == [[[True, True, False]]] * 2
    assert Threshold().lesion(score).tolist() == [[[True, True, False]], [[False, False, False]]]
    assert not Threshold(relative=True).lesion(np.zeros((1, 2, 2))).any()


def test_what_the_generator_adds_is_no_disease():
    image, answer = np.float32([0.2, 0.5, 0.9]), np.float32([0.4, 0.1, 1.5])
    np.testing.assert_allclose(gan3d.removed(image, answer), [0.0, 0.4, 0.0], atol=1e-6)


def test_a_prediction_can_be_cancelled():
    def cancel(fraction, phase):
        if fraction > 0.2:
            raise CancelledError(phase)

    scan, lungs, _ = made()
    with pytest.raises(CancelledError):
        predict(scan, lungs, progress=cancel)


def test_the_papers_ablation_is_there_for_every_width():
    for name in ("paper", "small"):
        full, plain, alone = (PRESETS[name + suffix] for suffix in ("", "-no-contrast", "-gan"))
        assert full.segmenter
        assert full.contrast
        assert plain == replace(full, name=plain.name, contrast=False)
        assert not alone.segmenter
        assert alone.iterations == round(full.iterations * full.gan_share)
        for value in (0.1, 0.15, 0.25, 0.3):
            other = PRESETS[f"{name}-threshold-{value}"]
            assert other == replace(full, name=other.name, threshold=Threshold(value))
        assert PRESETS[f"{name}-threshold-relative"].threshold == Threshold(relative=True)


def test_what_ships_is_small_and_what_is_published_is_not():
    sizes = {name: sum(p.numel() for p in gan3d.build(PRESETS[name]).parameters()) for name in ("small", "paper")}
    assert 2 * sizes["small"] < 5e6
    assert sizes["paper"] == 7_861_643 + 5_008_197


PAPER = {"small-threshold-0.1": Threshold(0.1)}


@pytest.mark.parametrize("name", ["small", "small-gan", "small-threshold-0.1"])
def test_stored_weights_are_loaded_into_the_networks_of_their_preset(tmp_path, name):
    networks = gan3d.build(PRESETS[name])
    entry = store.Entry("gan3d", "1", {}, {"preset": name, "threshold": 0.07}, [], "none", False, "", "")
    weights.store_entry(entry, {"gan3d.safetensors": networks.state_dict()}, tmp_path)
    method = gan3d.load(tmp_path)
    assert method.preset.name == name
    assert method.threshold == PAPER.get(name, Threshold(0.07))
    assert method.networks.keys() == networks.keys()
    assert (method.card.picture_mm is None) == (name == "small-gan")  # single pictures are for the slice network
    assert not any(network.training for network in method.networks.values())
    kept = method.networks["generator"].out.weight
    torch.testing.assert_close(kept, networks["generator"].out.weight, atol=1e-3, rtol=1e-3)
