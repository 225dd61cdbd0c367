"""Both lungs as a network sees them: by the shape that healthy lungs have, wherever consolidation hides their border.

Ours. Trained without an outline by hand: the classical finder's masks of near-healthy scans are the answer, and the
same scans made ill by synthetic disease are the question (`training/chests.py`). The classical finder sees all lung
that holds air and closes over what is small; the network, at 4 mm, is shown the scan and that air, and says where the
rest of the lung is. What is thinner than its voxels stays as the classical finder has it, whose outline checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.lungs import chestwall, classical, plausibility
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT, LungMask
from LabelFreeCovidSegLib.lungs.classical import ALIKE, Coarse
from LabelFreeCovidSegLib.lungs.morphology import Spacing, dilation, distance, keep, opening
from LabelFreeCovidSegLib.networks.forward import forward
from LabelFreeCovidSegLib.networks.res_unet import ResUNet
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan, bounding_box, resample, windowed

NAME = "lungnet"
SPACING_MM = (4.0, 4.0, 4.0)
CHANNELS = (12, 24, 48, 64, 64)
"""Five levels: at the bottom a voxel is 64 mm wide, so that the answer can rest on the whole chest."""
WINDOW_HU = (-1024.0, 276.0)
AROUND_MM = 32.0
"""So far above and below the air of both lungs there can be lung without any; no training scan shows more."""
DENIED = 0.1
"""Below this probability of lung, soft tissue that the classical finder closed over is taken out again. It takes more
to be denied than to be added: that finder seldom closes over what is no lung."""
POSSIBLE, LIKE_HU = 0.2, 25.0
"""From this probability on, consolidation goes on into tissue whose density differs by no more from what the network is
sure of: its certainty fades with the distance from the air, while a consolidation is one tissue."""
SMOOTH_MM = 2.0
PIECE_SHARE = 0.05
"""Connected components smaller than this share of their lung are dropped."""
ADDED_MM, DENIED_MM = 8.0, 4.0
"""Radius of the ball that must fit into what is added or taken out: what is thinner is the network's voxels and, where
it is added, as often a rim of liver or of the aorta."""
RIBS_MM = 12.0
"""What is added comes so near to the ribs, or lies on the diaphragm. Pieces added for consolidation that was planted at
the mediastinum came within 8 mm, because ribs begin beside the spine; the vessels of a hilum are 50 mm away."""
BRONCHI_MM = 3.0
"""What lies so near to air that is not lung is the wall of an airway."""
TRUSTED_SHARE = 0.9
"""Of the air in the lungs, as the classical finder sees it; a network that finds less has not understood the scan."""
AGREEMENT = 0.9


def build() -> ResUNet:
    """The untrained network: in, the channels of `question`; out, the logit of lung."""
    return ResUNet(CHANNELS, in_channels=2, out_channels=1)


def window(hu: np.ndarray) -> np.ndarray:
    """HU -> [0, 1] over [-1024, 276] HU."""
    return windowed(hu, WINDOW_HU)


def question(hu: np.ndarray, air: np.ndarray) -> np.ndarray:
    """What the network is asked, (2, k, j, i) float32: the windowed scan, and where lung holds air (0 or 1)."""
    return np.stack([window(hu), air.astype(np.float32)])


def load(store: Path | None = None) -> nn.Module:
    """The network with the weights that ship, or with those in another store.

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    entry, (state,) = weights.load(NAME, store)
    return weights.fill(build(), state, entry).eval()


