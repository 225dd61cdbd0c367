"""Tiled prediction over the lungs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import nn

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.networks.forward import forward
from LabelFreeCovidSegLib.progress import Progress, silent

Tile = tuple[slice, ...]

EDGE_WEIGHT = 1e-3
"""Added to the Hann weights, which are 0 at a tile's faces: else the volume's own faces would have no answer."""
BATCH = 2
"""Tiles at a time; see `networks.forward`."""
OVERLAP = 0.25
"""Share of a tile that its neighbour covers too."""


def predict_tiles(
    network: nn.Module,
    image: np.ndarray,
    lung: np.ndarray,
    window: tuple[int, int, int],
    compute: Compute,
    progress: Progress = silent,
) -> np.ndarray:
    """Softmax of the network's last class over the whole volume, from overlapping tiles weighted by Hann windows.

    Tiles without lung are left out; the answer there is 0.

    Args:
        network: in evaluation mode; (n, 1, *window) -> (n, classes, *window).
        image: (k, j, i) float32.
        lung: (k, j, i) bool.
        window: extent of a tile in voxels (k, j, i).

    Returns:
        (k, j, i) float32 probability.
    """
    device = torch.device(compute.device)
    # MPS has no float64; the rest is float32 anyway, autocast lowers the network's own arithmetic only.
    network = network.to(device)
    padded = [max(extent, side) for extent, side in zip(image.shape, window, strict=True)]
    source = torch.zeros(padded, dtype=torch.float32)
    source[tuple(slice(extent) for extent in image.shape)] = torch.from_numpy(image)
    weight = hann(window).to(device)
    total = torch.zeros(padded, dtype=torch.float32, device=device)
    norm = torch.zeros_like(total)
    tiles = [tile for tile in cover(tuple(padded), window, OVERLAP) if lung[tile].any()]
    with torch.inference_mode(), compute.autocast():
        for done in range(0, len(tiles), BATCH):
            progress(done / len(tiles), "Finding lesions")
            some = tiles[done : done + BATCH]
            scores = forward(network, torch.stack([source[tile] for tile in some])[:, None].to(device))
            for tile, last in zip(some, scores.float().softmax(dim=1)[:, -1], strict=True):
                total[tile] += weight * last
                norm[tile] += weight
    probability = (total / norm.clamp_min(torch.finfo(torch.float32).tiny)).cpu().numpy()
    return probability[tuple(slice(extent) for extent in image.shape)]


def cover(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> Iterator[Tile]:
    """Tiles of extent `window` that cover `shape`, evenly spread, overlapping by at least `overlap`."""
    starts = []
    for extent, side in zip(shape, window, strict=True):
        count = 1 + int(np.ceil((extent - side) / (side * (1.0 - overlap))))
        starts.append(np.linspace(0, extent - side, count).round().astype(int))
    for corner in product(*starts):
        yield tuple(slice(int(a), int(a) + side) for a, side in zip(corner, window, strict=True))


def hann(window: tuple[int, ...]) -> torch.Tensor:
    """Product of Hann windows plus `EDGE_WEIGHT`, shape `window`."""
    weight = torch.ones(())
    for side in window:
        weight = weight[..., None] * torch.hann_window(side, periodic=False)
    return weight + EDGE_WEIGHT
