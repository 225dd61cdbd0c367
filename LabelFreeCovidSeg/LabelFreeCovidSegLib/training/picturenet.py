"""The recipe of the lung network for pictures: ill chests as for `training.lungnet`, slice by slice, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LabelFreeCovidSegLib.lungs import picturenet
from LabelFreeCovidSegLib.lungs.morphology import Spacing
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.scan import bounding_box
from LabelFreeCovidSegLib.training import lungnet
from LabelFreeCovidSegLib.training.chests import Chest, vary
from LabelFreeCovidSegLib.training.clahe import TILES
from LabelFreeCovidSegLib.training.illness import PAINTS
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.one_network import OneNetwork
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import ListedScan

Span = tuple[float, float]
SLAB_MM = 120.0
"""Height of the piece of a chest that `chests.vary` moves: its lungs end up to 60 mm beyond the slices to be shown."""
VIEWS = 16
VIEW_SEED = 20_261_125


@dataclass(frozen=True)
class Preset:
    """How the network is trained.

    Attributes:
        spacing_mm: working grid along (k, j, i). crop: voxels of a made-up chest, which holds most of a slice.
        batch: chests an iteration. slices: of each.
        paint: how ill they are, by its name in `training.illness.PAINTS`.
    """

    name: str = "whole"
    spacing_mm: Spacing = (4.0, 1.5, 1.5)
    crop: tuple[int, int, int] = (8, 256, 256)
    batch: int = 2
    slices: int = 4
    iterations: int = 3000
    learning_rate: float = 3e-3
    cooldown: float = 0.8
    paint: str = "severe"


@dataclass(frozen=True)
class Picture:
    """What becomes of a slice; probabilities and ranges.

    Attributes:
        windowed: that HU beyond a window are lost. darkest_hu, brightest_hu: its ends.
        cropped: that the picture ends near the lungs. near, far: where it ends if it does, and if not, as a share of
            the lungs' extent on each side; below 0 it cuts lung away.
        equalised: as in `training.clahe`. clip: its limit.
        gamma: of the greys.
    """

    windowed: float = 0.7
    darkest_hu: Span = (-1500.0, -850.0)
    brightest_hu: Span = (50.0, 700.0)
    cropped: float = 0.5
    near: Span = (-0.05, 0.2)
    far: Span = (0.1, 0.6)
    equalised: float = 0.5
    clip: Span = (2.0, 10.0)
    gamma: Span = (0.7, 1.4)


# A network of each ships; see `lungs.picturenet`.
PRESETS = {preset.name: preset for preset in (Preset(), Preset("whole-mild", paint="mild"))}
PICTURE = Picture()
CITATION = "LabelFreeCovidSeg's own: no lung was outlined by hand for it."
EXPECTS = "An axial slice of the chest as a picture, upright, in any window, equalised or not."
SHIPS = ("network",)


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """A scan on the working grid, as for `training.lungnet`."""
    return lungnet.blocks(listed, preset)


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> PictureNetTrainee:
    """A new network and everything the loop needs to train it."""
    return PictureNetTrainee(preset, train, judge)


class PictureNetTrainee(OneNetwork):
    """A lung network for pictures in training.

    Args:
        train: scans to learn from, each a list of blocks.
        judge: blocks of the held-out scan that chooses the checkpoint; empty if the last one counts.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(picturenet.build(), preset.learning_rate, preset.cooldown)
        self.preset = preset
        self.chests = [lungnet.chest(block) for blocks in train for block in blocks]
        judges = [lungnet.chest(block) for block in judge]
        count = VIEWS if judges else 0
        self.views = [pictures(judges, preset, np.random.default_rng([VIEW_SEED, number])) for number in range(count)]

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """Some slices of an ill chest: `shown` (n, 2, j, i) float32, `lung` and `known` (n, 1, j, i) float32."""
        return pictures(self.chests, self.preset, np.random.default_rng(seed))

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """Lower the `loss`, cross-entropy; and for a curve the `dice` of the lungs."""
        shown, lung, known = (batch[name].flatten(0, 1) for name in ("shown", "lung", "known"))
        scores = self.networks["network"](shown).float()
        loss = functional.binary_cross_entropy_with_logits(scores, lung, weight=known)
        with torch.no_grad():
            dice = lungnet.dice_of((scores > 0) * known, lung * known)
        update("network", loss)
        return {"loss": loss, "dice": dice}

    def validate(self) -> float:
        """Dice of the lungs in pictures of the held-out scan, the same each time, all taken together."""
        network = self.networks["network"]
        device = next(network.parameters()).device
        views = {name: torch.from_numpy(np.concatenate([view[name] for view in self.views])) for name in self.views[0]}
        with torch.inference_mode():
            found = network(views["shown"].to(device)).float().cpu() > 0
        return float(lungnet.dice_of(found * views["known"], views["lung"] * views["known"]))


