"""From the generator's difference to lesions (METHODS 1.7 and 1.9), on the scan's own grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import store, weights
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import cyclegan
from LabelFreeCovidSegLib.methods.cyclegan import CycleGAN, Outlining, Preset
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Grid, Scan
from torch import nn

MM, MM4 = (1.0, 1.0, 1.0), (4.0, 4.0, 4.0)
TINY = Preset("tiny", (4.0, 4.0, 4.0), 64, (2, 2, 2), (2, 2, 2, 2), background=-1.0, batch=1, iterations=4)
CPU = Compute()


def disc(radius, shape=(96, 96), centre=(48, 48)):
    j, i = np.ogrid[: shape[0], : shape[1]]
    return (j - centre[0]) ** 2 + (i - centre[1]) ** 2 <= radius**2


def noise(shape, seed=0):
    return np.clip(np.random.default_rng(seed).normal(0, 0.05, shape), 0, None).astype(np.float32)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def outlined(excess, lung=None, **changes):
    outlining = replace(Outlining(), **changes)
    lung = np.ones(excess.shape, bool) if lung is None else lung
    return cyclegan.outline(cyclegan.filtered(excess, MM, outlining), lung, MM, outlining)


def planted(shape=(3, 96, 96), slices=slice(None)):
    """Noise with a disc of radius 10 that is 0.6 +- 0.05 brighter, in some slices; and the disc."""
    lesion = np.zeros(shape, bool)
    lesion[slices] = disc(10)
    rng = np.random.default_rng(1)
    excess = np.where(lesion, rng.normal(0.6, 0.05, shape), noise(shape)).astype(np.float32)
    return excess, lesion


@pytest.mark.parametrize(("otsu", "off"), [(False, 0.03), (True, 0.15)])  # Otsu's may lie anywhere in the gap
def test_a_planted_disc_is_recovered(otsu, off):
    excess, lesion = planted()
    assert dice(outlined(excess, otsu=otsu), lesion) > 0.95
    assert cyclegan.threshold(excess.ravel(), Outlining(otsu=otsu)) == pytest.approx(0.3, abs=off)


def test_clusters_are_those_of_all_the_lungs_and_not_of_each_slice():
    excess, lesion = planted(slices=slice(0, 1))
    found = outlined(excess)
    assert dice(found[0], lesion[0]) > 0.95
    assert not found[1:].any()


def test_clear_lungs_stay_empty_though_clusters_always_part():
    excess = noise((4, 96, 96))
    assert not outlined(excess).any()
    assert outlined(excess, least_gap=0.0).any()
    assert outlined(excess, otsu=True).any()
    assert not outlined(np.zeros((2, 32, 32), np.float32)).any()


def test_lungs_full_of_lesion_are_outlined():
    excess = np.where(disc(40)[None], 0.6, 0.0).astype(np.float32)
    assert dice(outlined(excess, np.ones(excess.shape, bool)), disc(40)[None]) > 0.98


def test_clusters_settle_where_each_number_is_nearest():
    values = np.array([0.0, 0.1, 0.2, 1.0, 1.2, 5.0], np.float32)
    np.testing.assert_allclose(cyclegan.clustered(values, np.array([0.0, 2.0])), [0.5, 5.0])
    np.testing.assert_allclose(cyclegan.clustered(values, np.array([0.0, 2.0, 4.0])), [0.1, 1.1, 5.0])
    np.testing.assert_array_equal(cyclegan.clustered(np.zeros(3), np.array([0.0, 0.0])), [0.0, 0.0])


def test_of_three_clusters_only_the_brightest_is_lesion():
    excess = np.full((1, 96, 96), 0.0, np.float32)
    excess[0][disc(20)] = 0.4
    excess[0][disc(10)] = 1.0
    assert dice(outlined(excess, clusters=3), disc(10)[None]) > 0.95
    assert outlined(excess).sum() > 0.9 * disc(10).sum()


def lesions_side_by_side():
    """Slices with ground glass alone, with consolidation alone, and with a vessel 5 pixels thick."""
    excess = noise((3, 96, 96))
    excess[0][disc(12)] = 0.35
    excess[1][disc(20)] = 1.2
    excess[2, 46:51] = 0.35
    return excess


def test_ground_glass_is_lesion_beside_consolidation_when_both_have_a_cluster():
    excess = lesions_side_by_side()
    both = outlined(excess, clusters=3, lesion_clusters=2)
    assert dice(both[0], disc(12)) > 0.95
    assert dice(both[1], disc(20)) > 0.95
    assert not outlined(excess)[0].any()  # of two clusters, consolidation alone


def test_a_wider_opening_takes_vessels_away_and_leaves_lesions():
    found = outlined(lesions_side_by_side(), clusters=3, lesion_clusters=2, opening_mm=3.0)
    assert not found[2].any()
    assert dice(found[0], disc(12)) > 0.95


@pytest.mark.parametrize("lesion_clusters", [2, 3])
def test_clear_lungs_stay_empty_with_several_clusters_of_lesion(lesion_clusters):
    assert not outlined(noise((4, 96, 96)), clusters=lesion_clusters + 1, lesion_clusters=lesion_clusters).any()


def test_the_paper_has_one_cluster_of_lesion_and_what_ships_has_three():
    published, shipped = (cyclegan.PRESETS[name].outlining for name in ("paper", "small"))
    assert (published.clusters, published.lesion_clusters) == (2, 1)
    assert (shipped.clusters, shipped.lesion_clusters) == (4, 3)


def test_single_pixels_go_and_small_holes_are_filled():
    excess = np.where(disc(10), 0.6, 0.0).astype(np.float32)[None]
    excess[0, 48, 47:50] = 0.0  # a hole of three pixels
    excess[0, 10, 10] = 0.6
    lesion = excess > 0.3
    assert lesion[0, 10, 10]
    # Without the median filter, which would do some of it.
    found = cyclegan.outline(excess, np.ones(excess.shape, bool), MM)
    assert found[0, 48, 47:50].all()
    assert not found[0, 10, 10]


def test_a_ring_is_filled_in_its_slice_alone_and_never_beyond_the_lung():
    ring = disc(20) & ~disc(14)
    excess = np.where(ring, 0.6, 0.0).astype(np.float32)[None].repeat(3, axis=0)
    excess[1, 48, :] = 0.0
    excess[1, 47:50, 60:] = 0.0  # open on one side
    lung = ~disc(5)[None].repeat(3, axis=0)
    found = outlined(excess, lung)
    assert not (found & ~lung).any()
    assert found[0][disc(12) & lung[0]].all()
    assert not found[1][disc(10)].any()


def test_what_the_generator_adds_is_no_lesion():
    lung = np.array([[[True, True, True, False]]])
    taken = cyclegan.removed(np.array([[[0.5, 0.0, -1.0, 1.0]]]), np.array([[[0.1, 0.7, -1.0, -1.0]]]), lung)
    np.testing.assert_allclose(taken, [[[0.4, 0.0, 0.0, 0.0]]])


# On the scan's grid


TILT = np.deg2rad(20)
TILTED = (np.cos(TILT), -np.sin(TILT), 0.0, np.sin(TILT), np.cos(TILT), 0.0, 0.0, 0.0, 1.0)


def scan_of(hu, spacing_mm=(4.0, 2.5, 2.5), direction=TILTED):
    grid = Grid(hu.shape[::-1], spacing_mm[::-1], (-150.0, 20.0, -700.0), direction)
    return Scan(hu.astype(np.float32), grid, grid, "scan")


def chest(lesion_hu=None, shape=(20, 80, 100)):
    """A scan with two lungs of unlike size, and its lungs and lesion."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    right = ((j - 40) / 30) ** 2 + ((i - 25) / 18) ** 2 + ((k - 10) / 10) ** 2 < 1
    left = ((j - 44) / 24) ** 2 + ((i - 74) / 16) ** 2 + ((k - 9) / 8) ** 2 < 1
    hu = np.where(right | left, -860.0, 40.0)
    lesion = (1.6 * (k - 10)) ** 2 + (j - 48) ** 2 + (i - 25) ** 2 < 8**2
    if lesion_hu is not None:
        hu[lesion] = lesion_hu
    return scan_of(hu), LungMask((right + 2 * left).astype(np.uint8), "given"), lesion


