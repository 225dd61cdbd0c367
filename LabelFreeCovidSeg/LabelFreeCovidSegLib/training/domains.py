"""Source and target slices of `uda`: labelled ones with synthetic lesions, and unlabelled ones of patients.

A cached block is a piece of chest around the lungs: `hu` (k, j, i) int16 and, in the source domain only, `labels`
uint8 by the lung finder: 0 outside, 1 lung, 255 not known.
For a preset that learns from equalised pictures (`clahe`), it is whole slices, with `lungs` uint8 in both domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.lungs.morphology import Spacing
from LabelFreeCovidSegLib.lungs.planar import LEAST_SHARE
from LabelFreeCovidSegLib.methods.uda import AROUND_MM, LUNG, UNKNOWN, Plane
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan, bounding_box, resample
from LabelFreeCovidSegLib.training import clahe
from LabelFreeCovidSegLib.training.augment import DENSER_PROBABILITY, denser
from LabelFreeCovidSegLib.training.healthy import BRIGHTEST_HU, cached, free_slices, unknown
from LabelFreeCovidSegLib.training.pneumonia import infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan
from LabelFreeCovidSegLib.training.seeds import children
from LabelFreeCovidSegLib.training.variety import varied

SLAB_MM = 36.0
"""Lesions are drawn in a slab of this height, of which the middle slice is kept."""


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of one scan to draw from.

    Attributes:
        blocks: as the cache holds them. places: (n, 2) block and slice of each slice to draw.
    """

    blocks: tuple[Arrays, ...]
    places: np.ndarray

    @classmethod
    def of(cls, blocks: Sequence[Arrays]) -> Slices:
        """All slices, of labelled blocks those with lung."""
        places = [(n, k) for n, block in enumerate(blocks) for k in _usable(block)]
        return cls(tuple(blocks), np.array(places, dtype=int).reshape(-1, 2))

    def draw(self, rng: np.random.Generator) -> tuple[Arrays, int]:
        """A block, and the number of a slice in it."""
        return self._at(rng.integers(len(self.places)))

    def draw_large(self, rng: np.random.Generator) -> tuple[Arrays, int]:
        """As `draw`, of labelled slices; those with more lung more often."""
        return self._at(rng.choice(len(self.places), p=self._shares))

    @cached_property
    def _shares(self) -> np.ndarray:
        """Of all the lung, what each slice shows."""
        areas = np.array([np.count_nonzero(self.blocks[block]["labels"][k] == LUNG) for block, k in self.places])
        return areas / areas.sum()

    def _at(self, place: int | np.integer[Any]) -> tuple[Arrays, int]:
        block, k = self.places[place]
        return self.blocks[block], int(k)


def _usable(block: Arrays) -> np.ndarray:
    usable = np.ones(len(block["hu"]), bool)
    if "labels" in block:
        usable &= (block["labels"] == LUNG).any(axis=(1, 2))
    if "lungs" in block:
        usable &= (block["lungs"] > 0).mean(axis=(1, 2)) > LEAST_SHARE
    return np.flatnonzero(usable)


def slice_blocks(listed: ListedScan, spacing_mm: Spacing, whole: bool = False) -> list[dict[str, np.ndarray]]:
    """Read a scan and cut out the chest around its lungs, or `whole` slices, in slices without focal findings.

    In a near-healthy scan of which one lung is left out, what lies nearer to that one is not known.

    Args:
        spacing_mm: the working grid, along (k, j, i).
    """
    scan = read(listed.path)
    return chest_blocks(listed, scan, find_lungs(scan, "classical").labels, spacing_mm, whole=whole)


def chest_blocks(
    listed: ListedScan,
    scan: Scan,
    lungs: np.ndarray,
    spacing_mm: Spacing,
    lesions: np.ndarray | None = None,
    whole: bool = False,
) -> list[dict[str, np.ndarray]]:
    """As `slice_blocks`, of a scan that has been read.

    Args:
        lungs: (k, j, i) uint8 on the scan's grid, 1 right, 2 left.
        lesions: (k, j, i) uint8 on the scan's grid, 1 ground glass, 2 consolidation, where they are known.
    """
    chest = ChestCrop.of(scan, lungs, spacing_mm, whole)
    sides = chest.labels(lungs)
    arrays = {"hu": chest.hu(scan)}
    if whole:
        arrays["lungs"] = (sides > 0).astype(np.uint8)
    if not listed.covid:
        arrays["labels"] = known_lung(sides, SIDES[listed.lungs], spacing_mm)
    if lesions is not None:
        arrays["labels"] += chest.labels(lesions) * (arrays["labels"] == LUNG)
    parts = free_slices(listed, scan, chest.box[0].start, len(sides), spacing_mm[0])
    return [{name: array[part] for name, array in arrays.items()} for part in parts]


