"""Both lungs from the Hounsfield units alone: air inside the body, without the airways, closed over what fills it.

Shape is worked out on voxels of about 2 mm; only the border is drawn again at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LabelFreeCovidSegLib.errors import LungError
from LabelFreeCovidSegLib.lungs import airways, chestwall, plausibility, protrusions
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT, LungMask
from LabelFreeCovidSegLib.lungs.morphology import Spacing, closing, dilation, distance, erosion, keep, largest, opening
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.scan import Grid, Scan, bounding_box

WORK_MM = 2.0
AIR_BELOW_HU = -400.0
"""Half-way between inflated lung (about -850) and soft tissue (about 40)."""
OUTSIDE_BELOW_HU = -920.0
CLOSING_MM = 10.0
CHEST_WALL_MM = 30.0
LEAST_ML = 300.0
CORE_MM = (0.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0)
"""How much is taken off the air until it falls into a right and a left part."""
ALIKE = 0.2
"""Of two lungs that both hold air, the smaller one holds at least this share of the other's."""
REMNANT_ML = 30.0
"""More air than this is what consolidation or fluid has left of a lung."""
ASIDE_MM = 30.0
"""Further than this from the body's middle is one side of it, wherever the mediastinum has moved."""


@dataclass(frozen=True, eq=False)
class Coarse:
    """The lungs and what they were told by, on blocks of the scan's voxels of about 2 mm. Arrays are (k, j, i).

    Attributes:
        hu: means of the blocks.
        lungs: uint8, 1 right, 2 left.
        air: bool, what of the lungs holds air.
        gas: bool, what holds air and is not lung: airways, stomach and bowel.
        factor: voxels of the scan along each axis of a block. spacing: size of a block in mm.
    """

    hu: np.ndarray
    lungs: np.ndarray
    air: np.ndarray
    gas: np.ndarray
    factor: tuple[int, ...]
    spacing: Spacing

    @property
    def block_ml(self) -> float:
        """Volume of a block in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    @property
    def middle(self) -> float:
        """Column of the body's middle."""
        return middle_of(self.hu)


def find(scan: Scan, progress: Progress = silent) -> LungMask:
    """Outline both lungs, dense lesions at the pleura and vessels included, trachea and main bronchi not.

    Raises:
        LungError: less than 300 mL of lung is in view.
    """
    coarse = outline(scan, part(progress, 0.0, 0.8))
    progress(0.8, "Drawing the border at full resolution")
    full = refine(scan, coarse, coarse.lungs, coarse.air, coarse.gas)
    progress(1.0, "Lungs found")
    return LungMask(full, "classical", plausibility.warnings(full, scan.grid))


def outline(scan: Scan, progress: Progress = silent) -> Coarse:
    """The lungs on blocks of about 2 mm.

    Raises:
        LungError: less than 300 mL of lung is in view.
    """
    progress(0.0, "Finding the lungs")
    factor, spacing = work_grid(scan.grid)
    hu = block_mean(scan.hu, factor)
    air = enclosed_air(hu, spacing)
    progress(0.25, "Finding the airways")
    gas = airways.find(hu, air, spacing)
    progress(0.5, "Separating the right and the left lung")
    labels = separate(hu, air & ~gas, spacing, middle_of(hu))
    if np.count_nonzero(labels) * float(np.prod(spacing)) / 1000.0 < LEAST_ML:
        raise LungError(
            f"{scan.name}: no lungs in view (less than {LEAST_ML:.0f} mL of air inside the body). "
            "Load a chest CT in Hounsfield units, or give a lung mask."
        )
    progress(0.6, "Closing over vessels and lesions")
    lungs = np.zeros_like(labels)
    around = bounding_box(labels > 0, tuple(int(CHEST_WALL_MM / mm) for mm in spacing))
    lungs[around] = fill(hu[around], labels[around], gas[around], spacing)
    return Coarse(hu, lungs, labels > 0, gas, factor, spacing)


def work_grid(grid: Grid) -> tuple[tuple[int, ...], Spacing]:
    """How many voxels of `grid` along (k, j, i) make a block of about 2 mm, and the blocks' exact size."""
    factor = tuple(max(1, round(WORK_MM / mm)) for mm in grid.spacing_mm)
    k, j, i = (step * mm for step, mm in zip(factor, grid.spacing_mm, strict=True))
    return factor, (k, j, i)


