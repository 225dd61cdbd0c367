"""Healthy and infected lungs in slices, for the cycle-GAN.

All that happens to infected lungs happens to healthy ones: no discriminator shall find another difference than disease.
Infected are scans of patients, wherever the disease may be in them, and near-healthy scans with synthetic lesions.

A cached block holds `hu` (k, j, i) int16 and the lungs (uint8, 1 right and 2 left) as `healthy` or as `ill`: on a
canvas or, for a preset that learns from equalised pictures (`clahe`), in whole slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.cyclegan import Preset
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU
from LabelFreeCovidSegLib.training import clahe
from LabelFreeCovidSegLib.training.augment import DENSER_PROBABILITY, denser
from LabelFreeCovidSegLib.training.domains import chest
from LabelFreeCovidSegLib.training.healthy import free_slices
from LabelFreeCovidSegLib.training.opacities import infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan
from LabelFreeCovidSegLib.training.slabs import Lungs, Slab

SLAB_MM = 36.0
"""Lesions are drawn in slabs of at most this height, of which one slice is used: most of them hold a lesion."""
LEAST_LUNG = 0.01
"""Of a slice; with less there is nothing to learn from it."""
REAL_SHARE = 0.5
"""Of infected slices that are of patients."""


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """Read a scan, put its lungs on the canvas or keep whole slices, and leave slices with focal findings out."""
    scan = read(listed.path)
    # Not the lung network: a network must not learn from what another one made of these scans.
    lungs = find_lungs(scan, "classical")
    if preset.domain == CLAHE256:
        first, hu, sides = chest(scan, lungs.labels, preset.spacing_mm, whole=True)
    else:
        work = LungSlices.of(scan, lungs, preset.spacing_mm, preset.side)
        first, sides = work.box[0].start, work.sides
        hu = (4 * np.round(np.clip(work.hu, AIR_HU, 1500.0) / 4)).astype(np.int16)
    arrays = {"hu": hu, "ill" if listed.covid else "healthy": sides * np.isin(sides, SIDES[listed.lungs])}
    parts = free_slices(listed, scan, first, len(hu), preset.spacing_mm[0])
    cut = [{name: array[part] for name, array in arrays.items()} for part in parts]
    return [block for block in cut if any(block[kind].any() for kind in block.keys() - {"hu"})]


class Domains:
    """Healthy and infected slices to draw, each decided by its seed alone.

    Args:
        scans: the blocks of each.

    Raises:
        TrainingError: no near-healthy scan.
    """

    def __init__(self, preset: Preset, scans: Sequence[Sequence[Arrays]]) -> None:
        self.spacing_mm = preset.spacing_mm
        self.height = round(SLAB_MM / preset.spacing_mm[0])
        self.side = preset.side
        self.equalised = preset.domain == CLAHE256
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
        drawn, made = (np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, child)) for child in range(2))
        rng = np.random.default_rng(drawn)
        slab = self._slab(self.healthy_scans, rng)
        hu, classes = infect(slab.hu, slab.lung, self.spacing_mm, made)
        return self._seen(one_slice(Slab(hu, slab.lung, classes > 0), rng))

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