@dataclass(frozen=True)
class ChestCrop:
    """The chest around the lungs, or whole slices.

    Attributes:
        box: where it lies in the scan. source: the scan's grid there. grid: the working grid there.
        brightest_hu: kept of it.
    """

    box: tuple[slice, ...]
    source: Grid
    grid: Grid
    brightest_hu: float

    @classmethod
    def of(cls, scan: Scan, lungs: np.ndarray, spacing_mm: Spacing, whole: bool = False) -> ChestCrop:
        """Find it by the lungs, (k, j, i) uint8 on the scan's grid."""
        around = scan.hu.shape[1:] if whole else (int(np.ceil(AROUND_MM / mm)) for mm in scan.grid.spacing_mm[1:])
        box = bounding_box(lungs > 0, (0, *around))
        source = scan.grid.covering(box, scan.grid.spacing_mm)
        grid = source.with_spacing(spacing_mm)
        return cls(box, source, grid, clahe.BRIGHTEST_HU if whole else BRIGHTEST_HU)

    def hu(self, scan: Scan) -> np.ndarray:
        """On the working grid, (k, j, i) int16."""
        hu = resample(scan.hu[self.box], self.source, self.grid, outside=AIR_HU)
        return cached(hu, self.brightest_hu)

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Labels (k, j, i) uint8 on the scan's grid, brought onto the working grid."""
        return resample(labels[self.box], self.source, self.grid, nearest=True)


def known_lung(sides: np.ndarray, healthy: Sequence[int], spacing_mm: Spacing) -> np.ndarray:
    """Labels (k, j, i) uint8: 0, `LUNG`, and `UNKNOWN` where it is nearer to a lung that is not `healthy`.

    Args:
        sides: (k, j, i) uint8, 1 right and 2 left lung.
    """
    labels = np.where(sides > 0, LUNG, 0).astype(np.uint8)
    labels[unknown(sides, healthy, spacing_mm)] = UNKNOWN
    return labels


def labelled(
    slices: Slices, spacing_mm: Spacing, canvas: Plane, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """A source slice with synthetic lesions: image (j, i) float32 in [-1, 1], and its class labels (j, i) uint8."""
    drawn, made = children(seed, 2)
    rng = np.random.default_rng(drawn)
    block, k = slices.draw(rng)
    reach = round(SLAB_MM / 2 / spacing_mm[0])
    slab = slice(max(k - reach, 0), k + reach + 1)
    hu, labels = block["hu"][slab].astype(np.float32), block["labels"][slab]
    if rng.random() < DENSER_PROBABILITY:
        hu = denser(hu, labels == LUNG, spacing_mm, rng)
    ill = infect(hu, labels == LUNG, spacing_mm, np.random.default_rng(made))
    middle = k - slab.start
    plane, classes = _seen(block, k, ill.hu[middle], labels[middle] + ill.classes[middle], spacing_mm)
    return varied(plane, classes, canvas, rng)


def unlabelled(slices: Slices, spacing_mm: Spacing, canvas: Plane, seed: np.random.SeedSequence) -> np.ndarray:
    """A target slice as it is: image (j, i) float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    block, k = slices.draw(rng)
    plane = block["hu"][k].astype(np.float32)
    plane, nothing = _seen(block, k, plane, np.zeros(plane.shape, np.uint8), spacing_mm)
    return varied(plane, nothing, canvas, rng)[0]


def _seen(
    block: Arrays, k: int, hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels (j, i) of slice k as they are or, of a block of whole slices, as of an equalised picture."""
    if "lungs" not in block:
        return hu, labels
    image, moved = clahe.seen(hu, block["lungs"][k] > 0, spacing_mm[1], AROUND_MM, labels)
    return image, moved
