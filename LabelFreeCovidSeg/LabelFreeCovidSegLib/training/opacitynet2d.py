"""The recipe of OpacityNet for slices: painted pneumonia, seen as pictures show it.

What is painted, and what chooses and calibrates the networks, is as in `training.opacitynet`. A picture then loses what
pictures lose: its window, its scale, and in equalised ones the HU themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from LabelFreeCovidSegLib import device
from LabelFreeCovidSegLib.lungs import label, picturenet
from LabelFreeCovidSegLib.methods import normnet, opacitynet, opacitynet2d
from LabelFreeCovidSegLib.methods.base import HU
from LabelFreeCovidSegLib.methods.opacitynet import BRIGHT_HEALTHY, OPACITY
from LabelFreeCovidSegLib.methods.opacitynet2d import Preset
from LabelFreeCovidSegLib.methods.uda import LUNG, UNKNOWN
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import AIR_HU
from LabelFreeCovidSegLib.synthesis import WITH_CONSOLIDATION, synthesize
from LabelFreeCovidSegLib.training import calibrate as calibration
from LabelFreeCovidSegLib.training.augment import BORDER_BLUR_MM, BORDER_LEVEL, DENSER_PROBABILITY, denser
from LabelFreeCovidSegLib.training.clahe import SIDE, clahe256
from LabelFreeCovidSegLib.training.crops import with_lesions
from LabelFreeCovidSegLib.training.domains import Slices, slice_blocks
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.opacitynet import EVEN, OpacityTrainee
from LabelFreeCovidSegLib.training.pneumonia import PAINTS, VISIBLE, infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import ListedScan, refuse_patient

PRESETS = opacitynet2d.PRESETS
CITATION = opacitynet2d.CARD.citation
EXPECTS = "Axial slices of the chest in Hounsfield units, measured or calibrated; lungs found beforehand."
SHIPS = ("network",)
SLAB_MM = 36.0
"""Lesions are drawn in a slab of this height, of which a few slices are kept."""
VIEWS = 16
VIEW_SEED, FIT_SEED, CHECK_SEED = 20_261_122, 20_261_123, 20_261_124
"""Of the stacks that choose the checkpoint, that the calibration is fitted on, and that it is checked on."""
HEALTHY_EVERY = 3
"""Of these, every so manieth has no lesion."""


@dataclass(frozen=True)
class Pictures:
    """What happens to a slice on its way into a picture.

    Attributes:
        turn_degrees: at most. size: by what it is scaled.
        noise_hu: of the scanner, beyond the scan's own. sharpness: as in `augment`.
        windowed: probability that HU beyond a window were lost. darkest_hu, brightest_hu: its ends.
        found: probability of the lungs that `lungs.picturenet` finds in the picture, with its errors; else they are
            known.
        scale, shift_hu: how wrong a calibration may be.
        around_mm: of tissue beside the crop, mirrored, before air begins.
        outside_hu: darkest voxel of a slice that is shown whole, beyond the scanner's circle.
        metal_hu: by how much something may be brighter than the brightest bone.
    """

    turn_degrees: float = 10.0
    size: tuple[float, float] = (0.8, 1.3)
    noise_hu: tuple[float, float] = (0.0, 50.0)
    sharpness: tuple[float, float] = (-0.5, 0.8)
    windowed: float = 0.5
    darkest_hu: tuple[float, float] = (-1400.0, -900.0)
    brightest_hu: tuple[float, float] = (100.0, 400.0)
    found: float = 0.5
    scale: tuple[float, float] = (0.92, 1.08)
    shift_hu: tuple[float, float] = (-40.0, 40.0)
    around_mm: tuple[float, float] = (0.0, 30.0)
    outside_hu: tuple[float, float] = (-1200.0, -1000.0)
    metal_hu: tuple[float, float] = (0.0, 600.0)


PICTURES = Pictures()


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices as a network sees them, and what is in them.

    Attributes:
        shown: (n, 2, j, i) float32. target: (n, j, i) uint8, the network's classes.
    """

    shown: np.ndarray
    target: np.ndarray


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """The chest around the lungs, with the lungs."""
    refuse_patient(listed)
    return slice_blocks(listed, preset.spacing_mm)


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> OpacityNet2DTrainee:
    """One network, ready to train."""
    return OpacityNet2DTrainee(preset, train, judge)


