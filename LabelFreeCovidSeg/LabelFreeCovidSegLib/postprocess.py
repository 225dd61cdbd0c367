"""Filters that turn a network's answer into a mask; every length in millimetres."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.scan import bounding_box

Lengths = tuple[float, float, float]

NEIGHBOURS = (0.25, 0.5, 0.25)
"""Weights of the slice below, of a slice itself and of that above, where slices are seen one by one: what only one of
them shows is seldom there."""


def box_mean(volume: np.ndarray, width_mm: Lengths, spacing_mm: Lengths) -> np.ndarray:
    """Mean over a box of `width_mm` around each voxel; beyond the volume there is 0.

    The width need not be a whole number of voxels: the outermost ones count with the share of them that lies in the
    box, so that the same millimetres are averaged on every grid. Where it is whole and odd, this is the plain mean.

    Args:
        volume: (k, j, i); taken as float32.
    """
    result = np.asarray(volume, dtype=np.float32)
    for axis, (width, spacing) in enumerate(zip(width_mm, spacing_mm, strict=True)):
        result = ndimage.convolve1d(result, box_kernel(width / spacing), axis=axis, mode="constant")
    return result


def box_kernel(width: float) -> np.ndarray:
    """Weights of a centred box `width` voxels wide, at least one; they sum to 1."""
    width = max(width, 1.0)
    reach = int(np.ceil((width - 1.0) / 2.0 - 1e-9))
    kernel = np.ones(2 * reach + 1)
    kernel[[0, -1]] -= (kernel.size - width) / 2.0 if reach else 0.0
    return kernel / kernel.sum()


def dilate(mask: np.ndarray, radius_mm: Lengths, spacing_mm: Lengths) -> np.ndarray:
    """`mask` (k, j, i) bool grown by an ellipsoid with these semi-axes."""
    if not mask.any():
        return np.zeros_like(mask, dtype=bool)
    # Distances in radii along each axis: the ellipsoid is the unit ball of that metric.
    scale = [spacing / radius for spacing, radius in zip(spacing_mm, radius_mm, strict=True)]
    return ndimage.distance_transform_edt(~mask, sampling=scale) <= 1.0 + 1e-6


def close(mask: np.ndarray, radius_mm: Lengths, spacing_mm: Lengths) -> np.ndarray:
    """`mask` (k, j, i) bool with the gaps filled that an ellipsoid with these semi-axes does not fit into."""
    if not mask.any():
        return np.zeros_like(mask, dtype=bool)
    room = tuple(int(np.ceil(radius / spacing)) + 1 for radius, spacing in zip(radius_mm, spacing_mm, strict=True))
    box = bounding_box(mask)
    # The grown mask needs room around it: else what lies beyond the array would not shrink it back.
    grown = dilate(np.pad(mask[box], [(margin, margin) for margin in room]), radius_mm, spacing_mm)
    shrunk = ~dilate(~grown, radius_mm, spacing_mm)
    closed = np.zeros_like(mask, dtype=bool)
    closed[box] = shrunk[tuple(slice(margin, -margin) for margin in room)]
    return closed
