"""Lung masks from elsewhere: a file that the user has, or the `lungmask` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LabelFreeCovidSegLib.errors import LungError
from LabelFreeCovidSegLib.lungs import plausibility
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT, LungMask
from LabelFreeCovidSegLib.lungs.classical import block_mean, separate, work_grid
from LabelFreeCovidSegLib.lungs.morphology import distance
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Grid, Scan


def given(scan: Scan, path: Path) -> LungMask:
    """The lungs in a mask file (NIfTI, NRRD, .seg.nrrd, MHA) on the scan's own grid.

    Labels 1 and 2 are kept if there are no others and 1 lies on the patient's right; else whatever is not 0 is lung,
    and is split into right and left.

    Raises:
        LungError: the file can't be read, lies on another grid or is empty.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise LungError(
            f"{path.name}: can't be read as a lung mask. Give a NIfTI, NRRD or MHA file on the grid of {scan.name}."
        ) from error
    if image.GetDimension() != 3:
        raise LungError(f"{path.name}: has {image.GetDimension()} dimensions. A lung mask is one 3-D volume.")
    image = sitk.DICOMOrient(image, "LPS")
    if not coincide(Grid.of(image), scan.grid):
        raise LungError(
            f"{path.name} ({summary(Grid.of(image))}) does not lie on the grid of {scan.name} ({summary(scan.grid)}). "
            "Export the mask with the CT as its reference geometry."
        )
    labels = sitk.GetArrayFromImage(image)
    if labels.ndim == 4:  # a segmentation file whose segments overlap has one component for each layer
        labels = labels.max(axis=-1)
    return of_array(labels, scan, path.name)


def of_array(mask: np.ndarray, scan: Scan, name: str) -> LungMask:
    """The lungs in a mask (k, j, i) on the scan's LPS grid, called `name` in messages; labels as in `given`.

    Raises:
        LungError: it is empty.
    """
    if not mask.any():
        raise LungError(f"{name}: the lung mask is empty. Give a mask in which the lungs of {scan.name} are not 0.")
    labels = sides(mask, scan.grid)
    return LungMask(labels, f"given: {name}", plausibility.warnings(labels, scan.grid))


def lungmask(scan: Scan, progress: Progress = silent) -> LungMask:
    """The lungs as the U-net R231 of the `lungmask` package outlines them (Hofmanninger et al. 2020).

    Raises:
        LungError: the package is not installed.
    """
    try:
        from lungmask import LMInferer
    except ImportError as error:
        raise LungError(
            "The package lungmask is not installed. Install it with `pip install lungmask`; on first use it downloads "
            "its weights from its authors. Or choose the classical lung finder, which needs neither."
        ) from error
    progress(0.0, "Finding the lungs with lungmask")
    labels = np.asarray(LMInferer().apply(scan.grid.image(scan.hu))).astype(np.uint8)
    if not labels.any():
        raise LungError(f"{scan.name}: lungmask found no lungs. Load a chest CT in Hounsfield units.")
    progress(1.0, "Lungs found")
    return LungMask(labels, "lungmask R231", plausibility.warnings(labels, scan.grid))


def coincide(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same size and no corner of theirs is half a voxel or more apart."""
    if one.size != other.size:
        return False
    return bool(np.abs(one.corners - other.corners).max() < 0.5 * min(other.spacing))


def summary(grid: Grid) -> str:
    """Size, spacing and origin for a message."""
    size, spacing, origin = (
        " x ".join(f"{value:.4g}" for value in row) for row in (grid.size, grid.spacing, grid.origin)
    )
    return f"{size} voxels of {spacing} mm from ({origin})"


def sides(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """`mask` (k, j, i) as right and left lung: by its own labels 1 and 2, else cut where the lungs touch."""
    if np.array_equal(np.unique(mask[mask != 0]), [RIGHT, LEFT]):
        right, left = (np.flatnonzero((mask == side).any(axis=(0, 1))).mean() for side in (RIGHT, LEFT))
        if right < left:
            return mask.astype(np.uint8)
    factor, spacing = work_grid(grid)
    coarse = block_mean((mask != 0).astype(np.float32), factor) > 0.25
    cores = separate(-distance(~coarse, spacing), coarse, spacing)
    nearest = ndimage.distance_transform_edt(cores == 0, sampling=spacing, return_distances=False, return_indices=True)
    labels = cores[tuple(nearest)]
    for axis, step in enumerate(factor):
        labels = np.repeat(labels, step, axis=axis)
    k, j, i = mask.shape
    return np.where(mask != 0, labels[:k, :j, :i], 0).astype(np.uint8)
