"""NormNet: lesions are what is bright in the lung and not recognised as healthy.

Yao, Xiao, Liu, Zhou: Label-Free Segmentation of COVID-19 Lesions in Lung CT. IEEE Transactions on Medical Imaging 40
(2021) 2808-2819; arXiv 2009.06456. Letters (a) to (g) are those of the paper's figure 4.

The paper gives its sizes in voxels of a 0.8 x 0.8 x 1.0 mm grid; they stand here in millimetres.
"""

from __future__ import annotations

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
from LabelFreeCovidSegLib.methods.lung_crop import LungCrop
from LabelFreeCovidSegLib.postprocess import Lengths, box_mean, close, dilate
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import Scan, windowed
from LabelFreeCovidSegLib.synthesis import ABLATIONS, FINAL, UNIT_MM, V2, WITH_CONSOLIDATION, LesionModel

if TYPE_CHECKING:
    from torch import nn

    from LabelFreeCovidSegLib.networks.res_unet import ResUNet

CARD = Card(
    name="normnet",
    title="NormNet",
    summary="A network that learned, from healthy lungs with synthetic lesions, which bright tissue is healthy. "
    "Whatever else is bright is lesion, and is grown into its darker rim.",
    citation="Yao Q, Xiao L, Liu P, Zhou SK. Label-Free Segmentation of COVID-19 Lesions in Lung CT. "
    "IEEE Trans Med Imaging 2021;40(10):2808-2819. doi:10.1109/TMI.2021.3066161",
    networks=("normnet",),
    picture_mm=24.0,
    knows_health=True,
)

WINDOW_HU = (-800.0, 100.0)
BRIGHT_HU = -500.0
"""T: from here on lung tissue is bright (section III-B; table IV tries other values)."""
TAU = (BRIGHT_HU - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0])
"""T in windowed intensity: 1/3."""


@dataclass(frozen=True)
class Edge:
    """Where a lesion ends (ours): half-way between the lung and the lesion near by.

    The mean over the paper's rim width exceeds its threshold two or three voxels beyond a solid lesion, so that even a
    perfect network's consolidations come out too large.

    Attributes:
        share: of the way from lung to lesion at which the edge of a blurred step lies.
        most: what is this much brighter than the lung, 225 HU, is lesion however bright its middle: consolidation has
            ground glass around it.
        width_mm: what noise is averaged over.
        near_mm: the lesion's intensity is the mean, weighted by itself, of what is marked in a box of this width.
        closing_mm: gaps less than twice as wide, such as airways and the lung between dense patches, belong to the
            lesion.
        least_ml: a piece that is smaller than a ball of 4.6 mm is noise.
        least_doubt: of the bright voxels of a piece, on average; below, it is a vessel of which the networks were not
            quite sure.
    """

    share: float = 0.5
    most: float = 0.25
    width_mm: Lengths = (2.0, 2.0, 2.0)
    near_mm: Lengths = (15.0, 15.0, 15.0)
    closing_mm: Lengths = (3.0, 3.0, 3.0)
    least_ml: float = 0.05
    least_doubt: float = 0.4


@dataclass(frozen=True)
class Growing:
    """Post-processing (section III-D), tuned by the authors on three scans and fixed since.

    Attributes:
        seed_width_mm: k_d = 9 voxels. seed_share: t_d, share of bright unrecognised voxels that makes a seed.
        rim_width_mm: k_f = 7 voxels. rim_intensity: t_f, mean intensity that makes a rim.
        reach_mm: how far seeds grow into the rim; not printed, 5 voxels regain the share of sensitivity that
            their tables show (70 to 80 % of what the rim alone would).
        soft: a voxel counts with the networks' median doubt instead of the majority's verdict (ours). A network that is
            to 90 % sure of each voxel of a noisy, dense lung then leaves a tenth of a mark, not a whole one.
        edge: how the outline is fitted to the lesion (ours); None leaves it as the paper has it.
    """

    seed_width_mm: Lengths = (9.0, 7.2, 7.2)
    seed_share: float = 0.2
    rim_width_mm: Lengths = (7.0, 5.6, 5.6)
    rim_intensity: float = 0.15
    reach_mm: Lengths = (5.0, 4.0, 4.0)
    soft: bool = False
    edge: Edge | None = None


