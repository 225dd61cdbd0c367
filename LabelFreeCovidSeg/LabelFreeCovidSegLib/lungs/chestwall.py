"""Consolidation against the ribs: dense lung between the chest wall and the lung that still holds air.

Closing a lung over its own outline can't reach it, because the outline is convex there. Closing lung and ribs together
can: the gap between them is the consolidation.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from LabelFreeCovidSegLib.lungs.morphology import Spacing, closing, distance, erosion, opening

BONE_ABOVE_HU = 180.0
BETWEEN_RIBS_MM = 16.0
SPINE_MM = 25.0
"""Half the width of spine and sternum, which bound the mediastinum and not a lung."""
GAP_MM = 22.0
"""Radius of the ball that does not fit between lung and ribs."""
DEPTH_MM = 35.0
PLEURA_MM = 4.0
"""Gaps up to twice this are pleura, fat and muscle at every chest wall."""
FAT_HU = (-130.0, -70.0)
FLUID_HU = (-20.0, 15.0)
"""An effusion is as dense as water, consolidated lung as blood (30 HU and more)."""
AIR_BRONCHOGRAM_HU = -60.0
FLUID_LEAST_ML = 30.0
"""Where it is not clear, a pocket counts as lung: a lesion outside the mask can't be found any more."""


def dense_lung(hu: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Soft tissue between `lungs` and the ribs of the back and the flanks, too thick for a healthy pleura.

    The front is left out: there the heart and its fat lie between the lung and the wall.

    Args:
        hu: (k, j, i) Hounsfield units on voxels of about 2 mm.
        lungs: what holds air of both lungs, on the same grid; not empty.
    """
    wall = rib_cage(hu, lungs, spacing)
    if not wall.any():
        return np.zeros_like(lungs)
    smooth = ndimage.gaussian_filter(hu, [1.5 / mm for mm in spacing])
    fat = (smooth > FAT_HU[0]) & (smooth < FAT_HU[1])
    gap = closing(lungs | wall, GAP_MM, spacing) & ~wall & ~lungs & ~fat & (smooth < BONE_ABOVE_HU)
    gap = opening(gap & within_wall(gap, wall, lungs, spacing), PLEURA_MM, spacing)
    gap = touching(touching(gap, distance(wall, spacing) < 7.0, spacing), distance(lungs, spacing) < 4.0, spacing)
    return gap & ~fluid(hu, gap, spacing)


def fluid(hu: np.ndarray, gap: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The connected components of `gap` that are an effusion, which is not lung: large, as dense as water, no air."""
    parts, count = ndimage.label(gap)
    volumes_ml = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000.0
    inside = np.where(erosion(gap, 3.0, spacing), parts, 0)
    water = []
    for n in np.flatnonzero(volumes_ml[1:] >= FLUID_LEAST_ML) + 1:
        lowest, median = np.percentile(hu[inside == n], (5, 50))
        if lowest > AIR_BRONCHOGRAM_HU and FLUID_HU[0] < median < FLUID_HU[1]:
            water.append(n)
    return np.isin(parts, water)


def rib_cage(hu: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Ribs closed to a shell; contrast in heart and vessels is as bright, but lies between the lungs."""
    bone = hu > BONE_ABOVE_HU
    wall = closing(bone & ~between_lungs(bone, lungs), BETWEEN_RIBS_MM, spacing)
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    aside = np.abs(np.arange(hu.shape[2]) - (columns[0] + columns[-1]) / 2) * spacing[2]
    return wall & (aside > SPINE_MM)


def between_lungs(mask: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """The voxels of `mask` inside the convex hull of `lungs` in their axial slice."""
    inside = np.zeros_like(mask)
    for k, section in enumerate(lungs):
        try:
            edges = ConvexHull(np.argwhere(section)).equations
        except (QhullError, ValueError):
            continue  # fewer than three pixels, or all on one line
        at = np.argwhere(mask[k])
        inside[k][mask[k]] = (at @ edges[:, :2].T + edges[:, 2] <= 1e-9).all(axis=1)
    return inside


def within_wall(gap: np.ndarray, wall: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The voxels of `gap` within `DEPTH_MM` of the inner side of the back or a flank, and with no lung on the way."""
    nearest = ndimage.distance_transform_edt(~wall, sampling=spacing, return_distances=False, return_indices=True)
    at = np.argwhere(gap)
    foot = nearest[:, gap].T
    centre = np.argwhere(lungs).mean(axis=0)
    depth = (at - foot) * np.array(spacing)
    inward = (centre - foot) * np.array(spacing)
    inward[:, 0] = 0.0  # the axis of the chest, not a point on it
    length = np.linalg.norm(depth, axis=1)
    cosine = np.sum(depth * inward, axis=1) / (length * np.linalg.norm(inward, axis=1))
    between = [np.rint(foot + share * (at - foot)).astype(int).T for share in (0.2, 0.4, 0.6, 0.8)]
    beyond_lung = np.any([lungs[tuple(point)] for point in between], axis=0)  # liver or spleen under the diaphragm
    inside = np.zeros_like(gap)
    inside[gap] = (cosine > 0.3) & (length < DEPTH_MM) & (depth[:, 1] < 0.5 * length) & ~beyond_lung
    return inside


def touching(mask: np.ndarray, zone: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The connected components of `mask` with 0.5 mL or more in `zone`."""
    parts, count = ndimage.label(mask)
    volumes_ml = np.bincount(parts[zone & mask], minlength=count + 1) * float(np.prod(spacing)) / 1000.0
    return (volumes_ml >= 0.5)[parts] & mask
