"""Gas that is not lung: the trachea and the large bronchi, stomach and bowel."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.morphology import Spacing, dilation, keep, opening
from LabelFreeCovidSegLib.scan import bounding_box

GAS_BELOW_HU = -930.0
SOFT_ABOVE_HU = -300.0
REACH_MM = (120.0, 60.0, 90.0)
"""How far (k, j, i) from the trachea the large bronchi lie."""
LEAK_ML = 20.0
"""Main and lobar bronchi gain a few millilitres when the threshold rises by a step; a leak gains a lung."""


def find(hu: np.ndarray, air: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Voxels of `air` that hold free gas: the large airways, and what stomach and bowel contain.

    Args:
        hu: (k, j, i) Hounsfield units on voxels of about 2 mm.
        air: the air inside the body on the same grid.
    """
    tree = grow(hu, air, trachea(hu, air, spacing), spacing)
    rim_mm = 2.2  # partial volume at the inside of the wall
    return (dilation(tree, rim_mm, spacing) & air) | bowel(hu, air, spacing)


def trachea(hu: np.ndarray, air: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Round dark axial sections of 50 to 700 mm2 near the middle of the chest, stacked over 20 mm or more.

    Empty where no such tube is in view.
    """
    sections = np.zeros_like(air)
    for k, dark in enumerate((hu < -800.0) & air):
        parts, _ = ndimage.label(dark)
        areas = np.bincount(parts.ravel()) * spacing[1] * spacing[2]
        for n, box in enumerate(ndimage.find_objects(parts), start=1):
            height, width = ((b.stop - b.start) * mm for b, mm in zip(box, spacing[1:], strict=True))
            round_enough = max(height, width) < 2.2 * min(height, width) and areas[n] > 0.55 * height * width
            if 50.0 <= areas[n] <= 700.0 and round_enough:
                sections[k] |= parts == n
    middle = np.argwhere(air.any(axis=(0, 1))).mean() if air.any() else 0.0
    parts, _ = ndimage.label(sections)
    best, best_score = 0, 0.0
    for n, box in enumerate(ndimage.find_objects(parts), start=1):
        length = (box[0].stop - box[0].start) * spacing[0]
        aside = abs((box[2].start + box[2].stop - 1) / 2 - middle) * spacing[2]
        if length >= 20.0 and aside < 50.0 and length - aside > best_score:
            best, best_score = n, length - aside
    return sections & (parts == best) if best else np.zeros_like(air)


def grow(hu: np.ndarray, air: np.ndarray, seeds: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Grow `seeds` into the main and lobar bronchi under a rising threshold until it leaks into the lung.

    Lumina under 5 mm are closed to it, so that it can leak only through a wall.
    """
    whole = np.zeros_like(seeds)
    if not seeds.any():
        return whole
    reach = [int(limit_mm / mm) for limit_mm, mm in zip(REACH_MM, spacing, strict=True)]
    box = bounding_box(seeds, (reach[0], reach[1], reach[2]))
    hu, air, seeds = hu[box], air[box], seeds[box]
    tree = seeds
    voxel_ml = float(np.prod(spacing)) / 1000.0
    for limit_hu in range(-950, -690, 30):
        grown = keep(opening((hu < limit_hu) & air, 2.5, spacing) | tree, seeds)
        if (np.count_nonzero(grown) - np.count_nonzero(tree)) * voxel_ml > LEAK_ML:
            break
        tree = grown
    whole[box] = tree
    return whole


def bowel(hu: np.ndarray, air: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Pockets of gas that soft tissue surrounds. A bulla is as dark, but it has lung around it."""
    smooth = ndimage.gaussian_filter(hu, [1.0 / mm for mm in spacing])
    parts, _ = ndimage.label(opening((smooth < GAS_BELOW_HU) & air, 3.5, spacing))
    gas = np.zeros_like(air)
    reach = [int(np.ceil(15.0 / mm)) for mm in spacing]
    for n, box in enumerate(ndimage.find_objects(parts), start=1):
        around = tuple(slice(max(b.start - r, 0), b.stop + r) for b, r in zip(box, reach, strict=True))
        pocket = parts[around] == n
        shell = dilation(pocket, 8.0, spacing) & ~dilation(pocket, 5.0, spacing)
        if np.mean(hu[around][shell] > SOFT_ABOVE_HU) > 0.5:
            corners = (hu[around] < -900.0) & dilation(pocket, 12.0, spacing)  # a ball misses those at a fluid level
            gas[around] |= dilation(keep(corners | pocket, pocket), 3.0, spacing)
    return gas & air