class Healer(nn.Module):
    """Knows that healthy lung is as dark as the window goes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return torch.full_like(x, -1.0)


def predict(scan, lungs, generator=None, preset=TINY):
    return CycleGAN(generator or Healer(), preset, "none").predict(scan, lungs, CPU, silent)


@pytest.mark.parametrize("lesion_hu", [-550.0, -450.0, 0.0])
def test_a_lesion_that_a_perfect_generator_takes_away_is_outlined_and_gone_from_the_healthy_scan(lesion_hu):
    scan, lungs, lesion = chest(lesion_hu)
    clean = chest()[0].hu
    found = predict(scan, lungs)
    assert found.lesion.shape == found.score.shape == found.healthy_hu.shape == scan.hu.shape
    assert dice(found.lesion > 0, lesion) > 0.9
    assert not found.score[lungs.labels == 0].any()
    assert 0 < found.score.max() <= 1
    core = (1.6 * (np.arange(20) - 10)[:, None, None] ** 2 < 20) & lesion
    assert np.median(found.healthy_hu[core]) == pytest.approx(-800, abs=20)  # where the window ends
    np.testing.assert_array_equal(found.healthy_hu[lungs.labels == 0], clean[lungs.labels == 0])
    assert not found.warnings


def test_clear_lungs_give_no_lesion_and_the_scan_itself():
    scan, lungs, _ = chest()
    assert not predict(scan, lungs).lesion.any()
    np.testing.assert_array_equal(predict(scan, lungs, nn.Identity()).healthy_hu, scan.hu)


def test_the_generator_sees_lung_and_nothing_else_many_slices_at_a_time():
    scan, lungs, _ = chest()
    for background in (-1.0, 0.0):
        healer = Healer()
        predict(scan, lungs, healer, replace(TINY, background=background))
        assert [len(batch) for batch in healer.seen] == [16, 3]
        seen, lung = torch.cat(healer.seen)[:, 0].numpy(), LungSlices.of(scan, lungs, MM4, 64).lung
        assert (seen[~lung] == background).all()
        assert np.median(seen[lung]) == -1


def test_the_same_scan_gives_the_same_result():
    scan, lungs, _ = chest(-450.0)
    torch.manual_seed(0)
    generator = cyclegan.build(TINY).eval()
    one, other = (predict(scan, lungs, generator) for _ in range(2))
    np.testing.assert_array_equal(one.lesion, other.lesion)
    np.testing.assert_array_equal(one.score, other.score)


def test_slices_lie_in_the_middle_of_the_canvas_and_return_to_their_place():
    scan, lungs, _ = chest()
    work = LungSlices.of(scan, lungs, MM4, 64)
    assert work.sides.shape == work.hu.shape == (19, 64, 64)
    assert work.grid.spacing_mm == MM4
    for axis in (1, 2):
        filled = np.flatnonzero(work.lung.any(axis=(0, 3 - axis)))
        assert abs(filled[0] - (63 - filled[-1])) <= 2
    assert dice(work.paste(work.sides == 1, lungs) >= 0.5, lungs.labels == 1) > 0.97


def test_lungs_wider_than_the_canvas_are_shrunk_and_never_cut():
    scan, lungs, lesion = chest(-450.0)
    work = LungSlices.of(scan, lungs, MM4, 32)
    widest_mm = 2.5 * np.ptp(np.flatnonzero(lungs.labels.any(axis=(0, 1)))) + 2.5
    assert work.grid.spacing_mm[1] == pytest.approx(4 * widest_mm / 128)
    assert dice(work.paste(work.lung, lungs) >= 0.5, lungs.labels > 0) > 0.95
    found = predict(scan, lungs, preset=replace(TINY, side=32))
    assert dice(found.lesion > 0, lesion) > 0.8
    assert "wider than 128 mm" in found.warnings[0]


@pytest.mark.parametrize("domain", ["hu", "clahe256"])
def test_weights_from_a_store_make_the_method(tmp_path, monkeypatch, domain):
    monkeypatch.setitem(cyclegan.PRESETS, "tiny", replace(TINY, domain=domain))
    entry = store.Entry("cyclegan", "1", {}, {"preset": "tiny"}, [], "CC BY-NC 4.0", False, "", "")
    network = cyclegan.build(TINY)
    weights.store_entry(entry, {"a.safetensors": network.state_dict()}, tmp_path)
    model = cyclegan.load(tmp_path)
    assert model.weights.startswith("cyclegan 1 (")
    assert model.card.domain == domain
    assert not model.generator.training
    torch.testing.assert_close(model.generator.state_dict(), network.state_dict(), atol=1e-3, rtol=1e-2)
