"""Pieces of healthy and of ill lungs for `gan3d`.

There are few scans, so they are varied: slabs of any height, one lung or both, mirrored, breathed out. All of it
happens to ill lungs as to healthy ones: the discriminator shall find no other difference between them than disease.

A cached block holds `hu` (k, j, i) int16, and the lungs (uint8, 1 right and 2 left) as `healthy` or as `ill`. Both are
stretched to the preset's canvas in the plane. For a preset that learns from equalised pictures (`clahe`) they are whole
slices, and `box` says where both lungs lie in them: this is stretched to the canvas when a slab has become pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.gan3d import Frame, Preset, window
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, bounding_box
from LabelFreeCovidSegLib.synthesis import WITH_CONSOLIDATION, synthesize
from LabelFreeCovidSegLib.training import clahe
from LabelFreeCovidSegLib.training.augment import DENSER_PROBABILITY, denser
from LabelFreeCovidSegLib.training.crops import with_lesions
from LabelFreeCovidSegLib.training.domains import ChestCrop
from LabelFreeCovidSegLib.training.healthy import cached, free_slices
from LabelFreeCovidSegLib.training.pneumonia import infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan
from LabelFreeCovidSegLib.training.seeds import children

LUNGS_MM = (260.0, 200.0, 270.0)
"""Extents (k, j, i) of an adult's lungs: what a stretched voxel is taken to measure follows from them."""
SINGLE_PROBABILITY = 0.5
LOWEST = 0.5
"""Height of the lowest slab in canvases."""
REAL_SHARE = 0.5
"""Of ill slabs that are of patients; the others are healthy ones with synthetic lesions."""

Box = tuple[slice, ...]
"""Rows and columns."""


@dataclass(frozen=True, eq=False)
class Slab:
    """A piece of lung on a canvas.

    Attributes:
        hu: (k, j, i) float32. lung: (k, j, i) bool. lesion: (k, j, i) bool, where synthetic lesions are.
        box: of whole slices, where both lungs lie (j, i).
    """

    hu: np.ndarray
    lung: np.ndarray
    lesion: np.ndarray
    box: Box | None = field(default=None, kw_only=True)

    @property
    def image(self) -> np.ndarray:
        """(k, j, i) float32 in [0, 1], 0 outside the lung."""
        return window(self.hu) * self.lung


