"""OpacityNet: what is painted, what the network is shown, what is made of its answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import opacitynet
from LabelFreeCovidSegLib.methods.opacitynet import (
    BRIGHT_HEALTHY,
    LESION_PROBABILITY,
    OPACITY,
    OpacityNet,
    outline,
    outlined,
    sharpened,
)
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.quantify import Band
from LabelFreeCovidSegLib.scan import Grid, Scan
from LabelFreeCovidSegLib.training import augment, pneumonia
from LabelFreeCovidSegLib.training.opacitynet import OpacityNetTrainee
from torch import nn

MM = (1.5, 1.0, 1.0)
SHAPE = (24, 64, 64)
LUNG_HU, VESSEL_HU, WALL_HU = -860.0, 40.0, 50.0
TINY = replace(opacitynet.PRESETS["small"], crop=(16, 32, 32), channels=(4, 8, 8), batch=2)


def healthy_lung():
    """A lung 40 mm thick between two walls, with a vessel along k."""
    hu, lung = np.full(SHAPE, WALL_HU, np.float32), np.zeros(SHAPE, bool)
    lung[:, 12:52] = True
    hu[lung] = LUNG_HU
    hu[:, 30:33, 30:33] = VESSEL_HU
    return hu, lung


def paint(seed=0, **patterns):
    patterns = replace(pneumonia.MODERATE, spared=0.0, counts=(1, 1), **patterns)
    hu, lung = healthy_lung()
    made = pneumonia.infect(hu, lung, MM, np.random.default_rng(seed), patterns)
    return hu, lung, made.hu, made.ill


@pytest.mark.parametrize("seed", range(6))
def test_nothing_gets_darker_but_in_bronchi_and_nothing_changes_far_from_the_lung(seed):
    hu, lung, ill_hu, ill = paint(seed)
    assert (ill_hu >= hu - 1e-3).all()
    np.testing.assert_array_equal(ill_hu[:, :11], hu[:, :11])
    assert not ill[~lung].any()
    assert ill.min() >= 0
    assert ill.max() <= 1
    np.testing.assert_allclose(ill_hu[lung & (ill < 1e-4)], hu[lung & (ill < 1e-4)], atol=1)


def test_a_layer_takes_the_share_of_the_lung_that_was_drawn():
    for share in (0.05, 0.5):
        _, lung, _, ill = paint(share=(share, share), edge=(0.02, 0.02))
        assert np.count_nonzero(ill > pneumonia.VISIBLE) / lung.sum() == pytest.approx(share, rel=0.1)


def test_extensive_disease_takes_a_large_part():
    for seed in range(4):
        _, lung, _, ill = paint(seed, share=(0.01, 0.01), extensive=1.0, extensive_share=(0.7, 0.9), edge=(0.02, 0.02))
        assert 0.6 < np.count_nonzero(ill > pneumonia.VISIBLE) / lung.sum() < 0.97


def test_ground_glass_takes_air_away_and_leaves_vessels():
    hu, lung, ill_hu, ill = paint(
        solid=0.0, reversed_halo=0.0, reticular=0.0, paving=0.0, grain=(0, 0), added_hu=(425.0, 425.0),
        share=(0.6, 0.6), edge=(0.02, 0.02),
    )  # fmt: skip
    air, vessel = lung & (hu == LUNG_HU) & (ill > 0.999), lung & (hu == VESSEL_HU)
    np.testing.assert_allclose(ill_hu[air], LUNG_HU + 0.5 * (20 - LUNG_HU), atol=2)  # half of 850 HU of air
    np.testing.assert_array_equal(ill_hu[vessel], hu[vessel])


def test_consolidation_is_as_dense_as_soft_tissue_and_its_halo_lies_between(monkeypatch):
    monkeypatch.setattr(
        pneumonia, "DENSITIES", replace(pneumonia.DENSITIES, solid_hu=(30, 30), aerated=0, bronchogram=0, enhanced=0)
    )
    chosen = {"solid": 1.0, "share": (0.4, 0.4), "edge": (0.02, 0.02), "grain": (0, 0), "added_hu": (300.0, 300.0)}
    hu, lung, ill_hu, ill = paint(halo=0.0, **chosen)
    dense = lung & (hu == LUNG_HU) & (ill > 0.999)
    assert ill_hu[dense].min() > 0
    hu, lung, ill_hu, ill = paint(halo=1.0, **chosen)
    ill_lung = ill_hu[lung & (hu == LUNG_HU) & (ill > 0.999)]
    assert 0.2 < (ill_lung > 0).mean() < 0.7
    assert ((ill_lung > -620) & (ill_lung < -500)).mean() > 0.25


def test_crazy_paving_is_ground_glass_with_denser_lines():
    chosen = {"solid": 0.0, "reversed_halo": 0.0, "reticular": 0.0, "grain": (0, 0), "added_hu": (300.0, 300.0),
              "share": (0.6, 0.6), "edge": (0.02, 0.02)}  # fmt: skip
    spread = []
    for paving in (0.0, 1.0):
        hu, lung, ill_hu, ill = paint(paving=paving, **chosen)
        inside = ill_hu[lung & (hu == LUNG_HU) & (ill > 0.999)]
        spread.append(np.percentile(inside, 98) - np.percentile(inside, 2))
    assert spread[0] < 10
    assert spread[1] > 50


def test_a_spared_lung_is_as_it_was():
    hu, lung = healthy_lung()
    made = pneumonia.infect(hu, lung, MM, np.random.default_rng(0), replace(pneumonia.MODERATE, spared=1.0))
    np.testing.assert_array_equal(made.hu, hu)
    assert not made.classes.any()


def test_thick_slices_take_their_labels_with_them(monkeypatch):
    monkeypatch.setattr(augment, "THICK_PROBABILITY", 1.0)
    monkeypatch.setattr(augment, "THICKNESS_MM", (6.0, 6.0))
    for name, nothing in {"SHARPNESS": (0, 0), "NOISE_HU": (0, 0), "SHIFT_HU": (0, 0)}.items():
        monkeypatch.setattr(augment, name, nothing)
    ill = np.zeros(SHAPE, np.float32)
    ill[10:14] = 1
    hu, moved = augment.another_scanner((LUNG_HU + 900 * ill, ill), MM, np.random.default_rng(0))
    np.testing.assert_allclose(hu, LUNG_HU + 900 * moved, atol=1e-2)
    assert (moved != ill).any()


def trainee(judge=False, preset=TINY):
    hu, lung = healthy_lung()
    block = {"hu": hu.astype(np.int16), "lung": lung.astype(np.uint8)}
    return OpacityNetTrainee(preset, [[block]], [block] if judge else ())


def test_a_sample_is_decided_by_its_seed_and_names_every_voxel():
    made = trainee()
    samples = [made.sample(np.random.SeedSequence(seed), 0.0) for seed in (1, 1, *range(2, 14))]
    for name in ("image", "target"):
        np.testing.assert_array_equal(samples[0][name], samples[1][name])
        assert samples[0][name].shape == (1, *TINY.crop)
    assert {label for sample in samples for label in np.unique(sample["target"])} == {0, BRIGHT_HEALTHY, OPACITY}
    assert all(sample["image"].min() >= 0 and sample["image"].max() <= 1 for sample in samples)
    assert all(not sample["target"][sample["image"] == 0].any() or (sample["image"] > 0).any() for sample in samples)


def test_without_a_class_of_its_own_bright_healthy_tissue_is_part_of_the_rest():
    one, other = trainee(), trainee(preset=replace(TINY, names_healthy=False))
    named = 0
    for seed in range(12):
        both, alone = (each.sample(np.random.SeedSequence(seed), 0.0) for each in (one, other))
        np.testing.assert_array_equal(alone["image"], both["image"])
        np.testing.assert_array_equal(alone["target"] == OPACITY, both["target"] == OPACITY)
        assert not (alone["target"] == BRIGHT_HEALTHY).any()
        named += np.count_nonzero(both["target"] == BRIGHT_HEALTHY)
    assert named


def test_a_vessel_in_a_lesion_is_lesion_and_elsewhere_bright_and_healthy(monkeypatch):
    patterns = replace(pneumonia.MODERATE, spared=0.0, counts=(1, 1), share=(0.99, 0.99), edge=(0.02, 0.02))
    monkeypatch.setitem(pneumonia.PAINTS, "moderate", patterns)
    ill = trainee().sample(np.random.SeedSequence(3), 0.0)["target"]
    assert (ill == OPACITY).sum() > 20 * (ill == BRIGHT_HEALTHY).sum()
    monkeypatch.setitem(pneumonia.PAINTS, "moderate", replace(patterns, spared=1.0))
    healthy = trainee().sample(np.random.SeedSequence(3), 0.0)["target"]
    assert not (healthy == OPACITY).any()
    assert (healthy == BRIGHT_HEALTHY).any()


class Brightness(nn.Module):
    """A stand-in for a network: what is brighter than a threshold is lesion, with a given probability."""

    def __init__(self, above, probability):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # says on which device it is
        self.above, self.odds = above, float(np.log(probability / (1 - probability)))

    def forward(self, x):
        lesion = torch.where(x > self.above, self.odds, -8.0)
        return torch.cat((torch.zeros_like(x), torch.full_like(x, -30.0), lesion), dim=1)


def test_a_network_that_marks_what_is_lesion_validates_better_than_one_that_marks_nothing():
    made = trainee(judge=True)
    made.networks = {"network": Brightness(2.0, 0.9)}
    nothing = made.validate()
    made.networks = {"network": Brightness(0.35, 0.9)}
    assert made.validate() > nothing == 0.0


def test_what_is_thin_is_outlined_only_beside_what_is_thick():
    probability = np.zeros((30, 40, 40), np.float32)
    probability[5:15, 10:20, 10:20] = 0.9  # 10 mm thick
    probability[10:12, 15:17, 20:36] = 0.9  # a vessel of 2 mm on its way to it
    probability[20:22, 5:35, 5:35] = 0.9  # a sheet of 2 mm, 1.8 mL
    found = outline(probability, (1.0, 1.0, 1.0), LESION_PROBABILITY)
    assert found[5:15, 10:20, 10:20].all()
    assert not found[20:22].any()
    assert found[10, 15, 20]
    assert not found[10, 15, 21:].any()


def test_beside_consolidation_a_voxel_must_be_likelier():
    probability = np.full((40, 40, 40), 0.3, np.float32)
    probability[10:30, 10:30, 10:30] = 0.9
    for hu, lowered in ((20.0, True), (-500.0, False)):
        density = np.where(probability > 0.5, hu, -850.0).astype(np.float32)
        judged = sharpened(probability, density, (1.0, 1.0, 1.0))
        assert (judged[20, 20, 31] < LESION_PROBABILITY) == lowered
        assert judged[20, 20, 36] > LESION_PROBABILITY  # far from it
        assert judged[20, 20, 29] > LESION_PROBABILITY


def test_vessels_are_no_consolidation_to_be_sharp_beside():
    probability = np.full((30, 30, 30), 0.9, np.float32)
    hu = np.full(probability.shape, -700.0, np.float32)
    hu[:, :, 14:16] = 40.0
    np.testing.assert_array_equal(sharpened(probability, hu, (1.0, 1.0, 1.0)), probability)


def test_what_is_likely_and_large_enough_is_outlined():
    probability = np.zeros((20, 40, 40), np.float32)
    probability[5:10, 5:10, 5:10] = 0.9  # 188 mm3
    probability[5:7, 20:23, 20:23] = 0.9  # 27 mm3
    probability[12:18, 20:30, 20:30] = LESION_PROBABILITY
    found = outline(probability, MM, LESION_PROBABILITY)
    assert found.sum() == 125
    assert found[5:10, 5:10, 5:10].all()


def scan_with_a_ball():
    """Lung with one bright ball of 12 mm and one of 3 mm, and a bright ball in the wall."""
    shape = (30, 60, 60)
    grid = Grid(size=shape[::-1], spacing=(1.2, 1.2, 1.4), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    k, j, i = (np.arange(n) * mm for n, mm in zip(shape, grid.spacing_mm, strict=True))
    near = lambda z, y, x: np.sqrt((k[:, None, None] - z) ** 2 + (j[:, None] - y) ** 2 + (i - x) ** 2)  # noqa: E731
    lung = np.zeros(shape, np.uint8)
    lung[2:-2, 5:-5, 5:-5] = 1
    hu = np.full(shape, -860, np.float32)
    ball = near(21, 30, 30) < 12
    hu[ball | (near(21, 58, 55) < 1.7)] = -300
    hu[:, :4] = 40
    return Scan(hu, grid, grid, "ball"), LungMask(lung, "given"), ball


def marked(probability, hu=None, lung=None):
    """Where it says lesion, on a grid of 1 mm of air."""
    hu = np.full(probability.shape, LUNG_HU, np.float32) if hu is None else hu
    lung = np.ones(probability.shape, bool) if lung is None else lung
    return outlined(probability, hu, lung, (1.0, 1.0, 1.0)) > LESION_PROBABILITY


def test_vessels_in_a_lesion_belong_to_it_and_clefts_and_what_is_no_lung_do_not():
    probability, lung = np.zeros((20, 30, 40), np.float32), np.ones((20, 30, 40), bool)
    probability[4:16, 4:26, 2:38] = 0.9
    probability[:, :, 12:15] = 0.0  # 3 mm
    probability[:, :, 25:31] = 0.0  # 6 mm
    lung[:8, :, 12:15] = False
    found = marked(probability, lung=lung)
    assert found[10:14, 8:22, 2:25].all()
    assert not found[:, :, 25:31].any()
    assert not found[:8, :, 12:15].any()


def test_a_lesion_near_the_end_of_the_scan_does_not_grow_to_it():
    probability = np.zeros((20, 30, 40), np.float32)
    probability[1:16, 4:26, 1:38] = 0.9
    assert not marked(probability)[probability == 0].any()


def test_ground_glass_around_consolidation_stays_joined_to_it():
    k, j, i = np.ogrid[:50, :50, :50]
    radius = np.sqrt((k - 25.0) ** 2 + (j - 25.0) ** 2 + (i - 25.0) ** 2)
    hu = np.select([radius < 9, radius < 17], [20.0, -600.0], LUNG_HU).astype(np.float32)
    probability = np.select([radius < 9, radius < 17], [0.95, 0.3], 0.0).astype(np.float32)
    found = marked(probability, hu)
    assert found[radius < 16].mean() > 0.999
    rim = np.where(radius < 11, probability, np.float32(0.0))
    hu[radius >= 9] = LUNG_HU
    assert marked(rim, hu)[(radius >= 10) & (radius < 11)].mean() < 0.1  # where nothing goes on, it ends sharply


def test_where_nothing_is_likely_nothing_is_outlined():
    assert not marked(np.full((4, 5, 6), LESION_PROBABILITY, np.float32)).any()


def test_what_is_consolidation_here_is_it_in_what_is_measured():
    assert (Band().consolidation_hu, Band().smoothing_mm) == (opacitynet.DENSE_HU, opacitynet.DENSE_SMOOTHING_MM)


def test_the_outline_follows_a_lesion_on_the_scans_own_grid_and_drops_specks():
    scan, lungs, ball = scan_with_a_ball()
    sure = LESION_PROBABILITY / 0.55  # so that the threshold lies about half way up the edge, where the ball ends
    found = OpacityNet([Brightness(0.25, sure)], opacitynet.PRESETS["small"], "stub").predict(
        scan, lungs, Compute("cpu", "float32"), silent
    )
    dice = 2 * (found.lesion & ball).sum() / (found.lesion.sum() + ball.sum())
    assert dice > 0.97
    assert not found.lesion[lungs.labels == 0].any()
    assert not found.calibrated
    assert found.score[15, 25, 25] == pytest.approx(sure, abs=1e-3)
    assert found.score[15, 48, 46] > 0.2  # the speck is in the anomaly map, though not in the outline


def test_networks_are_averaged_and_the_map_is_calibrated_but_not_the_outline():
    scan, lungs, _ = scan_with_a_ball()
    networks = [Brightness(0.25, 0.9), Brightness(0.25, 0.3)]
    curve = [[0.0, 0.0], [0.6, 0.2], [1.0, 1.0]]
    found = OpacityNet(networks, opacitynet.PRESETS["small"], "stub", curve).predict(
        scan, lungs, Compute("cpu", "float32"), silent
    )
    assert found.calibrated
    assert found.score[15, 25, 25] == pytest.approx(0.2, abs=1e-3)
    assert found.lesion[15, 25, 25]
