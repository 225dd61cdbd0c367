"""OpacityNet (ours): lesions, and what only looks like them, named by one network that has seen painted pneumonia.

NormNet (Yao et al., see `methods.normnet`) asks a network what is healthy, because one that is asked for painted
lesions learns their texture by heart; the price is a post-processing that is not sharp and misses what is faint.
OpacityNet asks for both at once: each voxel is lesion, bright healthy tissue (vessel, airway wall), or neither. To name
the healthy part it must know anatomy; to name the lesion it must have seen what takes the air's place. Against learning
by heart, there are many patterns of pneumonia (`training.pneumonia`), painted before the picture goes through another
scanner, and lesions of another make decide when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import Card, Prediction
from LabelFreeCovidSegLib.methods.normnet import Calibration, Working
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import Scan, bounding_box, windowed
from LabelFreeCovidSegLib.synthesis import WITH_CONSOLIDATION, LesionModel

if TYPE_CHECKING:
    from torch import nn

    from LabelFreeCovidSegLib.networks.res_unet import ResUNet

CARD = Card(
    name="opacitynet",
    title="OpacityNet",
    summary="A network that learned, from healthy lungs with painted pneumonia of many patterns, to tell lesions from "
    "vessels and other bright healthy tissue.",
    citation="LabelFreeCovidSeg: OpacityNet. The idea of naming healthy tissue is that of Yao Q, Xiao L, Liu P, Zhou "
    "SK. Label-Free Segmentation of COVID-19 Lesions in Lung CT. IEEE Trans Med Imaging 2021;40(10):2808-2819. "
    "doi:10.1109/TMI.2021.3066161",
    networks=("opacitynet",),
)

WINDOW_HU = (-1000.0, 200.0)
"""Wider than NormNet's: how dark healthy lung is in this scan tells what faint ground glass is."""
BRIGHT_HEALTHY, OPACITY = 1, 2
CLASSES = 3


@dataclass(frozen=True)
class Preset:
    """A grid, a network and how it is trained.

    Attributes:
        spacing_mm: working grid along (k, j, i).
        crop: extent in voxels (k, j, i) of a training crop and of an inference tile.
        channels: widths of the residual U-Net.
        cooldown: last share of the iterations, over which the learning rate falls to 0 in a straight line.
        lesions: those that choose and calibrate the network; it does not learn from them.
        paint: those that it learns from, by their name in `training.pneumonia.PAINTS`.
        names_healthy: whether bright healthy tissue is a class to learn; without, it is part of the rest.
    """

    name: str
    spacing_mm: Lengths
    crop: tuple[int, int, int]
    channels: tuple[int, ...]
    batch: int
    iterations: int
    learning_rate: float
    cooldown: float
    lesions: LesionModel = WITH_CONSOLIDATION
    paint: str = "moderate"
    names_healthy: bool = True


_SMALL = Preset("small", (1.5, 1.0, 1.0), (32, 128, 128), (8, 16, 32, 64, 128), batch=4, iterations=1500,
                learning_rate=3e-3, cooldown=0.8)  # fmt: skip
_WIDE = replace(_SMALL, name="small-wide", paint="wide")
# A network of each of the first two ships: what only one of them knows by heart, the other doubts. The third is for
# comparison, the question that NormNet's authors advise against.
PRESETS = {
    preset.name: preset
    for preset in (_SMALL, _WIDE, replace(_WIDE, name="small-wide-lesions-alone", names_healthy=False))
}

LESION_PROBABILITY = 0.15
"""From here on a voxel is lesion: the networks' mean of it, before calibration. What is unlike the lesions that they
learned from makes them doubt. As low as it can be with at most 0.5 % marked of a healthy scan that no network learned
from.
"""
THIN_MM, BESIDE_MM = 1.5, 1.0
"""A ball of this radius fits into what is outlined, and how far from such places the outline goes: what is thinner is a
vessel and its rim, which thick slices and motion have blurred."""
DENSE_HU, DENSE_SMOOTHING_MM = -300.0, 1.0
"""Consolidation is what is that dense in a CT smoothed by that much; the numbers are those of `quantify.Band`."""
SHARP_PROBABILITY, SHARP_MM = 0.4, 3.0
"""From here on a voxel is lesion within that distance of consolidation, which ends sharply: a low threshold would
outline it too widely. Set on the same lesions."""
LEAST_ML = 0.05
"""A smaller piece is noise: a ball of 4.6 mm."""
GAP_MM = 2.0
"""Gaps in and between lesions that a ball of this radius does not fit into belong to them: vessels and bronchi, and
ground glass around consolidation, of which `SHARP_PROBABILITY` leaves a ring that is narrower out."""
REACH_MM = 6.0
"""How far from a likely voxel anything has a say in where the outline runs, at most."""


def window(hu: np.ndarray, window_hu: tuple[float, float] = WINDOW_HU) -> np.ndarray:
    """HU -> [0, 1] over `window_hu`."""
    return windowed(hu, window_hu)