@dataclass(frozen=True, eq=False)
class Lungs:
    """The blocks of one scan, drawn from in proportion to the lung in them.

    Attributes:
        hu: (k, j, i) int16 of each block. sides: (k, j, i) uint8, 1 right and 2 left lung.
        box: of whole slices, where both lungs lie; else None.
    """

    hu: tuple[np.ndarray, ...]
    sides: tuple[np.ndarray, ...]
    shares: np.ndarray
    box: Box | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, blocks: Sequence[Arrays], kind: str) -> Lungs:
        """A scan as the cache holds it; `kind` is "healthy" or "ill"."""
        sides = tuple(block[kind] for block in blocks)
        volumes = np.array([np.count_nonzero(labels) for labels in sides], dtype=float)
        box = tuple(slice(*ends) for ends in blocks[0]["box"].tolist()) if "box" in blocks[0] else None
        return cls(tuple(block["hu"] for block in blocks), sides, volumes / volumes.sum(), box=box)

    def draw(self, canvas: tuple[int, int, int], rng: np.random.Generator) -> Slab:
        """A slab of random height at a random place, of one lung or both, mirrored or not; nothing above and below.

        Args:
            canvas: extents (k, j, i); j and i are those of the blocks.
        """
        block = rng.choice(len(self.shares), p=self.shares)
        hu, sides = self.hu[block], self.sides[block]
        height = min(int(rng.integers(max(int(LOWEST * canvas[0]), 1), canvas[0] + 1)), len(hu))
        middle = int(rng.choice(np.flatnonzero(sides.any(axis=(1, 2)))))
        first = int(np.clip(middle - height // 2, 0, len(hu) - height))
        lower = int(rng.integers(canvas[0] - height + 1))
        drawn, lung = np.full(canvas, AIR_HU, dtype=np.float32), np.zeros(canvas, dtype=bool)
        drawn[lower : lower + height] = hu[first : first + height]
        lung[lower : lower + height] = _chosen(sides[first : first + height], rng)
        box = self.box
        if rng.random() < 0.5:
            drawn, lung = drawn[:, :, ::-1].copy(), lung[:, :, ::-1].copy()
            box = box and (box[0], slice(canvas[2] - box[1].stop, canvas[2] - box[1].start))
        return Slab(drawn, lung, np.zeros(canvas, dtype=bool), box=box)


def _chosen(sides: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Both lungs or one of those that are there; (k, j, i) bool."""
    there = [side for side in (RIGHT, LEFT) if (sides == side).any()]
    if rng.random() < SINGLE_PROBABILITY:
        return sides == rng.choice(there)
    return sides > 0


class SlabDomains:
    """Healthy and ill scans to draw slabs from.

    Args:
        scans: the blocks of each.
    """

    def __init__(self, preset: Preset, scans: Sequence[Sequence[Arrays]]) -> None:
        self.canvas = preset.canvas
        self.spacing_mm = preset.spacing_mm if preset.domain == CLAHE256 else nominal_spacing(preset)
        self.healthy_scans = [Lungs.of(blocks, "healthy") for blocks in scans if "healthy" in blocks[0]]
        self.ill_scans = [Lungs.of(blocks, "ill") for blocks in scans if "ill" in blocks[0]]

    def healthy(self, seed: np.random.SeedSequence) -> Slab:
        """A slab of healthy lung."""
        return self._seen(self._draw(self.healthy_scans, np.random.default_rng(seed)))

    def ill(self, seed: np.random.SeedSequence) -> Slab:
        """A slab of a patient's lung or, from a list without patients always, one with synthetic lesions."""
        rng = np.random.default_rng(seed)
        if self.ill_scans and rng.random() < REAL_SHARE:
            return self._seen(self._draw(self.ill_scans, rng))
        return self.infected(seed)

    def infected(self, seed: np.random.SeedSequence) -> Slab:
        """A slab of healthy lung with synthetic lesions."""
        drawn, made = children(seed, 2)
        slab = self._draw(self.healthy_scans, np.random.default_rng(drawn))
        ill = infect(slab.hu, slab.lung, self.spacing_mm, np.random.default_rng(made))
        return self._seen(replace(slab, hu=ill.hu, lesion=ill.classes > 0))

    def foreign(self, seed: np.random.SeedSequence) -> Slab:
        """A slab of healthy lung with lesions of NormNet's generator, from which nothing learns here."""
        drawn, made = children(seed, 2)
        slab = self._draw(self.healthy_scans, np.random.default_rng(drawn))
        healthy = normnet.window(slab.hu) * slab.lung
        lesions = synthesize(healthy, slab.lung, self.spacing_mm, normnet.TAU, made, WITH_CONSOLIDATION)
        ill = with_lesions(slab.hu, healthy, lesions.image)
        return self._seen(replace(slab, hu=ill, lesion=lesions.lesion & slab.lung))

    def _draw(self, scans: Sequence[Lungs], rng: np.random.Generator) -> Slab:
        lungs = scans[int(rng.integers(len(scans)))]
        slab = lungs.draw((self.canvas[0], *lungs.hu[0].shape[1:]), rng)
        if rng.random() < DENSER_PROBABILITY:
            return replace(slab, hu=denser(slab.hu, slab.lung, self.spacing_mm, rng))
        return slab

    def _seen(self, slab: Slab) -> Slab:
        """A slab as it is or, for equalised pictures, as a stack of these."""
        return pictured(slab, slab.box, self.canvas) if slab.box else slab


def pictured(slab: Slab, box: Box, canvas: tuple[int, int, int]) -> Slab:
    """A slab of whole slices as equalised pictures, of which `box` is stretched to the canvas."""
    hu, lung, lesion = np.full(canvas, AIR_HU, np.float32), np.zeros(canvas, bool), np.zeros(canvas, bool)
    for k in np.flatnonzero(slab.lung.any(axis=(1, 2))):
        maps = (mask[k].astype(np.uint8) for mask in (slab.lung, slab.lesion))
        hu[k], lung[k], lesion[k] = clahe.stretched(slab.hu[k], box, canvas[1:], *maps)
    return Slab(hu, lung, lesion)


def nominal_spacing(preset: Preset) -> Lengths:
    """What a voxel of the working grid measures in lungs of common size."""
    k, j, i = (mm / extent for mm, extent in zip(LUNGS_MM, preset.canvas, strict=True))
    return preset.slice_mm or k, j, i


def slab_blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """Read a scan, find its lungs, stretch their box to the canvas, and leave slices with focal findings out.

    For equalised pictures, keep whole slices instead, and where the box lies.
    """
    scan = read(listed.path)
    # Not the lung network: a network must not learn from what another one made of these scans.
    lungs = find_lungs(scan, "classical")
    crop: Frame | ChestCrop
    if preset.domain == CLAHE256:
        crop = ChestCrop.of(scan, lungs.labels, preset.spacing_mm, whole=True)
        hu, sides = crop.hu(scan), crop.labels(lungs.labels)
        _, *plane = bounding_box(sides > 0, (0, 0, 0))
        kept = {"box": np.array([(axis.start, axis.stop) for axis in plane])}
    else:
        crop = Frame.of(scan, lungs, preset.slice_mm, preset.canvas)
        hu, sides, kept = cached(crop.hu), crop.sides, {}
    sides = np.where(np.isin(sides, SIDES[listed.lungs]), sides, 0).astype(np.uint8)
    parts = free_slices(listed, scan, crop.box[0].start, len(sides), crop.grid.spacing_mm[0])
    kind = "ill" if listed.covid else "healthy"
    return [{"hu": hu[part], kind: sides[part], **kept} for part in parts if sides[part].any()]