class OpacityNet2DTrainee(OpacityTrainee):
    """One network in training.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(opacitynet2d.build(preset), preset.learning_rate, preset.cooldown, preset.inertia)
        self.preset = preset
        self.scans = [Slices.of(blocks) for blocks in train]
        self.views = views(preset, judge, VIEW_SEED, VIEWS) if judge else []

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """Some slices of one slab: `shown` (n, 2, j, i) float32 and their classes as `target` (n, j, i) uint8."""
        rng = np.random.default_rng(seed)
        hu, labels = slab_of(self.scans[rng.integers(len(self.scans))], self.preset, rng)
        lung = labels == LUNG
        if rng.random() < DENSER_PROBABILITY:
            hu = denser(hu, lung, self.preset.spacing_mm, rng)
        made = infect(hu, lung, self.preset.spacing_mm, rng, PAINTS[self.preset.paint])
        stack = photographed(made.hu, hu, labels, made.ill, self.preset, rng)
        return {"shown": stack.shown, "target": stack.target}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update."""
        iteration = round(share * self.preset.iterations) + 1
        return self.learn(batch["shown"].flatten(0, 1), batch["target"].flatten(0, 1)[:, None], update, iteration)

    def validate(self) -> float:
        """Dice of foreign lesions, all stacks of the held-out scan taken together."""
        network = self.networks["network"]
        where = next(network.parameters()).device
        both = either = 0
        for view in self.views:
            found = network(torch.from_numpy(view.shown).to(where)).float().softmax(dim=1)[:, OPACITY].cpu().numpy()
            marked, lesion = (found > EVEN) & (view.shown[:, 1] > 0), view.target == OPACITY
            both += int((marked & lesion).sum())
            either += int(marked.sum() + lesion.sum())
        return 2.0 * both / max(either, 1)