def block_mean(hu: np.ndarray, factor: tuple[int, ...]) -> np.ndarray:
    """Means over blocks of `factor` voxels along (k, j, i); the last block of an axis may be smaller."""
    for axis, step in enumerate(factor):
        starts = np.arange(0, hu.shape[axis], step)
        sizes = np.diff(np.append(starts, hu.shape[axis])).astype(np.float32)
        hu = np.add.reduceat(hu, starts, axis=axis) / sizes.reshape([-1 if a == axis else 1 for a in range(3)])
    return hu


def enclosed_air(hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Air with the body around it in the axial plane."""
    air = hu < AIR_BELOW_HU
    frame = np.ones(hu.shape, dtype=bool)
    frame[:, 1:-1, 1:-1] = False
    open_air = keep(hu < OUTSIDE_BELOW_HU, frame)
    body = largest(opening(~air, 4.0, spacing))
    # Where the field of view cuts through the body, its edge stands for the body's wall.
    walls = body | (frame & ~open_air)
    filled = np.stack([ndimage.binary_fill_holes(section) for section in walls])
    return air & filled & ~dilation(open_air, 4.0, spacing)


def middle_of(hu: np.ndarray) -> float:
    """Column of the middle of all soft tissue and bone in (k, j, i) `hu`."""
    tissue = (hu > AIR_BELOW_HU).sum(axis=(0, 1))
    return float(tissue @ np.arange(tissue.size) / max(tissue.sum(), 1))


def separate(hu: np.ndarray, air: np.ndarray, spacing: Spacing, middle: float) -> np.ndarray:
    """`air` as right and left lung (uint8), cut along the brightest sheet where they touch; loose pockets dropped.

    Args:
        middle: column of the body's middle.
    """
    markers, cut = lung_cores(air, spacing, middle)
    if not cut:
        return markers
    air = keep(air, markers > 0)
    labels = np.where(air, watershed(hu, markers), 0).astype(np.uint8)
    # A bronchus is flooded from the mediastinum, from either side; it belongs to the lung that lies around it.
    right, left = largest(labels == RIGHT), largest(labels == LEFT)
    loose = air & ~right & ~left
    nearer_right = distance(right, spacing) < distance(left, spacing)
    labels[loose] = np.where(nearer_right, RIGHT, LEFT)[loose]
    return labels


def lung_cores(air: np.ndarray, spacing: Spacing, middle: float) -> tuple[np.ndarray, bool]:
    """A part of each lung (uint8), and whether air had to be taken off for them to fall apart."""
    markers = np.zeros(air.shape, dtype=np.uint8)
    for pair_of in (opposite, lopsided):
        for radius_mm in CORE_MM:
            cores, _ = ndimage.label(erosion(air, radius_mm, spacing) if radius_mm else air)
            pair = pair_of(cores, spacing, middle)
            if pair:
                markers[cores == pair[0]], markers[cores == pair[1]] = RIGHT, LEFT
                return markers, radius_mm > 0.0
    only = largest(air)
    centre = np.argwhere(only)[:, 2].mean() if only.any() else 0.0
    markers[only] = RIGHT if centre < middle else LEFT
    return markers, False


def opposite(parts: np.ndarray, spacing: Spacing, middle: float) -> tuple[int, int] | None:
    """The two largest labels of `parts`, right one first, if they can be two lungs: side by side and alike in size."""
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if len(sizes) < 3:
        return None
    second, first = (int(n) for n in np.argsort(sizes)[-2:])
    columns = {n: np.argwhere(parts == n)[:, 2].mean() for n in (first, second)}
    if sizes[second] < ALIKE * sizes[first] or abs(columns[first] - columns[second]) * spacing[2] < 60.0:
        return None
    return (first, second) if columns[first] < columns[second] else (second, first)


def lopsided(parts: np.ndarray, spacing: Spacing, middle: float) -> tuple[int, int] | None:
    """The largest label of `parts` and the largest across the body, right first: a lung, and what is left of one."""
    sizes = np.bincount(parts.ravel()) * float(np.prod(spacing)) / 1000.0
    sizes[0] = 0.0
    large = np.flatnonzero(sizes >= REMNANT_ML)
    if large.size < 2:
        return None
    columns = np.array([column for _, _, column in ndimage.center_of_mass(parts > 0, parts, large)])
    aside_mm = (columns - middle) * spacing[2]
    first = int(sizes[large].argmax())
    across = np.flatnonzero((aside_mm * aside_mm[first] < 0) & (np.abs(aside_mm) > ASIDE_MM))
    if not across.size or abs(aside_mm[first]) < ASIDE_MM:
        return None
    second = int(across[sizes[large][across].argmax()])
    right, left = (first, second) if columns[first] < columns[second] else (second, first)
    return int(large[right]), int(large[left])


def watershed(hu: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Basins of `hu` around `markers`: the border between two of them runs along the brightest way."""
    basins = sitk.MorphologicalWatershedFromMarkers(
        sitk.GetImageFromArray(hu), sitk.GetImageFromArray(markers), markWatershedLine=False
    )
    return sitk.GetArrayFromImage(basins)


def fill(hu: np.ndarray, labels: np.ndarray, gas: np.ndarray, spacing: Spacing) -> np.ndarray:
    """`labels` closed over vessels, nodules, and consolidation at the chest wall or the mediastinum."""
    bronchi = dilation(gas, 3.0, spacing)
    closed = close_each(labels, bronchi, spacing)
    dense = chestwall.dense_lung(hu, closed > 0, spacing) | protrusions.dense_lung(hu, closed > 0, gas, spacing)
    dense &= ~bronchi
    nearer_right = distance(closed == RIGHT, spacing) < distance(closed == LEFT, spacing)
    closed[dense] = np.where(nearer_right, RIGHT, LEFT)[dense]
    closed = close_each(closed, bronchi, spacing)
    for side in (RIGHT, LEFT):
        lung = closed == side
        islands = ndimage.binary_fill_holes(lung) & ~lung
        # A large bronchus with lung all around it in the axial plane counts as lung.
        holes = np.stack([ndimage.binary_fill_holes(section) for section in lung]) & ~lung
        closed[(islands | keep(holes & bronchi, gas)) & (closed == 0)] = side
    return closed


def close_each(labels: np.ndarray, bronchi: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Each lung closed by a ball that leaves the heart, the spine and the diaphragm alone."""
    closed = labels.copy()
    for side in (RIGHT, LEFT):
        closed[closing(labels == side, CLOSING_MM, spacing) & (closed == 0) & ~bronchi] = side
    return closed


def refine(scan: Scan, coarse: Coarse, lungs: np.ndarray, air: np.ndarray, gas: np.ndarray) -> np.ndarray:
    """`lungs` on the scan's own voxels: the border follows the air where there is air, else the coarse shape.

    Args:
        lungs: (k, j, i) uint8 on the blocks of `coarse`, 1 right, 2 left.
        air, gas: bool, what holds air and is lung, and what holds air and is not.
    """
    factor, spacing = coarse.factor, coarse.spacing
    box = bounding_box(lungs > 0, (2, 2, 2))
    native = tuple(
        slice(b.start * step, min(b.stop * step, n)) for b, step, n in zip(box, factor, scan.hu.shape, strict=True)
    )
    lungs, air, gas = lungs[box], air[box], gas[box]
    hu = ndimage.gaussian_filter(scan.hu[native], [0.0] + [0.7 / mm for mm in scan.grid.spacing_mm[1:]], truncate=2.0)
    dark = hu < AIR_BELOW_HU
    full = np.zeros(scan.hu.shape, dtype=np.uint8)
    view = full[native]
    step = 1.01 * max(spacing)
    for side in (RIGHT, LEFT):
        lung = lungs == side
        # Within a voxel of the air, partial volume decides the coarse border; further off, only the closing knows it.
        lesion = lung & dilation(lung & (distance(air & lung, spacing) > step), 2 * step, spacing)
        sure = upsample(erosion(lung, 1.01 * min(spacing), spacing) | lesion, factor, hu.shape)
        near = upsample(dilation(lung, step, spacing) & (lung | (lungs == 0)) & ~gas, factor, hu.shape)
        view[(sure | (near & dark)) & (view == 0)] = side
    return full


def upsample(work: np.ndarray, factor: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A coarse mask on the scan's voxels: linear between the blocks' centres, cut at one half."""
    share = work.astype(np.float32)
    for axis, step in enumerate(factor):
        at = np.clip((np.arange(shape[axis]) + 0.5) / step - 0.5, 0, share.shape[axis] - 1)
        low = at.astype(int)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        above = np.take(share, np.minimum(low + 1, share.shape[axis] - 1), axis)
        share = np.take(share, low, axis) * (1 - weight) + above * weight
    return share > 0.5
