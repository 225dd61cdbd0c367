"""Cycle-GAN: lesions are what a generator takes away from a slice to make it look healthy.

Fang, Liu, Liu, Qiu, Liu, Li, Wen, Yang: Unsupervised COVID-19 Lesion Segmentation in CT Using Cycle Consistent
Generative Adversarial Network. arXiv 2111.11602 (2021).

Two generators and two discriminators learn from infected and from healthy slices, which are not paired
(`training.cyclegan`). Here is what is left after training: one generator, slice by slice, the difference to the slice,
and how an outline is made of it. The paper gives its sizes in pixels of 1 mm; they stand here in millimetres. It
has one cluster of lesion. Preset `small` has three: what is taken away of faint ground glass, of dense, and of
consolidation differs more than what is taken away of faint ground glass and of healthy lung.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import CLAHE256, HU, Card, Prediction
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import Scan, windowed

if TYPE_CHECKING:
    from torch import nn

    from LabelFreeCovidSegLib.networks.unet2d import UNet2D

CARD = Card(
    name="cyclegan",
    title="Cycle-GAN",
    summary="A generator that learned, from infected and healthy slices that are not paired, to make a slice look "
    "healthy. What it takes away is lesion.",
    citation="Fang C, Liu Y, Liu M, Qiu X, Liu Y, Li Y, Wen J, Yang Y. Unsupervised COVID-19 Lesion Segmentation in CT "
    "Using Cycle Consistent Generative Adversarial Network. arXiv:2111.11602 (2021)",
    networks=("cyclegan",),
    picture_mm=0.0,
)

WINDOW_HU = (-800.0, 100.0)
SLICES = 16
"""Slices that go through the generator together."""
CENTRE_PERCENTILE = 99.0
"""Of the difference in the lungs: where the brightest cluster's search begins."""
ROUNDS = 300
"""More than k-means ever took to settle."""


@dataclass(frozen=True)
class Outlining:
    """From the difference to a mask, slice by slice; the paper leaves the sizes open but for 5 x 5 and the disk.

    Attributes:
        median_mm: width of the median filter, of at least three pixels.
        clusters: of the differences of all the lungs together. In each slice for itself, there would be lesions in
            every healthy slice.
        lesion_clusters: how many of them, the brightest, are lesion.
        least_gap: if the darkest of them is nearer to the next one (45 HU), it is noise, and the lungs are clear.
        otsu: Otsu's threshold instead of clusters, without that guard: the paper's comparison.
        smoothing_mm: standard deviation of the Gaussian that smooths the mask, cut off at twice that.
        opening_mm: radius of the disk that what is thinner does not survive, of at least one pixel.
    """

    median_mm: float = 3.0
    clusters: int = 2
    lesion_clusters: int = 1
    least_gap: float = 0.1
    otsu: bool = False
    smoothing_mm: float = 1.0
    opening_mm: float = 1.0


@dataclass(frozen=True)
class Preset:
    """A grid, the networks and how they are trained.

    Attributes:
        spacing_mm: working grid along (k, j, i).
        side: of the square canvas, in pixels.
        widths: of the generators. critic_widths: of the discriminators.
        background: of the slices around the lungs; 0 is the paper's and looks like -350 HU, -1 like air.
        batch: slices of each domain an iteration.
        learning_rate: for the first half of the iterations, and falling to 0 over the second.
        history: made slices that a discriminator is shown again.
        jitter_mm: how far slices are shifted, at most.
        inertia: share of itself that the running mean of the healthy generator's weights, which is what ships, keeps in
            an iteration; 0 for the weights as they are.
        domain: what the slices are; see `base.Card`.
    """

    name: str
    spacing_mm: Lengths
    side: int
    widths: tuple[int, ...]
    critic_widths: tuple[int, int, int, int]
    background: float
    batch: int
    iterations: int
    learning_rate: float = 2e-4
    history: int = 50
    jitter_mm: float = 15.0
    inertia: float = 0.0
    outlining: Outlining = Outlining()
    domain: str = HU


