"""A procedural chest CT with lesions of known outline, for demonstrations and tests.

Everything follows from formulas and a seed. It shows what outlining has to cope with (vessels, airways, fissures,
domes, a gas-filled stomach, noise, thick slices), and never enters training or the choice of a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.phantom import anatomy
from LabelFreeCovidSegLib.phantom.lesions import (
    CONSOLIDATION, DENSE, FAINT, GROUND_GLASS, LESION_MIX, RADII_MM, SOLID, Kind, Lesion, Plan, infect, place,
)  # fmt: skip
from LabelFreeCovidSegLib.phantom.space import Space, paint, smooth_noise
from LabelFreeCovidSegLib.phantom.trees import Branches, branches
from LabelFreeCovidSegLib.phantom.tubes import draw
from LabelFreeCovidSegLib.scan import Grid, Scan

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "CONSOLIDATION", "DENSE", "FAINT", "GROUND_GLASS", "LESION_MIX", "RADII_MM", "SOLID", "Kind", "Lesion", "Phantom",
    "Plan", "make",
]  # fmt: skip

RIGHT, LEFT = 1, 2
WORLD_MM = (14.5, -186.25, -1042.0)
"""Where the body's (0, 0, 0) lies in the scan's world: scanners put it nowhere in particular."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A made-up patient. All arrays are (k, j, i) on the scan's grid.

    Attributes:
        scan: the CT.
        lungs: uint8, 1 right, 2 left; vessels and lesions inside count as lung, trachea and main bronchi do not.
        lesions: uint8, 1 ground glass, 2 consolidation.
        instances: uint8, the label of each lesion in `planted`.
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

    hu, right, left = _torso(thin)
    tubes = branches(of_anatomy)
    vessels = draw(tubes.vessels, thin)
    air = draw(tubes.trunk_lumen, thin)
    trunk = np.maximum(draw(tubes.trunk_wall, thin), great := draw(tubes.great_vessels, thin))
    paint(hu, great, anatomy.BLOOD)
    lung_hu = _parenchyma(thin, of_anatomy)
    instances = np.zeros(thin.shape, np.uint8)
    placed = place(lesions, of_lesions)
    for label, (plan, centre) in enumerate(placed, 1):
        infect(lung_hu, instances, label, plan, centre, thin, of_lesions)
    _draw_branches(lung_hu, vessels, tubes, thin)

    lung = right + left
    vessels *= lung
    paint(hu, lung, lung_hu)
    paint(hu, trunk, anatomy.BLOOD)
    paint(hu, air, anatomy.AIR)
    hu += noise_hu * _noise(thin, sharp, of_noise)

    labels = np.where(right > left, RIGHT, LEFT).astype(np.uint8) * ((lung > 0.5) & (trunk < 0.5))
    return _assemble(seed, shape, spacing_mm, thin_slices, hu, labels, instances, vessels, placed)
