"""Tiled prediction against what a network says of the whole volume."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError
from LabelFreeCovidSegLib.inference import cover, predict_tiles
from torch import nn

WINDOW = (8, 16, 16)


class Pointwise(nn.Module):
    """Scores that depend on the voxel alone, so that tiling must not show."""

    def forward(self, x):
        return torch.cat((torch.zeros_like(x), 4 * x - 2), dim=1)


class Counting(Pointwise):
    """Counts the tiles it sees."""

    seen = 0

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


def image(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(8, 16, 16), (20, 40, 33), (3, 50, 9)])
def test_tiles_add_up_to_the_answer_for_the_whole_volume(shape):
    volume = image(shape)
    whole = 1 / (1 + np.exp(2 - 4 * volume))
    tiled = predict_tiles(Pointwise(), volume, np.ones(shape, bool), WINDOW, Compute())
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_without_lung_are_not_computed():
    shape = (8, 16, 160)
    lung = np.zeros(shape, bool)
    lung[:, :, :4] = True
    network = Counting()
    tiled = predict_tiles(network, image(shape), lung, WINDOW, Compute())
    assert network.seen == 1
    assert (tiled[:, :, 20:] == 0).all()
    assert (tiled[:, :, :4] > 0).all()


def test_bfloat16_stays_near_float32():
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1).eval()
    volume, lung = image((16, 32, 32)), np.ones((16, 32, 32), bool)
    exact = predict_tiles(network, volume, lung, WINDOW, Compute("cpu", "float32"))
    lowered = predict_tiles(network, volume, lung, WINDOW, Compute("cpu", "bfloat16"))
    assert 0 < np.abs(exact - lowered).max() < 0.02


def test_the_same_volume_gives_the_same_bytes():
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1).eval()
    volume, lung = image((16, 32, 32)), np.ones((16, 32, 32), bool)
    once, again = (predict_tiles(network, volume, lung, WINDOW, Compute()) for _ in range(2))
    assert once.tobytes() == again.tobytes()


def test_cancelling_stops_between_tiles():
    network = Counting()

    def cancel_at_the_third(fraction, phase):
        if network.seen == 2:
            raise CancelledError("stop")

    shape = (8, 16, 160)
    with pytest.raises(CancelledError):
        predict_tiles(network, image(shape), np.ones(shape, bool), WINDOW, Compute(), cancel_at_the_third)
    assert network.seen == 2


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("shape", [(8, 16, 16), (9, 33, 100)])
def test_every_voxel_lies_in_a_tile_and_neighbours_overlap_enough(shape, overlap):
    seen = np.zeros(shape, int)
    tiles = list(cover(shape, WINDOW, overlap))
    for tile in tiles:
        seen[tile] += 1
        assert tuple(s.stop - s.start for s in tile) == WINDOW
    assert seen.min() >= 1
    for axis in range(3):
        starts = sorted({tile[axis].start for tile in tiles})
        assert all(b - a <= WINDOW[axis] * (1 - overlap) + 1 for a, b in pairwise(starts))
