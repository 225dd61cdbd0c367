"""How well a mask and a score map agree with an expert's mask. Fractions in [0, 1], millimetres and millilitres.

Masks are arrays of any shape whose true voxels are lesion. NaN stands for what is not defined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.scan import bounding_box

NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Voxels found rightly (tp) and wrongly (fp), missed (fn), and left alone rightly (tn).

    Where neither the expert nor the method marks anything, DSC, PSC and SEN are 1; `empty` tells such a case, which
    would lift a mean without any merit, apart.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, found: np.ndarray, truth: np.ndarray) -> Counts:
        """Compare two bool masks of the same shape."""
        tp, found_all, truth_all = (int(np.count_nonzero(mask)) for mask in (found & truth, found, truth))
        fp, fn = found_all - tp, truth_all - tp
        return cls(tp, fp, fn, truth.size - tp - fp - fn)

    @property
    def empty(self) -> bool:
        """Whether there was nothing to find and nothing was found."""
        return self.tp + self.fp + self.fn == 0

    @property
    def dsc(self) -> float:
        """Dice similarity coefficient, 2tp / (2tp + fp + fn)."""
        return 1.0 if self.empty else 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def psc(self) -> float:
        """Precision, tp / (tp + fp); 0 if nothing was found of what was there."""
        if self.tp + self.fp == 0:
            return 1.0 if self.empty else 0.0
        return self.tp / (self.tp + self.fp)

    @property
    def sen(self) -> float:
        """Sensitivity, tp / (tp + fn); NaN if there was nothing to find and something was found."""
        if self.tp + self.fn == 0:
            return 1.0 if self.empty else NAN
        return self.tp / (self.tp + self.fn)

    @property
    def spc(self) -> float:
        """Specificity, tn / (tn + fp); NaN if everything is lesion."""
        return self.tn / (self.tn + self.fp) if self.tn + self.fp else NAN


def areas_under_curves(score: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve, and average precision, of scores (n,) for labels (n,) bool.

    Returns:
        (AUC, AP); NaN where one of the labels does not occur.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if truth.all() or not truth.any():
        return NAN, NAN
    return float(roc_auc_score(truth, score)), float(average_precision_score(truth, score))


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances in mm between the surfaces of two masks: voxels of a mask with a face neighbour outside of it.

    Attributes:
        found: from each surface voxel of what was found to the surface of the truth.
        truth: from each surface voxel of the truth to the surface of what was found.
    """

    found: np.ndarray
    truth: np.ndarray

    @classmethod
    def between(cls, found: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]) -> SurfaceDistances:
        """Of two bool masks on one grid; distances to nothing are infinite."""
        either = found | truth
        if not either.any():
            return cls(np.empty(0), np.empty(0))
        box = bounding_box(either, (1,) * either.ndim)
        surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (found, truth)]
        return cls(
            *(_distance_to(surface, spacing_mm)[other] for other, surface in zip(surfaces, surfaces[::-1], strict=True))
        )

    @property
    def hd95_mm(self) -> float:
        """The larger of the two 95th percentiles; NaN if a mask is empty."""
        if not (self.found.size and self.truth.size):
            return NAN
        return float(max(np.percentile(self.found, 95), np.percentile(self.truth, 95)))

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: the share of both surfaces that lies within `tolerance_mm` of the other.

        Surfaces are counted in voxels, as in MONAI's `compute_surface_dice`; 1 if both masks are empty.
        """
        voxels = self.found.size + self.truth.size
        near = np.count_nonzero(self.found <= tolerance_mm) + np.count_nonzero(self.truth <= tolerance_mm)
        return near / voxels if voxels else 1.0


def _distance_to(surface: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    if not surface.any():
        return np.full(surface.shape, np.inf)
    return ndimage.distance_transform_edt(~surface, sampling=spacing_mm)


@dataclass(frozen=True)
class Detection:
    """Lesions one by one: connected pieces, voxels that share a corner belonging together.

    Attributes:
        lesions, detected: pieces of the truth, and those of which at least one voxel was found.
        false: pieces of what was found that touch no lesion.
    """

    lesions: int
    detected: int
    false: int

    @classmethod
    def of(cls, found: np.ndarray, truth: np.ndarray) -> Detection:
        """Compare two bool masks of the same shape."""
        corners = np.ones((3,) * truth.ndim)
        there, lesions = ndimage.label(truth, corners)
        marked, marks = ndimage.label(found, corners)
        both = found & truth
        return cls(lesions, np.unique(there[both]).size, marks - np.unique(marked[both]).size)

    @property
    def sen(self) -> float:
        """The share of the lesions that was detected; NaN if there is none."""
        return self.detected / self.lesions if self.lesions else NAN


def twelve_regions(lungs: np.ndarray) -> np.ndarray:
    """The lungs in 12 regions: right and left, thirds along z, halves along y, of each lung's bounding box.

    "Equal" is all that the cycle-GAN paper says of its regions.

    Args:
        lungs: (k, j, i), 1 right, 2 left.

    Returns:
        (k, j, i) uint8: 0 outside, 1-6 right, 7-12 left.
    """
    regions = np.zeros(lungs.shape, np.uint8)
    for first, side in ((1, RIGHT), (7, LEFT)):
        lung = lungs == side
        if lung.any():
            k, j, _ = bounding_box(lung)
            third = 3 * np.arange(k.stop - k.start) // (k.stop - k.start)
            half = 2 * np.arange(j.stop - j.start) // (j.stop - j.start)
            parts = (first + 2 * third[:, None] + half[None, :]).astype(np.uint8)[:, :, None]
            regions[k, j] = np.where(lung[k, j], parts, regions[k, j])
    return regions
