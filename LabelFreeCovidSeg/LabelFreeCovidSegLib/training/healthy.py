"""What is healthy of a scan's lungs: NormNet's cached blocks.

A block is a piece of lung without focal findings: contiguous slices on the working grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.lungs.morphology import distance
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, Scan, bounding_box, resample
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan

KEPT_AROUND_MM = 6.0
"""HU are kept this far around the lung, for filters of the augmentation that look beyond its border."""
EXCLUDED_AROUND_MM = 2.0
"""Slices this near to a focal finding are left out with it (METHODS: +- 2 mm in z)."""
THINNEST_BLOCK_MM = 16.0
BRIGHTEST_HU = 1500.0
"""Kept of a scan; windows end far below."""
EDGE_DEPTH_MM = 1.6
"""Two voxels of the paper's grid in-plane."""


def healthy_blocks(listed: ListedScan, spacing_mm: Lengths, bright_hu: float) -> list[dict[str, np.ndarray]]:
    """Read a scan, find its lungs and cut what is healthy of them into blocks on the working grid.

    Args:
        spacing_mm: the working grid, along (k, j, i).
        bright_hu: from here on tissue is bright; erroneous edges are looked for among bright tissue.

    Returns:
        Blocks of `hu`, (k, j, i) int16, air where no lung is near, and `lung`, uint8, without the erroneous edges (M).
    """
    scan = read(listed.path)
    # Not the lung network: a network must not learn from what another one made of these scans.
    labels = find_lungs(scan, "classical").labels
    lung = np.isin(labels, SIDES[listed.lungs])
    margin = tuple(int(np.ceil(KEPT_AROUND_MM / size)) for size in scan.grid.spacing_mm)
    box = bounding_box(lung, margin)
    source = scan.grid.covering(box, scan.grid.spacing_mm)
    grid = source.with_spacing(spacing_mm)
    hu = resample(scan.hu[box], source, grid, outside=AIR_HU)
    lung = resample(lung[box].astype(np.uint8), source, grid, nearest=True) > 0
    kept = ndimage.distance_transform_edt(~lung, sampling=spacing_mm) <= KEPT_AROUND_MM
    lung &= ~erroneous_edges(hu >= bright_hu, lung, spacing_mm)
    hu = np.where(kept, cached(hu), np.int16(AIR_HU))
    return [
        {"hu": hu[part], "lung": lung[part].astype(np.uint8)}
        for part in free_slices(listed, scan, box[0].start, grid.shape[0], spacing_mm[0])
        if lung[part].any()
    ]


def cached(hu: np.ndarray, brightest_hu: float = BRIGHTEST_HU) -> np.ndarray:
    """HU as the cache holds them: int16, rounded to 4 HU (far below the noise of any CT, and half the size on disk)."""
    return (4 * np.round(np.clip(hu, AIR_HU, brightest_hu) / 4)).astype(np.int16)


def unknown(sides: np.ndarray, healthy: Sequence[int], spacing_mm: Lengths) -> np.ndarray:
    """What is nearer to a lung that is left out than to the other one, of which nothing is known; (k, j, i) bool.

    Args:
        sides: (k, j, i) uint8, 1 right and 2 left lung. healthy: those that are not left out.
    """
    nearer = np.zeros(sides.shape, dtype=bool)
    for side, other in ((RIGHT, LEFT), (LEFT, RIGHT)):
        if side not in healthy:
            nearer |= distance(sides == side, spacing_mm) < distance(sides == other, spacing_mm)
    return nearer


def free_slices(listed: ListedScan, scan: Scan, first: int, count: int, spacing_mm: float) -> list[slice]:
    """Runs of slices of the working grid, of which slice 0 begins at scan slice `first`, without excluded ones.

    Raises:
        TrainingError: slices are excluded that the scan has not.
    """
    thickness, slices = scan.grid.spacing_mm[0], scan.grid.shape[0]
    centres = (np.arange(count) + 0.5) * spacing_mm + first * thickness
    free = np.ones(count, dtype=bool)
    for lower, upper in listed.exclude:
        if upper >= slices:
            raise TrainingError(
                f"{listed.path}: scan '{listed.name}' excludes slices {lower} to {upper}, but has {slices}, counted "
                "from 0 at the feet. Correct `exclude` in the list of scans."
            )
        free &= (centres < lower * thickness - EXCLUDED_AROUND_MM) | (
            centres > (upper + 1) * thickness + EXCLUDED_AROUND_MM
        )
    runs, _ = ndimage.label(free)
    return [run for (run,) in ndimage.find_objects(runs) if (run.stop - run.start) * spacing_mm >= THINNEST_BLOCK_MM]


def erroneous_edges(bright: np.ndarray, lung: np.ndarray, spacing_mm: Lengths) -> np.ndarray:
    """Bright pieces that are border of the lung mask rather than vessel (Yao et al. 2021, section III-A).

    A 26-connected piece goes if most of its voxels lie within two voxels of the paper's grid from the mask's edge,
    measured in the slice. Vessels that reach the hilum stay: most of them is inside.

    Args:
        bright: (k, j, i) bool, bright tissue, in the lung or not.
        lung: (k, j, i) bool (M').

    Returns:
        (k, j, i) bool (E).
    """
    depth = np.empty(lung.shape, dtype=np.float32)
    for depth_slice, lung_slice in zip(depth, lung, strict=True):
        padded = np.pad(lung_slice, 1)
        depth_slice[...] = ndimage.distance_transform_edt(padded, sampling=spacing_mm[1:])[1:-1, 1:-1]
    # The mask's edge runs half a voxel before the nearest centre outside.
    band = lung & (depth - min(spacing_mm[1:]) / 2 <= EDGE_DEPTH_MM)
    pieces, count = ndimage.label(bright & lung, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    at_edge = np.bincount(pieces[band], minlength=count + 1)
    wrong = 2 * at_edge > sizes
    wrong[0] = False
    return wrong[pieces]