FITTED = Growing(seed_share=0.1, soft=True, edge=Edge())
"""Ours. Half the paper's share finds smaller and fainter lesions; what it marks besides is weeded out piece by piece.
Its numbers were set on synthetic lesions of the training's generator in near-healthy scans."""


@dataclass(frozen=True)
class Preset:
    """A grid, a network and how it is trained.

    Attributes:
        spacing_mm: working grid along (k, j, i).
        crop: extent in voxels (k, j, i) of a training crop and of an inference tile.
        channels: widths of the residual U-Net.
        models: how many networks vote.
        cooldown: last share of the iterations, over which the learning rate falls to 0 in a straight line.
    """

    name: str
    spacing_mm: Lengths
    crop: tuple[int, int, int]
    channels: tuple[int, ...]
    batch: int
    iterations: int
    models: int
    learning_rate: float = 3e-4
    cooldown: float = 0.0
    lesions: LesionModel = FINAL
    augment: bool = False
    growing: Growing = Growing()


_PAPER = Preset("paper", UNIT_MM, (32, 512, 512), (16, 32, 64, 128, 256), batch=8, iterations=2000, models=5)
# Ships: a quarter of the parameters, and crops that a CPU can train on; as an iteration sees a thirtieth of the paper's
# voxels, it learns faster from each, and cools down at the end because one model must not depend on where it stopped.
# Augmented, because few scans must stand for the paper's 453.
_SMALL = Preset("small", (1.5, 1.0, 1.0), (32, 128, 128), (8, 16, 32, 64, 128), batch=4, iterations=1000, models=5,
                learning_rate=3e-3, cooldown=0.8, lesions=WITH_CONSOLIDATION, augment=True, growing=FITTED)  # fmt: skip
# What the paper's ablations are compared with, on the grid and the network that ship: its lesions and its outlines.
_TABLE4 = replace(_SMALL, name="table4", lesions=FINAL, growing=Growing())
GROWINGS = {
    "kd": Growing(seed_width_mm=(7.0, 5.6, 5.6)),
    "kf": Growing(rim_width_mm=(9.0, 7.2, 7.2)),
    "td": Growing(seed_share=0.15),
    "tf": Growing(rim_intensity=0.2),
}
"""Rows of table IV that change the outlines: k_d = 7, k_f = 9, t_d = 0.15, t_f = 0.2."""
PRESETS = {
    preset.name: preset
    for preset in (
        _PAPER,
        replace(_PAPER, name="paper-v2", iterations=3500, lesions=V2),
        _SMALL,
        _TABLE4,
        *(replace(_TABLE4, name=f"table4-{row}", lesions=lesions) for row, lesions in ABLATIONS.items()),
        *(replace(_TABLE4, name=f"table4-{row}", growing=growing) for row, growing in GROWINGS.items()),
    )
}


HEALTHY_PROBABILITY = 0.95
"""A voxel counts as recognised only if a network is surer than this."""

Calibration = Sequence[Sequence[float]]
"""Pairs of score and probability of lesion, ascending."""


def window(hu: np.ndarray) -> np.ndarray:
    """HU -> [0, 1] over [-800, 100] HU."""
    return windowed(hu, WINDOW_HU)


