"""What a lesion mask amounts to: ground glass and consolidation, millilitres, and shares of each lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT, LungMask
from LabelFreeCovidSegLib.scan import Scan, bounding_box

GROUND_GLASS, CONSOLIDATION = 1, 2
SIDES = (("right", RIGHT), ("left", LEFT))


@dataclass(frozen=True)
class Band:
    """How a lesion is divided into ground glass and consolidation; printed with every result.

    Attributes:
        consolidation_hu: from this density of the smoothed CT on, a lesion voxel is consolidation.
        smoothing_mm: standard deviation of the Gaussian, applied inside the lesion only.
        island_ml: smaller connected pieces of one class join the other.
    """

    consolidation_hu: float = -300.0
    smoothing_mm: float = 1.0
    island_ml: float = 0.1


@dataclass(frozen=True)
class Region:
    """Volumes of one region of the lung ("both", "right" or "left"), in millilitres."""

    name: str
    lung_ml: float
    ground_glass_ml: float
    consolidation_ml: float

    @property
    def lesion_ml(self) -> float:
        """Ground glass and consolidation together."""
        return self.ground_glass_ml + self.consolidation_ml

    @property
    def lesion_percent(self) -> float:
        """Share of the region's lung that is lesion; 0 for a region without lung."""
        return 100.0 * self.lesion_ml / self.lung_ml if self.lung_ml else 0.0


@dataclass(frozen=True)
class Measurements:
    """All numbers of one result.

    Attributes:
        band: how the lesions were divided; None if the method itself told ground glass and consolidation apart.
    """

    regions: tuple[Region, ...]
    band: Band | None


def classify(scan: Scan, lesion: np.ndarray, band: Band = Band()) -> np.ndarray:
    """Divide `lesion` into ground glass and consolidation by its density.

    The CT is smoothed inside the lesion only (normalised convolution), so that neither air nor chest wall beside it
    counts. Consolidation is judged first: where both classes of one lesion are islands, it all becomes ground glass.

    Args:
        lesion: (k, j, i) mask on the scan's LPS grid.

    Returns:
        (k, j, i) uint8: 0 no lesion, 1 ground glass, 2 consolidation. 1 and 2 sum exactly to the lesion.
    """
    classes = np.zeros(lesion.shape, np.uint8)
    if not lesion.any():
        return classes
    box = bounding_box(lesion)
    inside = lesion[box] > 0
    # The smoothed CT reaches the threshold where the weighted sum of (HU - threshold) over the lesion reaches zero;
    # so nothing has to be divided by the sum of the weights.
    excess = np.where(inside, scan.hu[box] - np.float32(band.consolidation_hu), np.float32(0))
    sigma = [band.smoothing_mm / spacing for spacing in scan.grid.spacing_mm]
    dense = ndimage.gaussian_filter(excess, sigma, mode="constant", truncate=3.0) >= 0
    view = classes[box]
    view[inside] = np.where(dense[inside], CONSOLIDATION, GROUND_GLASS)
    _join_islands(view, band.island_ml / scan.grid.voxel_ml)
    return classes


def _join_islands(classes: np.ndarray, smallest: float) -> None:
    """Give connected pieces of fewer than `smallest` voxels to the other class, unless they are a whole lesion."""
    lesions, count = _components(classes > 0)
    lesion_voxels = np.bincount(lesions.ravel(), minlength=count + 1)
    for own, other in ((CONSOLIDATION, GROUND_GLASS), (GROUND_GLASS, CONSOLIDATION)):
        pieces, count = _components(classes == own)
        voxels = np.bincount(pieces.ravel(), minlength=count + 1)
        lesion_of = np.zeros(count + 1, np.intp)
        lesion_of[pieces[pieces > 0]] = lesions[pieces > 0]
        island = (voxels < smallest * (1 - 1e-9)) & (voxels < lesion_voxels[lesion_of])
        island[0] = False
        classes[island[pieces]] = other


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    return ndimage.label(mask, np.ones((3, 3, 3)))  # voxels that share a corner belong together


def measure(classes: np.ndarray, lungs: LungMask, voxel_ml: float, band: Band | None = Band()) -> Measurements:
    """Volumes and shares of both lungs, the right and the left.

    Args:
        classes: (k, j, i) from `classify` or the method. A lesion voxel counts for the lung that it lies in.
        voxel_ml: volume of one voxel.
        band: what `classify` was given, None if the method told the classes; it is handed on to the reader.
    """
    right, left = (_region(name, classes, lungs.labels == side, voxel_ml) for name, side in SIDES)
    both = Region(
        "both",
        right.lung_ml + left.lung_ml,
        right.ground_glass_ml + left.ground_glass_ml,
        right.consolidation_ml + left.consolidation_ml,
    )
    return Measurements((both, right, left), band)


def _region(name: str, classes: np.ndarray, lung: np.ndarray, voxel_ml: float) -> Region:
    voxels = (lung, lung & (classes == GROUND_GLASS), lung & (classes == CONSOLIDATION))
    return Region(name, *(float(np.count_nonzero(mask) * voxel_ml) for mask in voxels))