def slab_of(slices: Slices, preset: Preset, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slab around a slice with lung, most often with much of it, as in collections of pictures.

    Returns:
        HU (k, j, i) float32, and labels uint8 as the cache holds them.
    """
    block, k = slices.draw_large(rng)
    reach = round(SLAB_MM / 2 / preset.spacing_mm[0])
    slab = slice(max(k - reach, 0), k + reach + 1)
    return block["hu"][slab].astype(np.float32), block["labels"][slab]


def photographed(
    hu: np.ndarray, healthy: np.ndarray, labels: np.ndarray, ill: np.ndarray, preset: Preset, rng: np.random.Generator
) -> Stack:
    """Some slices of a slab as pictures, each changed in its own way.

    Args:
        hu: (k, j, i) float32, with lesions. healthy: the same without. labels: uint8, as the cache holds them.
        ill: float32 share of each voxel.
    """
    lung, unknown = labels == LUNG, labels == UNKNOWN
    area = lung.sum(axis=(1, 2))
    chosen = rng.choice(
        len(area), preset.slices, replace=bool(np.count_nonzero(area) < preset.slices), p=area / area.sum()
    )
    shown, targets = [], []
    for k in chosen:
        bright = (healthy[k] >= normnet.BRIGHT_HU).astype(np.float32)
        planes = (lung[k].astype(np.float32), ill[k], bright, unknown[k].astype(np.float32))
        density, *masks = turned((hu[k], *planes), preset, rng)
        border = ndimage.gaussian_filter(masks[0], BORDER_BLUR_MM / preset.spacing_mm[1])
        inside = border > rng.uniform(*BORDER_LEVEL)
        intensity = developed(density, inside, preset, rng)
        if rng.random() < PICTURES.found:
            found, _ = picturenet.find(255 * intensity)
            inside = (found > 0) & (masks[3] < 0.5)
        target = np.where(masks[1] > VISIBLE, OPACITY, np.where(masks[2] > 0.5, BRIGHT_HEALTHY, 0)) * inside
        middle = (slice((SIDE - preset.side) // 2, (SIDE + preset.side) // 2),) * 2
        shown.append(opacitynet2d.seen(intensity[middle][None], inside[middle][None])[0])
        targets.append(target[middle].astype(np.uint8))
    return Stack(np.stack(shown), np.stack(targets))


def turned(planes: tuple[np.ndarray, ...], preset: Preset, rng: np.random.Generator) -> list[np.ndarray]:
    """HU and shares (j, i) turned, scaled and mirrored alike, in the middle of a picture with air around the chest."""
    angle = np.radians(rng.uniform(-PICTURES.turn_degrees, PICTURES.turn_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([1.0, rng.choice([-1.0, 1.0])]) / rng.uniform(*PICTURES.size)
    around = round(rng.uniform(*PICTURES.around_mm) / preset.spacing_mm[1])
    made = []
    for number, plane in enumerate(planes):
        wide = np.pad(plane, around, mode="symmetric") if number == 0 else np.pad(plane, around)
        offset = (np.array(wide.shape) - 1) / 2 - matrix @ np.full(2, (SIDE - 1) / 2)
        made.append(
            ndimage.affine_transform(
                wide, matrix, offset, (SIDE, SIDE), order=1, cval=AIR_HU if number == 0 else 0.0,
                prefilter=False,
            )
        )  # fmt: skip
    return made


def developed(hu: np.ndarray, lung: np.ndarray, preset: Preset, rng: np.random.Generator) -> np.ndarray:
    """A slice (j, i) in HU through scanner, window and, for equalised pictures, equalisation; in [0, 1]."""
    hu = hu + np.float32(rng.uniform(*PICTURES.sharpness)) * (hu - ndimage.gaussian_filter(hu, 0.7))
    hu = hu + rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(rng.uniform(*PICTURES.noise_hu))
    if rng.random() < PICTURES.windowed:
        hu = np.clip(hu, rng.uniform(*PICTURES.darkest_hu), rng.uniform(*PICTURES.brightest_hu))
    if preset.domain == HU:
        scale, shift = rng.uniform(*PICTURES.scale), rng.uniform(*PICTURES.shift_hu)
        return opacitynet.window((AIR_HU + scale * (hu - AIR_HU) + shift).astype(np.float32), preset.window_hu)
    # One voxel of each stands for all that is darker or brighter outside the crop.
    hu[0, 0] = min(float(hu.min()), rng.uniform(*PICTURES.outside_hu))
    hu[0, -1] = float(hu.max()) + rng.uniform(*PICTURES.metal_hu)
    grey, _ = clahe256(hu, lung)
    return grey.astype(np.float32) / 255


def views(preset: Preset, judge: Sequence[Arrays], seed: int, count: int) -> list[Stack]:
    """Stacks of the held-out scan with lesions of NormNet's generator, decided by `seed` alone; every third without."""
    slices, made = Slices.of(judge), []
    for number in range(count):
        drawn, planted = np.random.SeedSequence([seed, number]).spawn(2)
        rng = np.random.default_rng(drawn)
        hu, labels = slab_of(slices, preset, rng)
        lung = labels == LUNG
        ill_hu, ill = hu, np.zeros(hu.shape, np.float32)
        if number % HEALTHY_EVERY:
            healthy = normnet.window(hu) * lung
            lesions = synthesize(healthy, lung, preset.spacing_mm, normnet.TAU, planted, WITH_CONSOLIDATION)
            ill_hu, ill = with_lesions(hu, healthy, lesions.image), lesions.lesion.astype(np.float32)
        made.append(photographed(ill_hu, hu, labels, ill, preset, rng))
    return made


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """`calibration` of the networks' mean probability on foreign lesions in the held-out scan, and its error.

    And `lungs`, the network that finds them in the pictures of training and calibration alike.
    """
    networks = calibration.restored(lambda: opacitynet2d.build(preset), states)
    compute = device.choose()

    def scored(seed: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        scores, lesions = [], []
        for number, view in enumerate(views(preset, judge, seed, calibration.VIEWS)):
            progress(number / calibration.VIEWS, "Calibrating")
            found = np.mean([opacitynet2d.judged(network, view.shown, compute) for network in networks], axis=0)
            inside = view.shown[:, 1] > 0
            scores.append(found[inside])
            lesions.append(view.target[inside] == OPACITY)
        return np.concatenate(scores), np.concatenate(lesions)

    fitted = scored(FIT_SEED, part(progress, 0.0, 0.5))
    found = calibration.fit(fitted, scored(CHECK_SEED, part(progress, 0.5, 1.0)))
    return found | {"lungs": label("lungnet", picture=True)}
