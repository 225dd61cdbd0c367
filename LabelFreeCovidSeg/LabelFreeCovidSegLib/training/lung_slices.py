"""Healthy and infected lungs in slices, for the cycle-GAN and the anomaly detectors.

All that happens to infected lungs happens to healthy ones: no discriminator shall find another difference than disease.
Infected are scans of patients, wherever the disease may be in them, and near-healthy scans with synthetic lesions.

A cached block holds `hu` (k, j, i) int16 and the lungs (uint8, 1 right and 2 left) as `healthy` or as `ill`: on a
canvas or, for a preset that learns from equalised pictures (`clahe`), in whole slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, Scan
from LabelFreeCovidSegLib.training import clahe, recipes
from LabelFreeCovidSegLib.training.augment import DENSER_PROBABILITY, denser
from LabelFreeCovidSegLib.training.domains import ChestCrop
from LabelFreeCovidSegLib.training.healthy import cached, free_slices
from LabelFreeCovidSegLib.training.pneumonia import infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan
from LabelFreeCovidSegLib.training.seeds import children
from LabelFreeCovidSegLib.training.slabs import Lungs, Slab

SLAB_MM = 36.0
"""Lesions are drawn in slabs of at most this height: most of them hold a lesion."""
LEAST_LUNG = 0.01
"""Of a slice; with less there is nothing to learn from it."""
REAL_SHARE = 0.5
"""Of infected slices that are of patients."""


OnCanvas = Callable[[Scan, LungMask], LungSlices]
"""How a method puts lungs on its canvas."""


class Canvas(recipes.Preset, Protocol):
    """A preset whose slices are square."""

    @property
    def side(self) -> int:
        """Extent in pixels."""
        ...


def blocks(listed: ListedScan, on_canvas: OnCanvas) -> list[dict[str, np.ndarray]]:
    """Read a scan, put its lungs on the canvas, and leave slices with focal findings out."""
    scan = read(listed.path)
    work = on_canvas(scan, _lungs(scan))
    return _free(listed, scan, work.box[0].start, cached(work.hu), work.sides, work.grid.spacing_mm[0])


def whole_blocks(listed: ListedScan, spacing_mm: Lengths) -> list[dict[str, np.ndarray]]:
    """Read a scan, keep whole slices for equalised pictures, and leave those with focal findings out."""
    scan = read(listed.path)
    lungs = _lungs(scan).labels
    chest = ChestCrop.of(scan, lungs, spacing_mm, whole=True)
    return _free(listed, scan, chest.box[0].start, chest.hu(scan), chest.labels(lungs), spacing_mm[0])


def _lungs(scan: Scan) -> LungMask:
    """Not by the lung network: a network must not learn from what another one made of these scans."""
    return find_lungs(scan, "classical")


def _free(
    listed: ListedScan, scan: Scan, first: int, hu: np.ndarray, sides: np.ndarray, step_mm: float
) -> list[dict[str, np.ndarray]]:
    """The blocks of slices without focal findings; the arguments are those of `healthy.free_slices`."""
    arrays = {"hu": hu, "ill" if listed.covid else "healthy": sides * np.isin(sides, SIDES[listed.lungs])}
    parts = free_slices(listed, scan, first, len(hu), step_mm)
    cut = [{name: array[part] for name, array in arrays.items()} for part in parts]
    return [block for block in cut if any(block[kind].any() for kind in block.keys() - {"hu"})]


class SliceDomains:
    """Healthy and infected slices to draw, each decided by its seed alone.

    Args:
        scans: the blocks of each.
        slab_mm: height of the slabs that slices are taken from, at most.

    Raises:
        TrainingError: no near-healthy scan.
    """

    def __init__(self, preset: Canvas, scans: Sequence[Sequence[Arrays]], slab_mm: float = SLAB_MM) -> None:
        self.spacing_mm = preset.spacing_mm
        self.height = round(slab_mm / preset.spacing_mm[0])
        self.side = preset.side
        self.equalised = recipes.domain(preset) == CLAHE256
        self.healthy_scans = [Lungs.of(blocks, "healthy") for blocks in scans if "healthy" in blocks[0]]
        self.ill_scans = [Lungs.of(blocks, "ill") for blocks in scans if "ill" in blocks[0]]
        if not self.healthy_scans:
            raise TrainingError("There is no near-healthy scan to learn from or to judge by: all are `covid = true`.")

    def healthy(self, seed: np.random.SeedSequence) -> Slab:
        """A slice of healthy lung, (1, j, i)."""
        rng = np.random.default_rng(seed)
        return self._seen(one_slice(self._slab(self.healthy_scans, rng), rng))

    def infected(self, seed: np.random.SeedSequence) -> Slab:
        """A slice of a patient's lungs or, from a list without patients always, one with synthetic lesions."""
        rng = np.random.default_rng(seed)
        if self.ill_scans and rng.random() < REAL_SHARE:
            return self._seen(one_slice(self._slab(self.ill_scans, rng), rng))
        return self.planted(seed)

    def planted(self, seed: np.random.SeedSequence) -> Slab:
        """A slice of healthy lung with synthetic lesions; rarely, it was spared."""
        return self._seen(one_slice(*self._planted(seed)))

    def planted_slab(self, seed: np.random.SeedSequence) -> Slab:
        """All of the slab, (k, j, i) in HU, that `planted` takes its slice from."""
        slab, _ = self._planted(seed)
        return slab

    def _planted(self, seed: np.random.SeedSequence) -> tuple[Slab, np.random.Generator]:
        """A slab, and what goes on drawing."""
        drawn, made = children(seed, 2)
        rng = np.random.default_rng(drawn)
        slab = self._slab(self.healthy_scans, rng)
        ill = infect(slab.hu, slab.lung, self.spacing_mm, np.random.default_rng(made))
        return Slab(ill.hu, slab.lung, ill.classes > 0), rng

    def _slab(self, scans: Sequence[Lungs], rng: np.random.Generator) -> Slab:
        lungs = scans[int(rng.integers(len(scans)))]
        _, j, i = lungs.hu[0].shape
        slab = lungs.draw((self.height, j, i), rng)
        if rng.random() < DENSER_PROBABILITY:
            return Slab(denser(slab.hu, slab.lung, self.spacing_mm, rng), slab.lung, slab.lesion)
        return slab

    def _seen(self, slab: Slab) -> Slab:
        """A slice (1, j, i) as it is or, for equalised pictures, as one of these on the canvas.

        The size of its pixels is guessed from the lung in it; of one lung, as large as a field of view allows.
        """
        if not self.equalised:
            return slab
        maps = (mask[0].astype(np.uint8) for mask in (slab.lung, slab.lesion))
        hu, lung, lesion = clahe.seen(slab.hu[0], slab.lung[0], self.spacing_mm[1], 0.0, *maps)
        canvas = (placed(hu, self.side, AIR_HU), placed(lung, self.side) > 0, placed(lesion, self.side) > 0)
        return Slab(*(plane[None] for plane in canvas))


def one_slice(slab: Slab, rng: np.random.Generator) -> Slab:
    """A slice of a slab, (1, j, i): one with enough lung, and with a lesion, where there is one."""
    shares = slab.lung.mean(axis=(1, 2))
    usable = shares >= min(LEAST_LUNG, shares.max())
    ill = usable & slab.lesion.any(axis=(1, 2))
    k = int(rng.choice(np.flatnonzero(ill if ill.any() else usable)))
    return Slab(*(array[k : k + 1] for array in (slab.hu, slab.lung, slab.lesion)))


def placed(plane: np.ndarray, side: int, outside: float = 0) -> np.ndarray:
    """(j, i) in the middle of a canvas of `side` pixels, and what does not fit cut off."""
    canvas = np.full((side, side), outside, plane.dtype)
    there = tuple(slice(max((side - n) // 2, 0), max((side - n) // 2, 0) + min(n, side)) for n in plane.shape)
    taken = tuple(slice(max((n - side) // 2, 0), max((n - side) // 2, 0) + min(n, side)) for n in plane.shape)
    canvas[there] = plane[taken]
    return canvas