def outline(probability: np.ndarray, spacing_mm: Lengths, threshold: float) -> np.ndarray:
    """Lesions (k, j, i) bool of a probability (k, j, i) float32: what is likely, thick and large enough."""
    from LabelFreeCovidSegLib.lungs.morphology import dilation, erosion

    likely = probability > threshold
    if not likely.any():
        return likely
    box = bounding_box(likely, (1, 1, 1))
    thick = erosion(likely[box], THIN_MM, spacing_mm)
    likely[box] &= dilation(thick, THIN_MM + BESIDE_MM, spacing_mm)
    pieces, _ = ndimage.label(likely)
    volumes_ml = np.bincount(pieces.ravel()) * float(np.prod(spacing_mm)) / 1000.0
    return likely & (volumes_ml >= LEAST_ML)[pieces]


def sharpened(probability: np.ndarray, hu: np.ndarray, spacing_mm: Lengths) -> np.ndarray:
    """Probability (k, j, i) float32, lowered beside consolidation so that `LESION_PROBABILITY` outlines that too.

    Args:
        hu: (k, j, i) float32.
    """
    from LabelFreeCovidSegLib.lungs.morphology import dilation, opening

    smooth = ndimage.gaussian_filter(hu, [DENSE_SMOOTHING_MM / mm for mm in spacing_mm])
    dense = opening((smooth >= DENSE_HU) & (probability > 0.5), THIN_MM, spacing_mm)
    if not dense.any():
        return probability
    lowered = np.float32(LESION_PROBABILITY / SHARP_PROBABILITY)
    return np.where(dilation(dense, SHARP_MM, spacing_mm), lowered * probability, probability)


def outlined(probability: np.ndarray, hu: np.ndarray, lung: np.ndarray, spacing_mm: Lengths) -> np.ndarray:
    """Probability (k, j, i) float32 that passes `LESION_PROBABILITY` in the lesions and nowhere else.

    On the scan's own grid the outline then runs where the probability passes the threshold: a mask that was made on the
    working grid would come out in steps there.

    Args:
        hu: (k, j, i) float32.
        lung: (k, j, i) bool; no gap is closed beyond it.
    """
    from LabelFreeCovidSegLib.lungs.morphology import closing

    made = np.zeros_like(probability)
    likely = probability > LESION_PROBABILITY
    if not likely.any():
        return made
    box = bounding_box(likely, tuple(math.ceil(REACH_MM / mm) for mm in spacing_mm))
    judged = sharpened(probability[box], hu[box], spacing_mm)
    kept = outline(judged, spacing_mm, LESION_PROBABILITY)
    # Closing takes what lies beyond the array for unknown; here no lesion does.
    room = [math.ceil(2 * GAP_MM / mm) for mm in spacing_mm]
    inner = tuple(slice(n, -n) for n in room)
    gaps = closing(np.pad(kept, [(n, n) for n in room]), GAP_MM, spacing_mm)[inner] & lung[box] & ~kept
    left = np.where((judged > LESION_PROBABILITY) & ~kept, np.float32(0.0), judged)
    # Midway from here to nothing lies the threshold.
    made[box] = np.where(gaps, np.float32(2 * LESION_PROBABILITY), left)
    return made


class OpacityNet:
    """Trained networks whose probabilities are averaged.

    Args:
        networks: in evaluation mode.
        preset: what they were trained with.
        weights: how the report names them.
        calibration: of their probability, as measured on lesions of another make; without it, it is given as it is.
    """

    card = CARD

    def __init__(
        self, networks: Sequence[nn.Module], preset: Preset, weights: str, calibration: Calibration = ()
    ) -> None:
        self.networks = tuple(networks)
        self.preset = preset
        self.weights = weights
        self.calibration = calibration

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan."""
        from LabelFreeCovidSegLib.inference import predict_tiles

        progress(0.0, "Preparing the lungs")
        work = Working.of(scan, lungs, self.preset.spacing_mm)
        image = window(work.hu) * work.lung
        shares = np.linspace(0.05, 0.85, len(self.networks) + 1)
        found = [
            predict_tiles(network, image, work.lung, self.preset.crop, compute, part(progress, start, stop))
            for network, (start, stop) in zip(self.networks, pairwise(shares), strict=True)
        ]
        progress(0.85, "Outlining lesions")
        probability = np.mean(found, axis=0) * work.lung
        judged = outlined(probability, work.hu, work.lung, work.grid.spacing_mm)
        lesion = work.paste(judged, lungs) > LESION_PROBABILITY
        if self.calibration:
            probability = np.interp(probability, *np.transpose(self.calibration)).astype(np.float32)
        score = work.paste(probability * work.lung, lungs)
        return Prediction(lesion.astype(np.uint8), score, calibrated=bool(self.calibration))


def build(preset: Preset) -> ResUNet:
    """An untrained network of a preset: class 0 the rest, `BRIGHT_HEALTHY`, `OPACITY`."""
    from LabelFreeCovidSegLib.networks.res_unet import ResUNet

    return ResUNet(preset.channels, out_channels=CLASSES)


def load(store: Path | None = None) -> OpacityNet:
    """The method with the weights that ship, or with those in another store.

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    from LabelFreeCovidSegLib import weights

    entry, states = weights.load(CARD.name, store)
    preset = weights.preset(entry, PRESETS)
    networks = [weights.fill(build(preset), state, entry).eval() for state in states]
    return OpacityNet(networks, preset, entry.label, entry.recipe.get("calibration", ()))
