"""OpacityNet for slices: what a picture does to a slice, what the network is shown, what is made of its answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask, picturenet
from LabelFreeCovidSegLib.methods import base, opacitynet, opacitynet2d, opacitynet_clahe
from LabelFreeCovidSegLib.methods.opacitynet import BRIGHT_HEALTHY, OPACITY
from LabelFreeCovidSegLib.methods.opacitynet2d import OpacityNet2D, seen
from LabelFreeCovidSegLib.methods.uda import LUNG, UNKNOWN
from LabelFreeCovidSegLib.networks.slice_unet import SliceUNet
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan
from LabelFreeCovidSegLib.training import opacitynet2d as recipe
from LabelFreeCovidSegLib.training.opacitynet2d import OpacityNet2DTrainee, developed, photographed, turned
from torch import nn

MM = (3.0, 3.0, 3.0)
SMALL = replace(opacitynet2d.SMALL, spacing_mm=MM, side=96, widths=(4, 8, 8), batch=2, slices=3)
CLAHE = replace(SMALL, domain=base.CLAHE256)
STILL = replace(
    recipe.PICTURES, turn_degrees=0.0, size=(1.0, 1.0), noise_hu=(0, 0), sharpness=(0, 0), windowed=0.0, scale=(1, 1),
    shift_hu=(0, 0), around_mm=(0, 0), metal_hu=(0, 0), found=0.0,
)  # fmt: skip


def chest():
    """Two lungs with a vessel each in soft tissue: HU (k, j, i) and lung."""
    k, j, i = np.ogrid[-12:12, -25:25, -38:38]
    lung = np.zeros((24, 50, 76), bool)
    hu = np.full(lung.shape, 40.0, np.float32)
    for side in (-19, 19):
        lung |= (j / 20) ** 2 + ((i - side) / 14) ** 2 + 0 * k <= 1
    hu[lung] = -850
    hu[np.broadcast_to((j**2 + (abs(i) - 19) ** 2 <= 4) & (k < 99), hu.shape)] = 30
    return hu, lung


def block():
    hu, lung = chest()
    return {"hu": hu.astype(np.int16), "labels": lung.astype(np.uint8)}


def test_a_picture_that_nothing_happens_to_is_the_windowed_slice(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", STILL)
    hu, lung = chest()
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(developed(hu[3], lung[3], SMALL, rng), opacitynet.window(hu[3]), atol=1e-6)


def test_a_wrong_calibration_keeps_the_order_of_densities(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", replace(STILL, scale=(0.9, 0.9), shift_hu=(30, 30)))
    hu, lung = chest()
    made = developed(hu[3], lung[3], SMALL, np.random.default_rng(0))
    expected = opacitynet.window(np.array(AIR_HU + 0.9 * (-850 - AIR_HU) + 30, np.float32))
    np.testing.assert_allclose(made[lung[3] & (hu[3] == -850)], expected, atol=1e-5)


def test_what_lies_beyond_the_window_of_a_picture_is_lost(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", replace(STILL, windowed=1.0, darkest_hu=(-700, -700), brightest_hu=(0, 0)))
    hu, lung = chest()
    made = developed(hu[3], lung[3], SMALL, np.random.default_rng(0))
    assert np.unique(made).tolist() == pytest.approx([300 / 1200, 1000 / 1200])


def test_an_equalised_picture_stretches_what_is_nearly_even(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", STILL)
    hu, lung = chest()
    hu = np.pad(hu[3], ((103, 103), (90, 90)), constant_values=-1000)
    lung = np.pad(lung[3], ((103, 103), (90, 90)))
    hu = hu + np.random.default_rng(1).normal(0, 20, hu.shape).astype(np.float32)
    plain = (hu - hu.min()) / (hu.max() - hu.min())
    equalised = developed(hu.copy(), lung, CLAHE, np.random.default_rng(0))
    air = lung & (hu < -700)
    assert equalised.shape == (256, 256)
    assert equalised[air].std() > 2 * plain[air].std()


def test_lungs_lesions_and_density_move_together(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", replace(recipe.PICTURES, around_mm=(0, 0)))
    hu, lung = chest()
    for seed in range(4):
        density, moved = turned((hu[3], lung[3].astype(np.float32)), SMALL, np.random.default_rng(seed))
        dark = (density < -400) & (density > -950)
        both = dark & (moved > 0.5)
        assert 2 * both.sum() / (dark.sum() + (moved > 0.5).sum()) > 0.9
        assert 0.5 * lung[3].sum() < (moved > 0.5).sum() < 1.8 * lung[3].sum()


def test_targets_name_lesions_and_bright_healthy_tissue(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", STILL)
    monkeypatch.setattr(recipe, "BORDER_LEVEL", (0.5, 0.5))
    hu, lung = chest()
    ill = np.zeros(hu.shape, np.float32)
    ill[:, 20:30, 10:18] = 1
    ill *= lung
    ill_hu = np.where(ill > 0, np.maximum(hu, -300), hu).astype(np.float32)
    stack = photographed(ill_hu, hu, lung.astype(np.uint8), ill, SMALL, np.random.default_rng(0))
    assert stack.shown.shape == (3, 2, 96, 96)
    for shown, target in zip(stack.shown, stack.target, strict=True):
        assert (target == OPACITY).sum() == pytest.approx((ill[0] > 0).sum(), rel=0.1)
        assert (target == BRIGHT_HEALTHY).any()
        assert not target[shown[1] == 0].any()
        assert (shown[0][target == OPACITY] > 0.5).mean() > 0.9


def test_what_the_lung_finder_takes_for_lung_and_is_none_is_bright_and_healthy(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURES", replace(STILL, found=1.0))
    hu, lung = chest()
    lung[:, :, :10] = False  # the labels leave out a strip, and nobody knows what is right of it
    labels = np.where(lung, LUNG, 0).astype(np.uint8)
    labels[:, :, 70:] = UNKNOWN
    monkeypatch.setattr(picturenet, "find", lambda grey: (np.ones(grey.shape, np.float32), ()))
    stack = photographed(hu, hu, labels, np.zeros(hu.shape, np.float32), SMALL, np.random.default_rng(0))
    for shown, target in zip(stack.shown, stack.target, strict=True):
        tissue = (shown[1] > 0) & (shown[0] > opacitynet.window(np.array(-400.0, np.float32)))
        assert tissue.sum() > 1000
        assert (target[tissue] == BRIGHT_HEALTHY).all()
        assert not (target == OPACITY).any()
    shown = stack.shown[0, 1][23:73, 10:86]  # the slice in the middle of its canvas, mirrored or not
    assert shown[:, 6:-6].all()
    assert sorted([shown[:, :5].any(), shown[:, -5:].any()]) == [False, True]


@pytest.mark.parametrize("side", [128, 64])  # the lungs are 80 pixels wide
def test_equalised_pictures_keep_their_pixels(side):
    grid = Grid(size=(100, 90, 1), spacing=(1.4, 1.4, 1.5), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    lungs = np.zeros((1, 90, 100), np.uint8)
    lungs[:, 10:80, 10:90] = 1
    grey = np.random.default_rng(0).uniform(-800, 100, lungs.shape).astype(np.float32)
    seen_ = []

    class Spy(Dense):
        def forward(self, x):
            seen_.append(x)
            return super().forward(x)

    model = OpacityNet2D(
        [Spy(0.3)], replace(opacitynet_clahe.PRESETS["small"], side=side), "stub", opacitynet_clahe.CARD
    )
    model.predict(Scan(grey, grid, grid, "made up"), LungMask(lungs, "given"), Compute("cpu", "float32"), silent)
    shown = np.unique(np.round(seen_[0][0, 0].numpy(), 5))
    expected = np.unique(np.round(opacitynet.window(grey, (-800, 100))[lungs > 0], 5))
    assert np.isin(expected, shown).mean() > 0.99


def test_a_sample_is_decided_by_its_seed():
    made = OpacityNet2DTrainee(SMALL, [[block()]])
    first, again, other = (made.sample(np.random.SeedSequence(seed), 0.0) for seed in (1, 1, 2))
    for name in ("shown", "target"):
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["shown"] != other["shown"]).any()


class Dense(nn.Module):
    """A stand-in for a network: lung above an intensity is lesion with a probability of 0.9."""

    def __init__(self, above):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.above = above

    def forward(self, x):
        image = x[:, :1]
        odds = torch.where(image > self.above, float(np.log(9)), -9.0)
        return torch.cat((torch.zeros_like(image), torch.full_like(image, -30.0), odds), dim=1)


def test_the_held_out_scan_tells_a_network_that_sees_from_one_that_does_not():
    made = OpacityNet2DTrainee(SMALL, [[block()]], [block()])
    scores = []
    for above in (2.0, 0.4):
        made.networks = {"network": Dense(above)}
        scores.append(made.validate())
    assert scores[0] == 0
    assert scores[1] > 0.3


def test_one_iteration_lowers_the_loss_on_the_same_batch():
    torch.manual_seed(0)
    made = OpacityNet2DTrainee(SMALL, [[block()]])
    sample = made.sample(np.random.SeedSequence(0), 0.0)
    batch = {name: torch.from_numpy(array)[None] for name, array in sample.items()}
    (optimizer,) = made.optimizers().values()
    losses = []

    def update(name, loss):
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(8):
        made.step(batch, 0.0, update)
    assert losses[-1] < losses[0]


def test_what_is_kept_is_the_mean_of_the_network_on_its_way():
    torch.manual_seed(0)
    made = OpacityNet2DTrainee(replace(SMALL, iterations=10, inertia=0.9), [[block()]])
    sample = made.sample(np.random.SeedSequence(1), 0.0)
    batch = {name: torch.from_numpy(array)[None] for name, array in sample.items()}
    (optimizer,) = made.optimizers().values()

    def update(name, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    on_the_way = []
    for iteration in range(3):
        made.step(batch, iteration / 10, update)
        on_the_way.append({name: tensor.clone() for name, tensor in made.learner.state_dict().items()})
    mean = made.networks["network"].state_dict()
    assert not torch.equal(on_the_way[0]["scores.weight"], on_the_way[2]["scores.weight"])
    for name in ("scores.weight", "down.0.1.weight", "down.0.1.running_mean"):
        expected = sum(state[name] for state in on_the_way) / 3  # a mean of all, as long as they are few
        torch.testing.assert_close(mean[name], expected)
    assert made.networks.keys() == {"network", "learner"}  # both go on where a run was cut off


@pytest.mark.parametrize("count", [1, 20])
def test_lesions_are_outlined_where_they_lie_in_the_scan(count):
    grid = Grid(size=(90, 70, count), spacing=(2.0, 2.0, 2.0), origin=(5, 6, 7), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    lungs = np.zeros((count, 70, 90), np.uint8)
    lungs[:, 10:60, 10:80] = 1
    ball = np.zeros(lungs.shape, bool)
    ball[:, 20:40, 30:50] = True
    hu = np.where(ball, -300.0, -850.0).astype(np.float32)
    model = OpacityNet2D([Dense(0.3)], replace(opacitynet2d.SMALL, side=128), "stub")
    found = model.predict(Scan(hu, grid, grid, "made up"), LungMask(lungs, "given"), Compute("cpu", "float32"), silent)
    assert 2 * (found.lesion & ball).sum() / (found.lesion.sum() + ball.sum()) > 0.95
    assert not found.lesion[lungs == 0].any()
    assert found.score[count // 2, 30, 40] == pytest.approx(0.9, abs=1e-3)


def test_what_neighbours_do_not_show_is_doubted():
    grid = Grid(size=(80, 64, 5), spacing=(1.5, 1.5, 3.0), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    lungs, hu = np.ones((5, 64, 80), np.uint8), np.full((5, 64, 80), -850.0, np.float32)
    hu[2, 20:40, 10:20] = hu[2:4, 20:40, 50:60] = -300.0  # in one slice, and in two
    model = OpacityNet2D([Dense(0.3)], replace(opacitynet2d.SMALL, side=80), "stub")
    found = model.predict(Scan(hu, grid, grid, "made up"), LungMask(lungs, "given"), Compute("cpu", "float32"), silent)
    inside, outside = 0.9, float(found.score[0, 5, 5])
    np.testing.assert_allclose(found.score[2, 30, 15], (inside + outside) / 2, rtol=1e-3)
    np.testing.assert_allclose(found.score[[2, 3], 30, 55], (3 * inside + outside) / 4, rtol=1e-3)


def test_where_a_neighbour_has_no_lung_only_the_others_have_a_say():
    lung = np.array([[0, 0, 1], [1, 1, 1], [0, 1, 1]], bool)[:, None]  # three slices of three pixels
    weighed = opacitynet2d.weighed(np.where(lung, np.float32(0.6), np.float32(0.9)), lung)
    np.testing.assert_allclose(weighed, 0.6 * lung, rtol=1e-6)


def test_where_it_may_be_no_lung_lesions_are_doubted():
    grid = Grid(size=(80, 64, 1), spacing=(1.5, 1.5, 3.0), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    lungs, hu = np.ones((1, 64, 80), np.uint8), np.full((1, 64, 80), -850.0, np.float32)
    hu[0, 10:50, 10:30] = hu[0, 10:50, 50:70] = -300.0
    certainty = np.where(np.arange(80) < 40, 0.9, 0.3).astype(np.float32) * np.ones(hu.shape, np.float32)
    model = OpacityNet2D([Dense(0.3)], replace(opacitynet2d.SMALL, side=80), "stub")  # says 0.9 of both
    seen = LungMask(lungs, "found in the picture", certainty=certainty)
    found = model.predict(Scan(hu, grid, grid, "made up"), seen, Compute("cpu", "float32"), silent)
    np.testing.assert_allclose(found.score[0, 30, [20, 60]], [0.81, 0.27], rtol=1e-3)
    assert found.lesion[0, 30, [20, 60]].tolist() == [1, 0]


def test_a_third_of_what_a_network_normalises_with_is_of_what_it_is_about_to_see():
    network = nn.Sequential(nn.BatchNorm2d(2)).eval()  # of mean 0 and variance 1
    shown = np.zeros((34, 2, 8, 8), np.float32)
    shown[:17, 0] = 6.0  # the upper half of a scan
    shown[:, 1, :4], shown[:, 1, 4:] = 2.0, -2.0
    (layer,) = opacitynet2d.adapted(network, shown, Compute("cpu", "float32"))
    np.testing.assert_allclose(layer.running_mean, [1, 0], atol=0.02)
    np.testing.assert_allclose(layer.running_var, [2 / 3 + 9 / 3, 2 / 3 + 4 / 3], rtol=0.01)
    assert not layer.training
    np.testing.assert_array_equal(network[0].running_mean, [0, 0])  # the next one finds it as it was


def test_a_scan_is_judged_by_a_network_that_has_adapted_to_it():
    class Normalised(Dense):
        """A stand-in: twice as bright as is usual is lesion."""

        def __init__(self):
            super().__init__(1.0)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            return super().forward(self.norm(x))

    grid = Grid(size=(64, 64, 1), spacing=(1.5, 1.5, 3.0), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    lungs, hu = np.ones((1, 64, 64), np.uint8), np.full((1, 64, 64), -1000.0, np.float32)
    hu[0, :16] = 200.0  # a quarter of it is 1, of variance 3/16: (1 - 1/12) / sqrt(35/48) = 1.07 after adapting
    model = OpacityNet2D([Normalised().eval()], replace(opacitynet2d.SMALL, side=64), "stub")
    found = model.predict(Scan(hu, grid, grid, "made up"), LungMask(lungs, "given"), Compute("cpu", "float32"), silent)
    assert found.lesion[0, :15].all()
    assert not found.lesion[0, 17:].any()


def test_networks_see_lung_and_nothing_else():
    shown = seen(np.full((2, 4, 4), 0.7, np.float32), np.eye(4, dtype=bool)[None].repeat(2, 0))
    assert shown.shape == (2, 2, 4, 4)
    assert np.unique(shown[:, 0]).tolist() == pytest.approx([0, 0.7])
    np.testing.assert_array_equal(shown[:, 0] > 0, shown[:, 1] > 0)


def test_the_network_keeps_the_extents_and_refuses_odd_ones():
    network = SliceUNet((4, 8, 8), 2, 3)
    assert network(torch.zeros(1, 2, 8, 12)).shape == (1, 3, 8, 12)
    with pytest.raises(ValueError, match="divisible by 4"):
        network(torch.zeros(1, 2, 8, 10))


def test_equalised_pictures_have_a_method_of_their_own():
    assert opacitynet_clahe.CARD.domain == base.CLAHE256
    assert opacitynet2d.CARD.domain == base.HU
    assert opacitynet_clahe.PRESETS["small"].domain == base.CLAHE256
