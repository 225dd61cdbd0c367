"""The lung network for pictures: what it is shown, what is made of its answer, and what it learns from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.lungs import find_in_picture, picturenet, planar
from LabelFreeCovidSegLib.lungs.picturenet import SIDE, shown, squared
from LabelFreeCovidSegLib.training import picturenet as recipe
from LabelFreeCovidSegLib.training.chests import Chest
from LabelFreeCovidSegLib.training.picturenet import PictureNetTrainee, Preset, picture
from slice_pictures import belly, chest_slice, dice
from torch import nn

WINDOWS = [(-1350, 150), (-1000, 400), (-1250, 250), (-1024, 1500)]
AS_IT_IS = replace(recipe.PICTURE, windowed=0.0, equalised=0.0, gamma=(1.0, 1.0), cropped=1.0, near=(0.5, 0.5))


class Dark(nn.Module):
    """A stand-in network that takes for lung what is darker than the middle of the greys."""

    def forward(self, pictures):
        return torch.where((pictures[:, :1] < 0.5) & (pictures[:, 1:] > 0), 20.0, -20.0)


@pytest.fixture
def dark(monkeypatch):
    monkeypatch.setattr(picturenet, "load", lambda store=None: (Dark(),))


def lung_in_tissue(shape, box):
    grey = np.full(shape, 200, np.uint8)
    grey[box] = 20
    return grey


def test_the_network_has_room_in_two_megabytes():
    assert sum(2 * p.numel() for p in picturenet.build().parameters()) < 2_000_000


def test_greys_are_stretched_and_the_rest_of_the_square_is_empty():
    grey = np.repeat(np.array([[50, 100, 150]], np.uint8), 2, axis=0).repeat(96, axis=0).repeat(128, axis=1)
    image, inside = shown(grey)
    assert image.shape == inside.shape == (SIDE, SIDE)
    assert inside[: SIDE // 2].all()
    assert not inside[SIDE // 2 :].any()
    assert not image[SIDE // 2 :].any()
    np.testing.assert_allclose(image[10, [10, 96, 180]], [0, 0.5, 1])


def test_a_picture_of_one_grey_is_shown():
    assert np.isfinite(shown(np.full((40, 50), 7, np.uint8))).all()


@pytest.mark.parametrize("shape", [(384, 384), (100, 300), (500, 200), (80, 64)])
def test_an_answer_comes_back_to_the_pictures_own_pixels(dark, shape):
    rows, columns = shape
    box = np.s_[rows // 4 : rows // 2, columns // 4 : columns // 2]
    grey = lung_in_tissue(shape, box)
    assert dice(picturenet.find(grey)[0] > 0, grey < 100) > 0.93


def test_specks_are_no_lungs(dark):
    grey = lung_in_tissue((192, 192), np.s_[40:80, 40:80])
    grey[150:154, 150:154] = 20  # 16 of 36,864 pixels
    found, _ = picturenet.find(grey)
    assert found[60, 60]
    assert not found[140:].any()


class Says(nn.Module):
    """A stand-in network with one answer for all pixels."""

    def __init__(self, probability):
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, pictures):
        return torch.full_like(pictures[:, :1], self.logit)


def test_what_is_dark_is_lung_unless_the_network_is_sure_that_it_is_none(monkeypatch):
    chest = chest_slice()
    grey = chest.window(-1350, 150)
    for probability, share in ((0.5, 1.0), (0.2, 0.0)):
        monkeypatch.setattr(picturenet, "load", lambda store=None, probability=probability: (Says(probability),))
        certainty, _ = picturenet.find(grey)
        assert (certainty[planar.find(grey)] > 0).mean() == share


class LikesDarkness(nn.Module):
    """A stand-in network for which what is dark is lung with 0.88, and what is bright with 0.12."""

    def forward(self, pictures):
        return torch.where(pictures[:, :1] < 0.5, 2.0, -2.0)


def test_a_finder_is_as_certain_as_its_network_but_for_what_lung_surrounds(monkeypatch):
    grey = lung_in_tissue((192, 192), np.s_[30:130, 30:130])
    grey[76:84, 76:84] = 200  # a vessel
    monkeypatch.setattr(picturenet, "load", lambda store=None: (LikesDarkness(),))
    certainty, _ = picturenet.find(grey)
    np.testing.assert_allclose(certainty[[45, 80, 150], [45, 80, 150]], [0.88, 1.0, 0.0], atol=1e-2)


def test_the_first_network_outlines_and_all_say_how_certain_it_is(monkeypatch):
    grey = lung_in_tissue((192, 192), np.s_[30:130, 30:130])
    monkeypatch.setattr(picturenet, "load", lambda store=None: (Dark(), Says(0.2)))
    certainty, _ = picturenet.find(grey)
    np.testing.assert_allclose(certainty[[45, 150], [45, 150]], [0.6, 0.0], atol=1e-2)


def test_lungs_that_darkness_would_outline_otherwise_are_doubted():
    dark = np.zeros((10, 10), bool)
    dark[:5] = True
    assert picturenet.doubts(dark, dark) == ()
    lungs = np.zeros((10, 10), bool)
    lungs[3:8] = True
    (doubt,) = picturenet.doubts(lungs, dark)
    assert "hold 30% of the picture that are not dark, and leave out 30%" in doubt


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cropped", [False, True])
def test_the_weights_that_ship_find_the_phantoms_lungs(window, cropped):
    chest = chest_slice().cropped() if cropped else chest_slice()
    certainty, doubts = find_in_picture(chest.window(*window))
    assert dice(certainty > 0, chest.lung) > (0.93 if cropped else 0.8)  # a dome of the diaphragm is half inside
    assert doubts == ()


def test_they_find_consolidation_at_the_pleura():
    ill, solid = chest_slice().consolidated(6)  # 18 mm wide
    certainty, _ = find_in_picture(ill.window(-1350, 150))
    assert ((certainty > 0) & solid).sum() > 0.5 * solid.sum()


def test_they_find_no_lungs_in_a_belly():
    assert not find_in_picture(belly())[0].any()


def one_lung():
    """A slice with a lung of 60 x 40 pixels in tissue: HU, lung, known."""
    lung = np.zeros((120, 160), bool)
    lung[30:90, 50:90] = True
    known = np.ones(lung.shape, bool)
    known[:, 110:] = False
    return np.where(lung, -850, 40).astype(np.float32), lung, known


def test_a_training_picture_shows_the_lung_where_the_answer_has_it(monkeypatch):
    monkeypatch.setattr(recipe, "PICTURE", AS_IT_IS)
    hu, lung, known = one_lung()
    seen, answer, sure = picture(hu, lung, known, np.random.default_rng(0))
    np.testing.assert_array_equal((seen[0] < 0.5) & (seen[1] > 0), answer > 0)
    assert answer.sum() == pytest.approx(60 * 40 * (SIDE / 120) ** 2, rel=0.05)  # 60 and 40 more on each side: 120 x 80
    assert not sure[:, 150:].any()  # beyond the picture's 80 columns


@pytest.mark.parametrize("seed", range(6))
def test_the_answer_stays_on_the_dark_lung_whatever_becomes_of_the_slice(seed):
    hu, lung, known = one_lung()
    seen, answer, sure = picture(hu + np.random.default_rng(seed).normal(0, 10, hu.shape), lung, known,
                                 np.random.default_rng(seed))  # fmt: skip
    assert seen[0][answer > 0].mean() + 0.4 < seen[0][(answer == 0) & (seen[1] > 0)].mean()
    assert not sure[seen[1] == 0].any()


def block():
    """Two lungs of a chest of 24 slices, 4 x 6 x 6 mm."""
    k, j, i = np.ogrid[-12:12, -25:25, -38:38]
    lung = (abs(k) < 10) & ((j / 16) ** 2 + ((abs(i) - 15) / 11) ** 2 < 1)
    labels = np.where(lung, np.where(i < 0, 1, 2), 0).astype(np.uint8)
    return {"hu": np.where(lung, -850, 40).astype(np.int16), "labels": labels, "known": np.ones(lung.shape, np.uint8)}


def test_it_learns_and_is_compared_on_pictures_of_the_held_out_scan(monkeypatch):
    monkeypatch.setattr(recipe, "VIEWS", 2)
    torch.manual_seed(0)
    preset = Preset(spacing_mm=(4.0, 6.0, 6.0), crop=(8, 60, 80), slices=2, learning_rate=0.01)
    trainee = PictureNetTrainee(preset, [[block()]], [block()])
    assert 0 <= trainee.validate() <= 1
    sample = trainee.sample(np.random.SeedSequence(0), 0.0)
    again = trainee.sample(np.random.SeedSequence(0), 0.0)
    for name in ("shown", "lung", "known"):
        np.testing.assert_array_equal(sample[name], again[name])
    batch = {name: torch.from_numpy(array)[None] for name, array in sample.items()}
    optimizer = trainee.optimizers()["network"]

    def update(name, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    losses = [float(trainee.step(batch, 0.0, update)["loss"].detach()) for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


def test_slabs_end_where_the_scan_ends():
    arrays = block()
    chest = Chest(arrays["hu"].astype(np.float32), arrays["labels"], arrays["known"] > 0)
    preset = Preset(spacing_mm=(20.0, 6.0, 6.0))
    for seed in range(4):
        part = recipe.slab(chest, preset, np.random.default_rng(seed))
        assert part.hu.shape == part.labels.shape == part.known.shape
        assert 4 <= len(part.hu) <= 7  # 3 slices of 20 mm on each side, as far as there are any
        assert part.labels.any()


def test_a_plane_keeps_its_shape_in_the_square():
    plane = np.ones((50, 100), np.float32)
    np.testing.assert_allclose(squared(plane)[: SIDE // 2], 1)
    assert not squared(plane)[SIDE // 2 :].any()