# 100 epochs of 1272 slices.
_PAPER = Preset("paper", (1.0, 1.0, 1.0), 256, (64, 128, 256, 512, 512, 512, 512, 512), (64, 128, 256, 512),
                background=0.0, batch=1, iterations=127_200)  # fmt: skip
# Ships: a thirtieth of the parameters on a coarser grid. With a 25th of the iterations it must learn faster, and does
# not have to learn where lungs end: beyond them is what they are filled with. Adversaries swing, their mean does not.
# Its clusters of lesion reach from faint ground glass to consolidation, and far enough down to hold vessels too, which
# the wider opening takes away again.
_SMALL = Preset("small", (2.0, 1.5, 1.5), 192, (16, 32, 64, 128, 128, 128), (16, 32, 64, 128), background=-1.0,
                batch=1, iterations=5000, learning_rate=1e-3, inertia=0.995,
                outlining=Outlining(clusters=4, lesion_clusters=3, opening_mm=3.0))  # fmt: skip
# In equalised pictures vessels are as bright as what is faint, so that only the brighter half of the clusters is
# lesion, and what is taken away is less.
_EQUALISED = replace(_SMALL, name=f"small-{CLAHE256}", domain=CLAHE256,
                     outlining=replace(_SMALL.outlining, lesion_clusters=2, least_gap=0.05))  # fmt: skip
PRESETS = {preset.name: preset for preset in (_PAPER, _SMALL, _EQUALISED)}


def window(hu: np.ndarray) -> np.ndarray:
    """HU -> [-1, 1] over [-800, 100] HU."""
    return windowed(hu, WINDOW_HU, (-1.0, 1.0))


def shown(hu: np.ndarray, lung: np.ndarray, background: float) -> np.ndarray:
    """Slices as the networks see them: nothing but lung; (k, j, i) float32 in [-1, 1]."""
    return np.where(lung, window(hu), np.float32(background))


def made_healthy(generator: nn.Module, image: np.ndarray, compute: Compute, progress: Progress) -> np.ndarray:
    """What a generator, in evaluation mode, makes of slices (k, j, i) float32; the same shape."""
    import torch

    device = torch.device(compute.device)
    generator = generator.to(device)
    made = np.empty_like(image)
    with torch.inference_mode(), compute.autocast():
        for start in range(0, len(image), SLICES):
            progress(start / len(image), "Making the lungs healthy")
            several = slice(start, start + SLICES)
            made[several] = generator(torch.from_numpy(image[several, None]).to(device))[:, 0].float().cpu().numpy()
    return made


