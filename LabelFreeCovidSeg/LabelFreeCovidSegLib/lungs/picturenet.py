"""Both lungs in a single picture, as a network sees them: by the shape that lungs have, in any window.

Ours, and the counterpart of `lungnet` where there are neither Hounsfield units nor neighbouring slices. Trained
without an outline by hand: the classical finder's masks of near-healthy scans are the answer. The question is a slice
of the same scan, ill, in another body, and shown as pictures are: windowed or equalised, cropped or with the room
around the patient (`training/picturenet.py`). The answer needs no calibration, so that it can come first.

As in `lungnet`, lung that holds air is outlined by its darkness (`planar`), to the pixel; the network says what of that
outline is no lung, and where the rest is. In a single slice the border of the heart, or a dome of the diaphragm, may be
consolidated lung: which is likelier depends on how ill patients are. So networks that have learned from chests more and
less ill say together how certain it is; the one that knows the most ill ones outlines, so that nothing is lost.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.lungs import planar
from LabelFreeCovidSegLib.networks.slice_unet import SliceUNet

NAME = "picturenet"
SIDE = 192
"""Pixels of the square that a picture is brought into: about 2 mm where the whole patient is seen."""
WIDTHS = (16, 32, 48, 64, 96, 96)
"""Six levels: at the bottom a pixel is a sixth of the picture, so that the answer can rest on all of it."""
ENDS = (0.5, 99.5)
"""Percentiles of the greys that become 0 and 1: letters and metal are fewer."""
LEAST_SHARE = 0.002
"""Of the picture; smaller pieces are dropped."""
AGREEMENT = 0.7
"""Dice with the outline by darkness alone, which a picture's lungs differ from where they are ill; less is doubtful."""
DENIED, ADDED = 0.3, 0.5
"""What the outline by darkness holds is lung unless its probability is less: bowel, hila, the air around the body (the
best of 0.2 to 0.6 in pictures of the held-out scan). Other tissue is lung at even odds."""


def build() -> SliceUNet:
    """The untrained network: in, what `shown` returns; out, the logit of lung."""
    return SliceUNet(WIDTHS, in_channels=2, out_channels=1)


@cache
def load(store: Path | None = None) -> tuple[nn.Module, ...]:
    """The networks with the weights that ship, or with those in another store; read once, for all pictures of a folder.

    The first one outlines.

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    entry, states = weights.load(NAME, store)
    return tuple(weights.fill(build(), state, entry).eval() for state in states)


def find(grey: np.ndarray, store: Path | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Both lungs of an upright picture, consolidation included; in float32 on the CPU, the same everywhere.

    Args:
        grey: (j, i), any unit in which air is darker than tissue.

    Returns:
        (j, i) float32, the networks' mean probability of lung in the lungs and 0 elsewhere, and everywhere where there
        is nothing like lungs; and a sentence if darkness alone would outline other ones.

    Raises:
        WeightsError: see `load`.
    """
    dark, probabilities = planar.find(grey), [foresee(network, grey) for network in load(store)]
    lungs = (dark & (probabilities[0] > DENIED)) | (probabilities[0] > ADDED)
    pieces, _ = ndimage.label(lungs)
    sizes = np.bincount(pieces.ravel())
    kept = lungs & (sizes >= LEAST_SHARE * grey.size)[pieces]
    lungs = planar.filled(kept)
    # What lies in the midst of lung is lung, whatever it looks like.
    return np.where(kept, np.mean(probabilities, axis=0), lungs.astype(np.float32)), doubts(lungs, dark)


def foresee(network: nn.Module, grey: np.ndarray) -> np.ndarray:
    """Probability of lung (j, i) float32 for a picture."""
    rows, columns = extents(grey.shape)
    with torch.inference_mode():
        scores = network(torch.from_numpy(shown(grey))[None])[..., :rows, :columns]
        return functional.interpolate(scores.sigmoid(), grey.shape, mode="bilinear")[0, 0].numpy()


def doubts(lungs: np.ndarray, dark: np.ndarray) -> tuple[str, ...]:
    """A sentence where the lungs (j, i) and what is dark of them differ by much."""
    both = np.count_nonzero(lungs) + np.count_nonzero(dark)
    if 2 * np.count_nonzero(lungs & dark) >= AGREEMENT * both:
        return ()
    more, less = (np.count_nonzero(a & ~b) / lungs.size for a, b in ((lungs, dark), (dark, lungs)))
    return (
        f"Check the lungs: by their shape they hold {more:.0%} of the picture that are not dark, and leave out "
        f"{less:.0%} that are.",
    )


def shown(grey: np.ndarray) -> np.ndarray:
    """What the network sees of a picture (j, i): (2, SIDE, SIDE) float32, its greys in [0, 1] and where they lie.

    The longer side fills the square, what is left of the shorter one is 0.
    """
    low, high = np.percentile(grey, ENDS)
    bright = np.clip((grey.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1)), 0, 1)
    return np.stack([squared(bright), squared(np.ones_like(bright))])


def squared(plane: np.ndarray) -> np.ndarray:
    """A plane (j, i) float32 in the upper left of a square (SIDE, SIDE), its longer side filling it."""
    image = torch.from_numpy(np.ascontiguousarray(plane))[None, None]
    small = functional.interpolate(image, extents(plane.shape), mode="bilinear", antialias=True)[0, 0].numpy()
    return np.pad(small, [(0, SIDE - extent) for extent in small.shape])


def extents(shape: tuple[int, ...]) -> tuple[int, int]:
    """What a picture of `shape` takes of the square, (j, i)."""
    rows, columns = (max(round(SIDE * extent / max(shape)), 1) for extent in shape)
    return rows, columns
