"""Crops of NormNet's cached blocks: random ones to train on, and always the same ones to judge networks by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.scan import AIR_HU
from LabelFreeCovidSegLib.synthesis import LesionModel, synthesize
from LabelFreeCovidSegLib.training.recipes import Arrays

HEALTHY_EVERY = 3
"""Of views, every so manieth has no lesion, so that whatever is marked there is wrong."""


@dataclass(frozen=True, eq=False)
class Block:
    """A piece of healthy lung on the working grid.

    Attributes:
        hu: (k, j, i) int16; air where no lung is near.
        lung: (k, j, i) bool, without the erroneous edges (M).
    """

    hu: np.ndarray
    lung: np.ndarray

    @classmethod
    def of(cls, arrays: Arrays) -> Block:
        """A block as the cache holds it."""
        return cls(arrays["hu"], arrays["lung"] > 0)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one scan, drawn from in proportion to the lung in them."""

    blocks: tuple[Block, ...]
    shares: np.ndarray

    @classmethod
    def of(cls, blocks: Sequence[Arrays]) -> Blocks:
        """A scan as the cache holds it."""
        made = tuple(Block.of(arrays) for arrays in blocks)
        volumes = np.array([block.lung.sum() for block in made], dtype=float)
        return cls(made, volumes / volumes.sum())

    def draw(self, crop: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random crop: HU float32 and lung bool, (k, j, i)."""
        return cut(self.blocks[rng.choice(len(self.blocks), p=self.shares)], crop, rng)


@dataclass(frozen=True, eq=False)
class View:
    """A crop with synthetic lesions to judge networks by.

    Attributes:
        hu: (k, j, i) float32. image: the same in NormNet's window, and 0 outside the lung: its input A.
        lesion: (k, j, i) bool, G; empty in a healthy view.
        lung: (k, j, i) bool, M.
    """

    hu: np.ndarray
    image: np.ndarray
    lesion: np.ndarray
    lung: np.ndarray


class Planted(Protocol):
    """What of a preset decides its views."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]: ...
    @property
    def crop(self) -> tuple[int, int, int]: ...
    @property
    def lesions(self) -> LesionModel: ...


def views(preset: Planted, blocks: Blocks, seed: int, count: int) -> list[View]:
    """`count` views of a scan, decided by `seed` alone; every third is healthy."""
    made = []
    for number in range(count):
        crop_seed, lesion_seed = np.random.SeedSequence([seed, number]).spawn(2)
        hu, inside = blocks.draw(preset.crop, np.random.default_rng(crop_seed))
        healthy = normnet.window(hu) * inside
        if number % HEALTHY_EVERY == 0:
            made.append(View(hu, healthy, np.zeros_like(inside), inside))
        else:
            ill = synthesize(healthy, inside, preset.spacing_mm, normnet.TAU, lesion_seed, preset.lesions)
            made.append(View(with_lesions(hu, healthy, ill.image), ill.image, ill.lesion, inside))
    return made


def with_lesions(hu: np.ndarray, healthy: np.ndarray, image: np.ndarray) -> np.ndarray:
    """HU of a crop whose lesions are known in NormNet's window.

    Args:
        hu: without lesions. healthy: the same in the window. image: with lesions in it, nowhere darker.
    """
    low, high = normnet.WINDOW_HU
    return np.where(image > healthy, low + image * (high - low), hu).astype(np.float32)


def cut(block: Block, crop: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop around a random lung voxel, kept within the block where that is large enough; HU float32 and lung.

    What reaches beyond the block is air.
    """
    centre = np.argwhere(block.lung.any(axis=(1, 2)))
    k = int(centre[rng.integers(len(centre)), 0])
    j, i = (int(x) for x in rng.choice(np.argwhere(block.lung[k])))
    hu = np.full(crop, AIR_HU, dtype=np.float32)
    lung = np.zeros(crop, dtype=bool)
    source, target = [], []
    for place, side, extent in zip((k, j, i), crop, block.lung.shape, strict=True):
        start = int(np.clip(place - side // 2, min(0, extent - side), max(0, extent - side)))
        first, last = max(start, 0), min(start + side, extent)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    hu[tuple(target)] = block.hu[tuple(source)]
    lung[tuple(target)] = block.lung[tuple(source)]
    return hu, lung