def recognised(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """(c): voxels that the majority of the networks recognise as healthy (p > 0.95); (k, j, i) bool."""
    votes = np.sum([p > HEALTHY_PROBABILITY for p in probabilities], axis=0)
    return 2 * votes > len(probabilities)


def agreed(probabilities: Sequence[np.ndarray], intensity: np.ndarray) -> np.ndarray:
    """Median probability of healthy tissue where it is bright, else 0; (k, j, i) float32.

    More than half of the networks exceed a threshold wherever their median does: it is the majority's vote for every
    threshold at once.
    """
    bright = intensity >= TAU
    healthy = np.zeros(intensity.shape, dtype=np.float32)
    healthy[bright] = np.median([p[bright] for p in probabilities], axis=0)
    return healthy


def outline(
    intensity: np.ndarray,
    probabilities: Sequence[np.ndarray],
    lung: np.ndarray,
    spacing_mm: Lengths,
    growing: Growing = Growing(),
) -> np.ndarray:
    """From what the networks recognise to a lesion mask: I = dilate(I_e) I_g (equation 10).

    Args:
        intensity: (a), (k, j, i) float32 windowed intensity, H.
        probabilities: of bright healthy tissue, one (k, j, i) float32 a network.
        lung: (k, j, i) bool, M.

    Returns:
        (k, j, i) bool.
    """
    healthy = agreed(probabilities, intensity) if growing.soft else recognised(probabilities)
    odd = lung * (1.0 - healthy)
    bright = lung & (intensity >= TAU)  # (b)
    unrecognised = bright * odd  # (d) = (b) without (c)
    seeds = box_mean(unrecognised, growing.seed_width_mm, spacing_mm) > growing.seed_share  # (e)
    rim = box_mean(intensity * odd, growing.rim_width_mm, spacing_mm) > growing.rim_intensity  # (f) grey-level, (g)
    lesion = dilate(seeds & lung, growing.reach_mm, spacing_mm) & rim & lung
    if growing.edge is None:
        return lesion
    lesion = fitted(lesion, intensity, lung, spacing_mm, growing.edge)
    return doubted(lesion, bright, odd, spacing_mm, growing.edge)


def fitted(lesion: np.ndarray, intensity: np.ndarray, lung: np.ndarray, spacing_mm: Lengths, edge: Edge) -> np.ndarray:
    """What of a generous mask is as bright as the lesion in it rather than as the lung around; (k, j, i) bool."""
    if not lesion.any() or lesion[lung].all():
        return lesion
    healthy = np.median(intensity[lung & ~lesion])
    own = _mean_within(intensity, lung, edge.width_mm, spacing_mm)
    # Weighted by itself, so that what the mask holds of the lung around the lesion hardly lowers it.
    near = _mean_within(intensity, lesion * intensity, edge.near_mm, spacing_mm)
    kept = lesion & (own > healthy + np.minimum(edge.share * (near - healthy), edge.most))
    return close(kept, edge.closing_mm, spacing_mm) & lesion


def doubted(lesion: np.ndarray, bright: np.ndarray, odd: np.ndarray, spacing_mm: Lengths, edge: Edge) -> np.ndarray:
    """The pieces of a mask that are large enough and that the networks doubt as a whole; (k, j, i) bool.

    Args:
        bright: (b), (k, j, i) bool. odd: (k, j, i) float32, the networks' doubt, 0 to 1.
    """
    pieces, count = ndimage.label(lesion)
    volumes_ml = np.bincount(pieces.ravel()) * float(np.prod(spacing_mm)) / 1000.0
    voxels = np.bincount(pieces[bright], minlength=count + 1)
    doubts = np.bincount(pieces[bright], odd[bright], minlength=count + 1)
    return lesion & ((volumes_ml >= edge.least_ml) & (doubts >= edge.least_doubt * voxels))[pieces]


def _mean_within(intensity: np.ndarray, weight: np.ndarray, width_mm: Lengths, spacing_mm: Lengths) -> np.ndarray:
    """Mean over a box with weights; 0 where there are none."""
    whole = box_mean(weight, width_mm, spacing_mm)
    return box_mean(intensity * weight, width_mm, spacing_mm) / np.maximum(whole, np.finfo(np.float32).eps)


def doubt(
    intensity: np.ndarray, probabilities: Sequence[np.ndarray], lung: np.ndarray, spacing_mm: Lengths
) -> np.ndarray:
    """The score: the soft form of (d), averaged as for (e); (k, j, i) float32, 0 healthy to 1."""
    odd = (intensity >= TAU) * lung * (1.0 - agreed(probabilities, intensity))
    return box_mean(odd, Growing().seed_width_mm, spacing_mm)


class Working(LungCrop):
    """The lungs of a scan on the grid that the networks work on."""

    @property
    def intensity(self) -> np.ndarray:
        """H, (k, j, i) float32, 0 outside the lung."""
        return window(self.hu) * self.lung

    @classmethod
    def of(cls, scan: Scan, lungs: LungMask, spacing_mm: Lengths) -> Working:
        """Crop a scan to its lungs and bring both to `spacing_mm`."""
        return cls.on(lambda source: source.with_spacing(spacing_mm), scan, lungs, margin=(1, 1, 1))


def conclude(
    work: Working,
    lungs: LungMask,
    probabilities: Sequence[np.ndarray],
    growing: Growing = Growing(),
    calibration: Calibration = (),
) -> Prediction:
    """From what the networks say of each voxel to lesions on the scan's grid.

    Args:
        probabilities: of bright healthy tissue, one (k, j, i) float32 a network, on the working grid.
        calibration: what turns the score into the probability of lesion; without it the score is given as it is.
    """
    spacing = work.grid.spacing_mm
    lesion = outline(work.intensity, probabilities, work.lung, spacing, growing)
    score = doubt(work.intensity, probabilities, work.lung, spacing)
    if calibration:
        score = np.interp(score, *np.transpose(calibration)).astype(np.float32)
    return Prediction(
        (work.paste(lesion, lungs) >= 0.5).astype(np.uint8), work.paste(score, lungs), calibrated=bool(calibration)
    )


class NormNet:
    """Trained NormNets that vote.

    Args:
        networks: in evaluation mode.
        preset: what they were trained with.
        weights: how the report names them.
        calibration: of their score; see `conclude`.
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
        progress(0.0, "Preparing the lungs")
        work = Working.of(scan, lungs, self.preset.spacing_mm)
        probabilities = self.recognise(work, compute, part(progress, 0.05, 0.85))
        progress(0.85, "Outlining lesions")
        return conclude(work, lungs, probabilities, self.preset.growing, self.calibration)

    def health(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> np.ndarray:
        """Median of the networks' probabilities that bright tissue is healthy; (k, j, i) float32, 0 outside the lungs.

        It is what the paper's Table II measures, before any voxel's neighbours have a say.
        """
        work = Working.of(scan, lungs, self.preset.spacing_mm)
        return work.paste(np.median(self.recognise(work, compute, progress), axis=0), lungs)

    def recognise(self, work: Working, compute: Compute, progress: Progress) -> list[np.ndarray]:
        """What each network says, (k, j, i) float32 on the working grid: the probability of bright healthy tissue."""
        from LabelFreeCovidSegLib.inference import predict_tiles

        shares = np.linspace(0.0, 1.0, len(self.networks) + 1)
        return [
            predict_tiles(network, work.intensity, work.lung, self.preset.crop, compute, part(progress, start, stop))
            for network, (start, stop) in zip(self.networks, pairwise(shares), strict=True)
        ]


def build(preset: Preset) -> ResUNet:
    """An untrained network of a preset: class 0 the rest, class 1 bright healthy tissue."""
    from LabelFreeCovidSegLib.networks.res_unet import ResUNet

    return ResUNet(preset.channels)


def load(store: Path | None = None) -> NormNet:
    """NormNet with the weights that ship, or with those in another store.

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    from LabelFreeCovidSegLib import weights

    entry, states = weights.load(CARD.name, store)
    preset = weights.preset(entry, PRESETS)
    networks = [weights.fill(build(preset), state, entry).eval() for state in states]
    return NormNet(networks, preset, entry.label, entry.recipe.get("calibration", ()))