def removed(image: np.ndarray, made: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """What of the lungs a generator has taken away, in [0, 2]; what it adds is no disease."""
    return np.clip(image - made, 0.0, None) * lung


def filtered(excess: np.ndarray, spacing_mm: Lengths, outlining: Outlining) -> np.ndarray:
    """The difference without its specks: a median filter in the slice; (k, j, i) float32."""
    width = 2 * _pixels((outlining.median_mm - spacing_mm[1]) / 2, spacing_mm) + 1
    return ndimage.median_filter(excess, size=(1, width, width))


def outline(
    excess: np.ndarray, lung: np.ndarray, spacing_mm: Lengths, outlining: Outlining = Outlining()
) -> np.ndarray:
    """From a filtered difference (k, j, i) float32 to lesions (k, j, i) bool, within `lung` (k, j, i) bool."""
    lesion = lung & (excess > threshold(excess[lung], outlining))
    sigma = outlining.smoothing_mm / spacing_mm[1]
    smooth = ndimage.gaussian_filter(lesion.astype(np.float32), (0.0, sigma, sigma), truncate=2.0) >= 0.5
    in_slice = ndimage.generate_binary_structure(3, 1)
    in_slice[[0, 2]] = False
    filled = ndimage.binary_fill_holes(smooth, in_slice) & lung
    return ndimage.binary_opening(filled, _disk(_pixels(outlining.opening_mm, spacing_mm)))


def threshold(values: np.ndarray, outlining: Outlining = Outlining()) -> float:
    """What the differences of lesions exceed; infinite where there is no lesion.

    Args:
        values: the differences in the lungs, (n,) float32, not below 0.
    """
    if outlining.otsu:
        return otsu(values)
    centres = np.linspace(0.0, np.percentile(values, CENTRE_PERCENTILE), outlining.clusters)
    found = clustered(values, centres)
    healthy, lesion = found[-outlining.lesion_clusters - 1], found[-outlining.lesion_clusters]
    return float(healthy + lesion) / 2 if lesion - healthy >= outlining.least_gap else float("inf")


def clustered(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centres of clusters of numbers (n,), ascending: k-means from given `centres`, ascending.

    In one dimension sums of sorted numbers are all it takes, and give the same on every machine, which a library's
    threads do not.
    """
    values = np.sort(values).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(ROUNDS):
        borders = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2, side="right")
        ends = np.concatenate([[0], borders, [len(values)]])
        counts = np.diff(ends)
        moved = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def otsu(values: np.ndarray) -> float:
    """The threshold that parts numbers (n,) best (Otsu 1979)."""
    import SimpleITK as sitk

    method = sitk.OtsuThresholdImageFilter()
    method.Execute(sitk.GetImageFromArray(values.astype(np.float32)[None]))
    return method.GetThreshold()


def _pixels(length_mm: float, spacing_mm: Lengths) -> int:
    """A length in the slice, at least one pixel."""
    return max(1, round(length_mm / spacing_mm[1]))


def _disk(radius: int) -> np.ndarray:
    """(1, j, i) bool, a disk in the slice."""
    j, i = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (j**2 + i**2 <= radius**2)[None]


class CycleGAN:
    """A trained generator of healthy slices.

    Args:
        generator: infected to healthy, in evaluation mode; (n, 1, j, i) -> (n, 1, j, i).
        preset: what it was trained with.
        weights: how the report names it.
    """

    def __init__(self, generator: nn.Module, preset: Preset, weights: str) -> None:
        self.card = replace(CARD, domain=preset.domain)
        self.generator = generator
        self.preset = preset
        self.weights = weights

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan, and show it without them."""
        progress(0.0, "Preparing the lungs")
        work = LungSlices.of(scan, lungs, self.preset.spacing_mm, self.preset.side)
        image = shown(work.hu, work.lung, self.preset.background)
        made = made_healthy(self.generator, image, compute, part(progress, 0.1, 0.7))
        progress(0.7, "Outlining lesions")
        excess = removed(image, made, work.lung)
        spacing = work.grid.spacing_mm
        score = filtered(excess, spacing, self.preset.outlining)
        lesion = outline(score, work.lung, spacing, self.preset.outlining)
        low, high = WINDOW_HU
        return Prediction(
            lesion=(work.paste(lesion, lungs) >= 0.5).astype(np.uint8),
            score=work.paste(score / 2, lungs),
            healthy_hu=scan.hu - work.paste(excess * np.float32((high - low) / 2), lungs),
            warnings=_shrunk(spacing[1] / self.preset.spacing_mm[1], self.preset),
        )


def _shrunk(factor: float, preset: Preset) -> tuple[str, ...]:
    """A sentence if the lungs did not fit onto the canvas as they are."""
    if factor == 1.0:
        return ()
    return (
        f"The lungs are wider than {preset.side * preset.spacing_mm[1]:.0f} mm, so the network saw them shrunk to "
        f"{100 / factor:.0f} %: small lesions may be missing.",
    )


def build(preset: Preset) -> UNet2D:
    """An untrained generator of a preset."""
    from LabelFreeCovidSegLib.networks.unet2d import UNet2D

    return UNet2D(preset.widths)


def load(store: Path | None = None) -> CycleGAN:
    """The method with the weights that ship, or with those in another store.

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    from LabelFreeCovidSegLib import weights

    entry, (state,) = weights.load(CARD.name, store)
    preset = weights.preset(entry, PRESETS)
    return CycleGAN(weights.fill(build(preset), state, entry).eval(), preset, entry.label)
