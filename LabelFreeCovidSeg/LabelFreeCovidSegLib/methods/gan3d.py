"""3-D GAN and contrastive U-Net: lesions are what a generator of healthy lungs leaves out, learned again by slices.

Shabani, Homayounfar, Vardhanabhuti, Nikouei Mahani, Koohi-Moghadam: Self-supervised region-aware segmentation of
COVID-19 CT images using 3D GAN and contrastive learning. Computers in Biology and Medicine 149 (2022) 106033.

A generator makes lungs with disease look healthy. What it takes away is a pseudo mask, from which a slice network
learns to see lesions by itself; its encoder is shared with a contrastive head, as the paper has it (the released
program builds two, so that contrast can't help there). Where text and program differ, lungs are found on the scan as it
is, their box is stretched to the networks' size by linear interpolation, and nothing is scaled by its own maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import CLAHE256, HU, Card, Prediction
from LabelFreeCovidSegLib.methods.lung_crop import LungCrop
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import Grid, Scan, windowed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CARD = Card(
    name="gan3d",
    title="3-D GAN + U-Net",
    summary="A generator makes the lungs look healthy; what it takes away has taught a slice network to see lesions.",
    citation="Shabani S, Homayounfar M, Vardhanabhuti V, Nikouei Mahani MA, Koohi-Moghadam M. Self-supervised "
    "region-aware segmentation of COVID-19 CT images using 3D GAN and contrastive learning. Comput Biol Med "
    "2022;149:106033. doi:10.1016/j.compbiomed.2022.106033",
    networks=("gan3d",),
    picture_mm=0.0,
)

WINDOW_HU = (-1000.0, 400.0)
OVERLAP = 0.5
"""Of neighbouring slabs."""
SLICES = 16
"""Slices that are segmented together."""


@dataclass(frozen=True)
class Threshold:
    """From which score on there is lesion.

    Attributes:
        value: 0.2 is the paper's, tuned on ten labelled scans; ours never were.
        relative: of the highest score in the slice, as the released evaluation has it. Then a slice without disease has
            lesions too: wherever anything scores at all, its highest score is 1.
    """

    value: float = 0.2
    relative: bool = False

    def lesion(self, score: np.ndarray) -> np.ndarray:
        """(k, j, i) bool of a score (k, j, i), not below 0."""
        if not self.relative:
            return score > self.value
        return score > self.value * score.max(axis=(1, 2), keepdims=True)


@dataclass(frozen=True)
class Preset:
    """A grid, the networks and how they are trained.

    Attributes:
        slice_mm: distance of the generator's slices; 0 where all of the lungs are stretched to one canvas.
        canvas: extents (k, j, i) of what the generator sees at once, divisible by 16. In the plane the lungs' box is
            always stretched to it.
        base: width of the generator. critic_channels, critic_dropout: of the discriminator. slice_base: width of the
            slice network.
        batch: pieces of lung an iteration. slices: slices an iteration of the second phase, half of them high.
        gan_share: of the iterations, after which the generator is frozen and the slice network begins.
        pool: pieces of ill lung whose pseudo masks teach the slice network.
        generator_rate, critic_rate, slice_rate, contrast_rate: learning rates at the beginning.
        inertia: share of itself that the running mean of the generator's weights keeps in an iteration, which is the
            generator that makes pseudo masks; 0 takes the generator as it is.
        decays: how often the slice network's rate falls to nine tenths.
        segmenter: False leaves the slice network out: what the generator takes away is the score (the paper's "GAN").
        contrast: False leaves the contrastive loss out (the paper's "GAN + U-Net").
        threshold: None where it is set when weights are exported: what outlines synthetic lesions best.
        domain: what the slices are; see `base.Card`.
        pixel_mm: of whole slices that become equalised pictures; 0 where scans are cached as the generator sees them.
    """

    name: str
    slice_mm: float
    canvas: tuple[int, int, int]
    base: int
    critic_channels: tuple[int, ...]
    slice_base: int
    batch: int
    slices: int
    iterations: int
    gan_share: float
    pool: int
    generator_rate: float
    critic_rate: float
    slice_rate: float
    contrast_rate: float
    decays: int
    inertia: float = 0.0
    segmenter: bool = True
    contrast: bool = True
    critic_dropout: float = 0.5
    threshold: Threshold | None = Threshold()
    domain: str = HU
    pixel_mm: float = 0.0

    @property
    def spacing_mm(self) -> Lengths:
        """Grid that scans are cached on, along (k, j, i); 0 where it depends on the lungs' size."""
        return self.slice_mm, self.pixel_mm, self.pixel_mm


_PAPER = Preset(
    "paper", 0.0, (32, 128, 128), 8, (16, 32, 64, 128, 128), 32, batch=8, slices=32,
    iterations=122_000, gan_share=10 / 122, pool=664, generator_rate=5e-5, critic_rate=5e-5, slice_rate=1e-3,
    contrast_rate=1e-4, decays=112,
)  # fmt: skip
# Slabs of the lungs rather than whole ones, because there are few scans; narrow and few enough for a CPU. With larger
# steps the adversaries never settle, so that what a single iteration leaves is chance.
_SMALL = Preset(
    "small", 6.0, (16, 96, 96), 3, (8, 16, 32, 64), 16, batch=2, slices=16,
    iterations=1200, gan_share=0.6, pool=48, generator_rate=1e-3, critic_rate=3e-4, slice_rate=1e-3,
    contrast_rate=1e-4, decays=22, inertia=0.98, critic_dropout=0.0, threshold=None,
)  # fmt: skip
_EQUALISED = replace(_SMALL, name=f"small-{CLAHE256}", domain=CLAHE256, pixel_mm=1.5)
TABLE5 = (0.1, 0.15, 0.25, 0.3)
"""Thresholds that the paper tried beside 0.2."""
PRESETS = {
    preset.name: preset
    for full in (_PAPER, _SMALL)
    for preset in (
        full,
        replace(full, name=f"{full.name}-no-contrast", contrast=False),
        replace(full, name=f"{full.name}-gan", segmenter=False, gan_share=1.0,
                iterations=round(full.iterations * full.gan_share)),
        *(replace(full, name=f"{full.name}-threshold-{value}", threshold=Threshold(value)) for value in TABLE5),
        replace(full, name=f"{full.name}-threshold-relative", threshold=Threshold(relative=True)),
    )
}  # fmt: skip
PRESETS[_EQUALISED.name] = _EQUALISED


def window(hu: np.ndarray) -> np.ndarray:
    """HU -> [0, 1] over [-1000, 400] HU."""
    return windowed(hu, WINDOW_HU)


class Frame(LungCrop):
    """The lungs of a scan as the networks see them."""

    @classmethod
    def of(cls, scan: Scan, lungs: LungMask, slice_mm: float, canvas: tuple[int, int, int]) -> Frame:
        """Crop a scan to its lungs and stretch both to the canvas, along k to slices of `slice_mm` unless that is 0."""

        def stretched(source: Grid) -> Grid:
            k, j, i = (n * mm / extent for n, mm, extent in zip(source.shape, source.spacing_mm, canvas, strict=True))
            return source.with_spacing((slice_mm or k, j, i))

        return cls.on(stretched, scan, lungs)

    @property
    def image(self) -> np.ndarray:
        """(k, j, i) float32 in [0, 1], 0 outside the lungs."""
        return window(self.hu) * self.lung


class Gan3D:
    """A trained generator, and the slice network that it taught.

    Args:
        networks: "generator" and, unless the preset leaves it out, "segmenter"; in evaluation mode.
        preset: what they were trained with.
        threshold: from which score on there is lesion.
        weights: how the report names them.
    """

    def __init__(self, networks: Mapping[str, nn.Module], preset: Preset, threshold: Threshold, weights: str) -> None:
        # Single pictures are the slice network's.
        self.card = replace(CARD, domain=preset.domain, picture_mm=CARD.picture_mm if preset.segmenter else None)
        self.networks = networks
        self.preset = preset
        self.threshold = threshold
        self.weights = weights

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan, and show it without them."""
        progress(0.0, "Preparing the lungs")
        preset = self.preset
        frame = Frame.of(scan, lungs, preset.slice_mm, preset.canvas)
        generator = self.networks["generator"]
        made = healthy(generator, frame.image, preset.canvas, compute, part(progress, 0.05, 0.5))
        # Brought to the scan's grid as a difference: vessels and the diaphragm move from slice to slice, and would not
        # cancel in a difference of the scan and healthy slices of another distance.
        excess = frame.paste(removed(frame.image, made), lungs)
        score = excess
        if preset.segmenter:
            frame = Frame.of(scan, lungs, scan.grid.spacing_mm[0], preset.canvas)
            found = segmented(self.networks["segmenter"], frame.image, compute, part(progress, 0.5, 0.95))
            score = frame.paste(found, lungs)
        low, high = WINDOW_HU
        without = scan.hu - excess * np.float32(high - low)
        return Prediction(self.threshold.lesion(score).astype(np.uint8), score, healthy_hu=without)


def removed(image: np.ndarray, made: np.ndarray) -> np.ndarray:
    """What of an image the generator has taken away: the pseudo mask, not below 0. What it adds is no disease."""
    return np.clip(image - made, 0.0, None)


def healthy(
    generator: nn.Module, image: np.ndarray, canvas: tuple[int, int, int], compute: Compute, progress: Progress
) -> np.ndarray:
    """What a generator makes of lungs (k, j, i) float32, slab by slab, where slabs overlap their weighted mean.

    The random latent is at its mean, so that the same scan has the same answer.
    """
    import torch

    from LabelFreeCovidSegLib.inference import cover, hann

    device = torch.device(compute.device)
    generator = generator.to(device)
    padded = [(0, max(extent - n, 0)) for n, extent in zip(image.shape, canvas, strict=True)]
    source = torch.from_numpy(np.pad(image, padded))
    latent = still(1, canvas, device)
    weight = hann(canvas[:1]).to(device)[:, None, None]
    total = torch.zeros(source.shape, device=device)
    norm = torch.zeros(len(source), 1, 1, device=device)
    slabs = list(cover(tuple(source.shape), canvas, OVERLAP))
    with torch.inference_mode(), compute.autocast():
        for done, slab in enumerate(slabs):
            progress(done / len(slabs), "Making the lungs healthy")
            total[slab] += weight * generator(source[slab][None, None].to(device), latent)[0, 0].float()
            norm[slab[0]] += weight
    return (total / norm)[: len(image)].cpu().numpy()


def segmented(segmenter: nn.Module, image: np.ndarray, compute: Compute, progress: Progress) -> np.ndarray:
    """The score of lungs (k, j, i) float32 by the slice network, in [0, 1]."""
    import torch

    device = torch.device(compute.device)
    segmenter = segmenter.to(device)
    score = np.empty_like(image)
    with torch.inference_mode(), compute.autocast():
        for start in range(0, len(image), SLICES):
            progress(start / len(image), "Finding lesions")
            several = slice(start, start + SLICES)
            found = segmenter(torch.from_numpy(image[several, None]).to(device))
            score[several] = found[:, 0].float().clamp_min(0.0).cpu().numpy()
    return score


def still(count: int, canvas: Sequence[int], device: torch.device) -> Tensor:
    """The mean of the random latent for `count` slabs."""
    import torch

    from LabelFreeCovidSegLib.networks.dense_unet3d import latent_shape

    return torch.zeros(count, *latent_shape(canvas), device=device)


def build(preset: Preset) -> nn.ModuleDict:
    """The untrained networks of a preset that a scan needs."""
    from torch import nn

    from LabelFreeCovidSegLib.networks.bcdu_net import BCDUNet
    from LabelFreeCovidSegLib.networks.dense_unet3d import DenseUNet3D

    networks = nn.ModuleDict({"generator": DenseUNet3D(preset.base)})
    if preset.segmenter:
        networks["segmenter"] = BCDUNet(preset.slice_base)
    return networks


def load(store: Path | None = None) -> Gan3D:
    """The method with the weights that ship, or with those in another store.

    Raises:
        WeightsError: they are missing, damaged, or do not fit these networks.
    """
    from LabelFreeCovidSegLib import weights

    entry, (state,) = weights.load(CARD.name, store)
    preset = weights.preset(entry, PRESETS)
    networks = build(preset)
    weights.fill(networks, state, entry)
    threshold = preset.threshold or Threshold(entry.recipe["threshold"])
    return Gan3D({name: network.eval() for name, network in networks.items()}, preset, threshold, entry.label)