def find(scan: Scan, progress: Progress = silent, store: Path | None = None) -> LungMask:
    """Outline both lungs, consolidation included, trachea and main bronchi not.

    Where the network has plainly not understood the scan the classical finder's mask is returned; where the two
    differ, the mask says so.

    Args:
        store: another model store than the program's.

    Raises:
        LungError: less than 300 mL of lung holds air.
        WeightsError: see `load`.
    """
    network = load(store)
    coarse = classical.outline(scan, part(progress, 0.0, 0.5))
    progress(0.5, "Finding the whole lungs")
    seen = predict(network, coarse)
    progress(0.75, "Drawing the border at full resolution")
    source, warnings = NAME, tuple[str, ...]()
    if covered(seen.lungs, coarse) < TRUSTED_SHARE:
        lungs, source = coarse.lungs, "classical, instead of lungnet"
        warnings = (
            "The network for lungs did not understand this scan, so the lungs were outlined by their air alone; "
            "consolidation at their border may be missing.",
        )
    else:
        lungs = corrected(coarse, seen)
        warnings = differences(lungs, coarse)
    full = classical.refine(scan, coarse, lungs, coarse.air & (lungs > 0), coarse.gas)
    progress(1.0, "Lungs found")
    return LungMask(full, source, warnings + plausibility.warnings(full, scan.grid))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network makes of a scan; arrays are (k, j, i) on the blocks of a `Coarse`.

    Attributes:
        lungs: uint8, 1 right, 2 left.
        denied: bool, where there is hardly lung. possible: bool, where there may be.
    """

    lungs: np.ndarray
    denied: np.ndarray
    possible: np.ndarray


def predict(network: nn.Module, coarse: Coarse) -> Seen:
    """Look at the blocks of `coarse`; in float32 on the CPU, the same everywhere."""
    levels = bounding_box(coarse.lungs > 0, (int(AROUND_MM / coarse.spacing[0]), 0, 0))[0]
    # Their real place in the world would only change the last bits of what follows, from one file format to another.
    blocks = Grid(coarse.hu[levels].shape[::-1], coarse.spacing[::-1], (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    working = blocks.with_spacing(SPACING_MM)
    hu = resample(coarse.hu[levels], blocks, working, outside=AIR_HU)
    air = resample(coarse.air[levels].astype(np.uint8), blocks, working, nearest=True)
    probability = resample(foresee(network, question(hu, air)), working, blocks)
    lungs = decide(probability, coarse.lungs[levels], coarse.spacing, coarse.middle)
    ends = [(levels.start, coarse.lungs.shape[0] - levels.stop), (0, 0), (0, 0)]
    return Seen(*(np.pad(part, ends) for part in (lungs, probability < DENIED, probability > POSSIBLE)))


def foresee(network: nn.Module, asked: np.ndarray) -> np.ndarray:
    """Probability of lung (k, j, i) float32 for a `question` (2, k, j, i)."""
    extents = asked.shape[1:]
    stride = 2 ** (len(CHANNELS) - 1)
    padded = np.pad(asked, [(0, 0), *((0, -n % stride) for n in extents)])
    with torch.inference_mode():
        found = forward(network, torch.from_numpy(padded)[None]).sigmoid()[0, 0].numpy()
    return np.ascontiguousarray(found[tuple(slice(n) for n in extents)])


def decide(probability: np.ndarray, known: np.ndarray, spacing: Spacing, middle: float) -> np.ndarray:
    """From probability (k, j, i) to labels: lung from one half on, without small pieces, each part of the nearer lung.

    Beyond the mediastinum the side decides; everywhere, where a lung has hardly any air that could be near.

    Args:
        known: uint8, right (1) and left (2) lung where they hold air.
        middle: column of the body's middle.
    """
    aside_mm = (np.arange(known.shape[2]) - middle) * spacing[2]
    held = [np.count_nonzero(known == side) for side in (RIGHT, LEFT)]
    mediastinum_mm = classical.ASIDE_MM if min(held) >= ALIKE * max(held) else 0.0
    nearer_right = distance(known == RIGHT, spacing) < distance(known == LEFT, spacing)
    right = np.where(np.abs(aside_mm) > mediastinum_mm, aside_mm < 0, nearer_right)
    labels = np.where(probability > 0.5, np.where(right, RIGHT, LEFT), 0).astype(np.uint8)
    for side in (RIGHT, LEFT):
        pieces, _ = ndimage.label(labels == side)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        labels[(sizes < PIECE_SHARE * sizes.sum())[pieces] & (pieces > 0)] = 0
        labels[ndimage.binary_fill_holes(labels == side) & (labels == 0)] = side
    return labels


def corrected(coarse: Coarse, seen: Seen) -> np.ndarray:
    """The classical outline with the airless lung that only the network sees, and without what it is sure is none."""
    known, spacing = coarse.lungs > 0, coarse.spacing
    free = ~known & ~dilation(coarse.gas, BRONCHI_MM, spacing)
    less = seen.denied & known & ~coarse.air
    lungs = coarse.lungs.copy()
    lungs[opening(less, DENIED_MM, spacing)] = 0
    sure = {side: opening((seen.lungs == side) & free, ADDED_MM, spacing) for side in (RIGHT, LEFT)}
    grown = {}
    for side, where in sure.items():
        mine = seen.possible & free & (seen.lungs != RIGHT + LEFT - side)
        grown[side] = gone_on(where, mine, coarse) if where.any() else where
        lungs[where | grown[side]] = side
    disputed = grown[RIGHT] & grown[LEFT]
    if disputed.any():
        nearer_right = distance(sure[RIGHT], spacing) < distance(sure[LEFT], spacing)
        lungs[disputed & nearer_right] = RIGHT
    added = free & (lungs > 0)
    lungs[added & ~anchored(added, coarse)] = 0
    return lungs


def anchored(added: np.ndarray, coarse: Coarse) -> np.ndarray:
    """The connected components of `added` that reach the ribs, or below most of which no lung lies; (k, j, i) bool.

    In between, consolidation mostly has lung on its sides, so that `protrusions` finds it, and what looks like it is a
    hilum. Without ribs in view nothing can be told, and all is kept.
    """
    if not added.any():
        return added
    ribs = chestwall.rib_cage(coarse.hu, coarse.lungs > 0, coarse.spacing)
    if not ribs.any():
        return added
    near_ribs = distance(ribs, coarse.spacing) <= RIBS_MM
    lung_beneath = np.logical_or.accumulate(coarse.lungs > 0, axis=0)
    pieces, count = ndimage.label(added)
    kept = np.zeros(count + 1, dtype=bool)
    for piece, box in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[box] == piece
        kept[piece] = near_ribs[box][inside].any() or lung_beneath[box][inside].mean() < 0.5
    return kept[pieces]


def gone_on(sure: np.ndarray, possible: np.ndarray, coarse: Coarse) -> np.ndarray:
    """Where consolidation goes on from where it is sure: as far as it may and its density stays; (k, j, i) bool."""
    box = bounding_box(possible | sure, (1, 1, 1))
    sure, possible, spacing = sure[box], possible[box], coarse.spacing
    smooth = ndimage.gaussian_filter(coarse.hu[box], [SMOOTH_MM / mm for mm in spacing])
    pieces, count = ndimage.label(sure)
    like = sure.copy()
    for median in (np.median(smooth[pieces == piece]) for piece in range(1, count + 1)):
        like |= possible & (np.abs(smooth - median) < LIKE_HU)
    whole = np.zeros(coarse.lungs.shape, dtype=bool)
    whole[box] = keep(opening(like, ADDED_MM, spacing), sure)
    return whole


def covered(lungs: np.ndarray, coarse: Coarse) -> float:
    """Share of the air in the lungs that the network found, in the lung with less of it.

    A lung with hardly any air does not count: what the outline by air alone takes for its rest may be bowel.
    """
    both = [coarse.air & (coarse.lungs == side) for side in (RIGHT, LEFT)]
    least = ALIKE * max(np.count_nonzero(air) for air in both)
    return min(float((lungs[air] > 0).mean()) for air in both if np.count_nonzero(air) >= max(least, 1))


def differences(lungs: np.ndarray, coarse: Coarse) -> tuple[str, ...]:
    """A sentence for each lung that the two finders see differently (Dice under 0.9)."""
    found = []
    for side, name in ((RIGHT, "right"), (LEFT, "left")):
        one, other = lungs == side, coarse.lungs == side
        both = np.count_nonzero(one) + np.count_nonzero(other)
        if both and 2 * np.count_nonzero(one & other) < AGREEMENT * both:
            more, less = (np.count_nonzero(a & ~b) * coarse.block_ml for a, b in ((one, other), (other, one)))
            found.append(
                f"Check the {name} lung: by its shape it holds {more:.0f} mL that have no air, "
                f"and leaves out {less:.0f} mL that the outline by air alone would count."
            )
    return tuple(found)