def pictures(chests: Sequence[Chest], preset: Preset, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Some slices of one ill chest; see `PictureNetTrainee.sample`."""
    chest = slab(chests[int(rng.integers(len(chests)))], preset, rng)
    ill = vary(chest, preset.crop, preset.spacing_mm, rng, PAINTS[preset.paint])
    made = [
        picture(ill.hu[k], ill.labels[k] > 0, ill.known[k], rng)
        for k in rng.choice(len(ill.hu), preset.slices, replace=False)
    ]
    shown, lung, known = (np.stack(planes) for planes in zip(*made, strict=True))
    return {"shown": shown, "lung": lung[:, None], "known": known[:, None]}


def slab(chest: Chest, preset: Preset, rng: np.random.Generator) -> Chest:
    """A piece of a chest around one of the slices that show lung, as far as the scan goes."""
    k = int(rng.choice(np.flatnonzero((chest.labels > 0).any(axis=(1, 2)))))
    reach = round(SLAB_MM / 2 / preset.spacing_mm[0])
    levels = slice(max(k - reach, 0), k + reach + 1)
    return replace(chest, hu=chest.hu[levels], labels=chest.labels[levels], known=chest.known[levels])


def picture(
    hu: np.ndarray, lung: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A slice (j, i) as the network sees its picture, with lung and what is known of it in the same place, float32."""
    import cv2  # only training needs it

    hu, *masks = framed((hu, lung.astype(np.float32), known.astype(np.float32)), rng)
    if rng.random() < PICTURE.windowed:
        hu = np.clip(hu, rng.uniform(*PICTURE.darkest_hu), rng.uniform(*PICTURE.brightest_hu))
    low, high = float(hu.min()), float(hu.max())
    bright = ((hu - low) / max(high - low, 1)) ** rng.uniform(*PICTURE.gamma)
    grey: np.ndarray = (255 * bright).astype(np.uint8)
    if rng.random() < PICTURE.equalised:
        grey = cv2.createCLAHE(rng.uniform(*PICTURE.clip), TILES).apply(grey)
    seen, inside = picturenet.shown(grey)
    small, sure = (picturenet.squared(mask) for mask in masks)
    return np.stack([seen, inside]), (small > 0.5).astype(np.float32), ((sure > 0.5) * inside).astype(np.float32)


def framed(planes: tuple[np.ndarray, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """HU and shares (j, i) cut off somewhere around the lungs; a slice without lung stays as it is."""
    margin = PICTURE.near if rng.random() < PICTURE.cropped else PICTURE.far
    if not planes[1].any():
        return list(planes)
    box = []
    for axis in bounding_box(planes[1][None] > 0)[1:]:
        before, after = (axis.stop - axis.start) * rng.uniform(*margin, 2)
        box.append(slice(max(axis.start - round(before), 0), axis.stop + round(after)))
    return [plane[tuple(box)] for plane in planes]


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """Nothing: a lung mask has no score."""
    return {}
