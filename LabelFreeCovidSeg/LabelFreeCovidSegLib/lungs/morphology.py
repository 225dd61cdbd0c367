"""Binary morphology with balls measured in millimetres, by exact distance maps, so that a large ball costs no more.

Beyond the array's faces nothing is known: erosion does not start from there.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

Spacing = tuple[float, float, float]
"""Millimetres along (k, j, i)."""


def distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Millimetres from each voxel to the nearest true voxel of `mask` (float32); infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(signed), 0.0)


def dilation(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Everything within `radius_mm` of `mask`."""
    return distance(mask, spacing) <= radius_mm


def erosion(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """What of `mask` lies further than `radius_mm` from its outside."""
    return distance(~mask, spacing) > radius_mm


def closing(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """`mask` and the dents and holes that a ball of `radius_mm` does not fit into."""
    return mask | erosion(dilation(mask, radius_mm, spacing), radius_mm, spacing)


def opening(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """What of `mask` a ball of `radius_mm` that stays inside it can cover."""
    return mask & dilation(erosion(mask, radius_mm, spacing), radius_mm, spacing)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected component of `mask`."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return mask & (parts == sizes.argmax())


def keep(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected components of `mask` that hold a voxel of `seeds`."""
    parts, count = ndimage.label(mask)
    hit = np.zeros(count + 1, dtype=bool)
    hit[parts[seeds & mask]] = True
    return hit[parts]
