"""A procedural chest CT with lesions of known outline, for demonstrations and tests.

Everything follows from formulas and a seed. It shows what outlining has to cope with (vessels, airways, fissures,
domes, a gas-filled stomach, noise, thick slices). No method that segments learns from it; its lesions judge them, and
decide where the outlines of `methods.opacitynet` run.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib.phantom import anatomy
from LabelFreeCovidSegLib.phantom.lesions import (
    CONSOLIDATION,
    DENSE,
    FAINT,
    GROUND_GLASS,
    LESION_MIX,
    RADII_MM,
    SOLID,
    Kind,
    Lesion,
    Plan,
    infect,
    place,
)
from LabelFreeCovidSegLib.phantom.space import Space, paint
from LabelFreeCovidSegLib.phantom.texture import parenchyma, scanner_noise
from LabelFreeCovidSegLib.phantom.trees import Branches, branches, wall_mm
from LabelFreeCovidSegLib.phantom.tubes import draw
from LabelFreeCovidSegLib.scan import Grid, Scan

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "CONSOLIDATION", "DENSE", "FAINT", "GROUND_GLASS", "LESION_MIX", "RADII_MM", "SOLID", "Kind", "Lesion", "Phantom",
    "Plan", "make",
]  # fmt: skip

RIGHT, LEFT = 1, 2
WORLD_MM = np.array((14.5, -186.25, -1042.0))
"""Where the body's (0, 0, 0) lies in the scan's world: scanners put it nowhere in particular."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A made-up patient. All arrays are (k, j, i) on the scan's grid.

    Attributes:
        scan: the CT.
        lungs: uint8, 1 right, 2 left; vessels and lesions inside count as lung, trachea and main bronchi do not.
        lesions: uint8, 1 ground glass, 2 consolidation.
        instances: uint8, the `label` of the lesion in `planted` that a voxel belongs to.
        vessels: float32, the share of each voxel that is a vessel of the lung.
        planted: the lesions.
    """

    scan: Scan
    lungs: np.ndarray
    lesions: np.ndarray
    instances: np.ndarray
    vessels: np.ndarray
    planted: tuple[Lesion, ...]

    def image(self) -> sitk.Image:
        """The CT on its native grid, to be written to a file or turned."""
        return self.scan.native_image(self.scan.hu)


def make(
    seed: int = 0,
    shape: tuple[int, int, int] = (200, 256, 340),
    spacing_mm: tuple[float, float, float] = (1.5, 1.0, 1.0),
    lesions: Sequence[Plan] = LESION_MIX,
    *,
    noise_hu: float = 25.0,
    sharp: bool = False,
    thin_slices: int = 1,
) -> Phantom:
    """Make a chest CT; the same arguments make the same bytes.

    Anatomy, lesions and noise are drawn apart, so a phantom without lesions is the same patient, healthy.

    Args:
        shape: voxels along (k, j, i). The field of view is centred on the chest; one smaller than 300 x 256 x 340 mm
            cuts it.
        spacing_mm: voxel size along (k, j, i).
        lesions: what to plant; () for a healthy chest.
        noise_hu: standard deviation of the noise of a thin slice.
        sharp: noise as after a sharp (lung) kernel instead of a soft one.
        thin_slices: each slice is the mean of so many thinner ones.

    Raises:
        ValueError: the lungs have no room for `lesions`.
    """
    thin = Space((shape[0] * thin_slices, *shape[1:]), (spacing_mm[0] / thin_slices, *spacing_mm[1:]))
    of_anatomy, of_lesions, of_noise = (np.random.default_rng([seed, part]) for part in range(3))
    tubes = branches(of_anatomy)
    lung_hu = parenchyma(thin, of_anatomy)
    instances = np.zeros(thin.shape, np.uint8)
    placed = place(lesions, of_lesions)
    for label, (plan, centre) in enumerate(placed, 1):
        infect(lung_hu, instances, label, plan, centre, thin, of_lesions)
    vessels = _draw_branches(lung_hu, tubes, thin)
    hu, right, left = _draw_chest(lung_hu, tubes, thin)
    hu += np.float32(noise_hu) * scanner_noise(thin, sharp, of_noise)

    hu, right, left, vessels = (_thicken(part, thin_slices) for part in (hu, right, left, vessels * (right + left)))
    lungs = np.where(right > left, RIGHT, LEFT).astype(np.uint8) * (right + left > 0.5)
    # The middle thin slice stands for a thick one: labels can't be averaged.
    instances = instances[thin_slices // 2 :: thin_slices] * (lungs > 0)
    classes = np.array([0, *(plan.kind.label for plan, _ in placed)], np.uint8)[instances]
    planted = tuple(Lesion.of(plan, centre + WORLD_MM, label) for label, (plan, centre) in enumerate(placed, 1))
    grid = _grid(Space(shape, spacing_mm))
    scan = Scan(np.maximum(hu, -1024), grid, grid, f"phantom {seed}", ("A made-up chest, no patient.",))
    return Phantom(scan, lungs, classes, instances, vessels, planted)


def _draw_branches(lung_hu: np.ndarray, tubes: Branches, space: Space) -> np.ndarray:
    """Draw vessels, airways and fissures into the lung, in place, and return the share of vessel.

    They come after the lesions, and where a lesion is as dense as they are they vanish in it.
    """
    for part in _slabs(space):
        x, y, z = space.axes((part, slice(None), slice(None)))
        fissures = anatomy.fissure_share(x, y, z, space.voxel_mm)
        paint(lung_hu[part], fissures, np.maximum(lung_hu[part], anatomy.FISSURE))
    vessels = draw(tubes.vessels, space)
    paint(lung_hu, vessels, np.maximum(lung_hu, anatomy.BLOOD))
    walls = draw(tubes.airways.swollen(wall_mm(tubes.airways)), space)
    paint(lung_hu, walls, np.maximum(lung_hu, anatomy.MUSCLE))
    paint(lung_hu, draw(tubes.airways, space), anatomy.AIR)
    return vessels


def _draw_chest(lung_hu: np.ndarray, tubes: Branches, space: Space) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU of the whole chest around `lung_hu`, and the shares of the right and the left lung in each voxel."""
    hu, right, left = (np.empty(space.shape, np.float32) for _ in range(3))
    great = draw(tubes.great_vessels, space)
    wall = draw(tubes.trunk.swollen(wall_mm(tubes.trunk)), space)
    lumen = draw(tubes.trunk, space)

    def draw_slab(part: slice) -> None:
        hu[part], right[part], left[part] = anatomy.torso(space, part)
        paint(hu[part], right[part] + left[part], lung_hu[part])
        paint(hu[part], great[part], anatomy.BLOOD)
        paint(hu[part], wall[part], anatomy.MUSCLE)
        paint(hu[part], lumen[part], anatomy.AIR)
        # What belongs to the mediastinum is not lung, even where it bulges into one.
        rest = 1 - np.maximum(great[part], wall[part])
        right[part] *= rest
        left[part] *= rest

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw_slab, _slabs(space)))
    return hu, right, left


def _slabs(space: Space) -> list[slice]:
    """Runs of a few slices: formulas over arrays that fit the processor's cache take a third of the time."""
    step = max(300_000 // (space.shape[1] * space.shape[2]), 1)
    return [slice(k, k + step) for k in range(0, space.shape[0], step)]


def _thicken(array: np.ndarray, times: int) -> np.ndarray:
    """Means of each `times` slices in a row."""
    return array.reshape(-1, times, *array.shape[1:]).mean(axis=1, dtype=np.float32) if times > 1 else array


def _grid(space: Space) -> Grid:
    origin = tuple(map(float, space.first_mm + WORLD_MM))
    return Grid(space.shape[::-1], space.spacing_mm[::-1], origin, (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
