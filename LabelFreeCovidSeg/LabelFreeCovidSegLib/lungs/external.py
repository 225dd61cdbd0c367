"""Lung masks from elsewhere: a file that the user has, or the `lungmask` package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LabelFreeCovidSegLib import volume
from LabelFreeCovidSegLib.errors import LungError, ScanError
from LabelFreeCovidSegLib.lungs import plausibility
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT, LungMask, lung_labels
from LabelFreeCovidSegLib.lungs.classical import block_mean, middle_of, separate, work_grid
from LabelFreeCovidSegLib.lungs.morphology import distance
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Grid, Scan

MOST_LABELS = 32
"""Five lobes, or what a segmentation of the chest has; an image has more values."""
LARGEST_ML = 12_000.0
OWN_SIDE = 0.75
"""Of a right or a left lung, more than this share lies on its side of the body's middle; of both, about half."""


def given(scan: Scan, path: Path) -> LungMask:
    """The lungs in a mask file (NIfTI, NRRD, .seg.nrrd, MHA) on the scan's own grid.

    Labels 1 and 2 are kept if there are no others and they lie where the right and the left lung do; else whatever is
    not 0 is lung, and is split into right and left. Of segments with names, those are lung that `lung_labels` finds.

    Raises:
        LungError: the file can't be read, lies on another grid, or holds no lungs.
    """
    try:
        image = volume.voxels(volume.header(path))
    except ScanError as error:
        raise LungError(str(error)) from error
    except OSError as error:
        raise LungError(
            f"{path}: can't be opened as a lung mask ({error.strerror}). Give a NIfTI, NRRD or MHA file on the grid of "
            f"{scan.name}."
        ) from error
    if image.GetDimension() != 3:
        raise LungError(f"{path.name}: has {image.GetDimension()} dimensions. A lung mask is one 3-D volume.")
    segments = _segments(image)
    image = sitk.DICOMOrient(image, "LPS")
    if not coincide(Grid.of(image), scan.grid):
        raise LungError(
            f"{path.name} ({summary(Grid.of(image))}) does not lie on the grid of {scan.name} ({summary(scan.grid)}). "
            "Export the mask with the CT as its reference geometry."
        )
    labels = sitk.GetArrayFromImage(image)
    layers = labels if labels.ndim == 4 else labels[..., None]  # segments that overlap lie in layers
    labels = np.zeros(layers.shape[:3], np.uint16) if segments else layers.max(axis=-1)
    for layer, value, label in segments:
        labels[layers[..., layer] == value] = label
    return of_array(labels, scan, path.name)


def _segments(image: sitk.Image) -> list[tuple[int, int, int]]:
    """Layer, value there and label of each segment of a Slicer segmentation that is lung; of other images none."""
    segments = [key.removesuffix("_Name") for key in image.GetMetaDataKeys() if re.fullmatch(r"Segment\d+_Name", key)]
    labels = lung_labels([image.GetMetaData(f"{one}_Name") for one in segments])
    return [(*_place(image, one), label) for one, label in zip(segments, labels, strict=True) if label]


def _place(image: sitk.Image, segment: str) -> tuple[int, int]:
    """Layer and label of a segment; before Slicer 4.11 each had a layer of its own, in which it was 1."""
    if not image.HasMetaDataKey(f"{segment}_Layer"):
        return int(segment.removeprefix("Segment")), 1
    return int(image.GetMetaData(f"{segment}_Layer")), int(image.GetMetaData(f"{segment}_LabelValue"))


def of_array(mask: np.ndarray, scan: Scan, name: str) -> LungMask:
    """The lungs in a mask (k, j, i) on the scan's LPS grid, called `name` in messages; labels as in `given`.

    A mask that says how much of a voxel is lung, between 0 and 1, counts from one half on.

    Raises:
        LungError: it is empty, no mask, or larger than any lungs.
    """
    low, high = mask.min(), mask.max()
    found = np.unique(mask[::2, ::2, ::2])  # all of them would take seconds
    labels = found[found != 0]
    if low >= 0 and high <= 1:
        mask = mask >= 0.5
    elif low < 0 or len(labels) > MOST_LABELS or (labels != np.round(labels)).any():
        raise LungError(
            f"{name}: an image with values from {low:g} to {high:g}, no mask. Give a mask in which the lungs of "
            f"{scan.name} are not 0 and all else is."
        )
    if not mask.any():
        raise LungError(f"{name}: the lung mask is empty. Give a mask in which the lungs of {scan.name} are not 0.")
    ml = float(np.count_nonzero(mask) * scan.grid.voxel_ml)
    if ml > LARGEST_ML:
        raise LungError(
            f"{name}: holds {ml / 1000:.1f} L, more than any lungs. Give a mask in which nothing but the lungs of "
            f"{scan.name} is not 0."
        )
    halves = sides(mask, scan)
    warnings = plausibility.warnings(halves, scan.grid)
    if len(labels) > 1 and high > 1 and not np.array_equal(halves, mask):
        taken = ", ".join(f"{label:g}" for label in labels)
        warnings = (f"All labels of {name} ({taken}) were taken for lung. Check that none is another organ.", *warnings)
    return LungMask(halves, f"given: {name}", warnings)


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


def sides(mask: np.ndarray, scan: Scan) -> np.ndarray:
    """`mask` (k, j, i) as right and left lung: by its labels 1 and 2 if they are that, else cut where they touch."""
    if np.array_equal(np.unique(mask[mask != 0]), [RIGHT, LEFT]):
        middle = round(middle_of(scan.hu))
        right, left = ((mask == side).sum(axis=(0, 1)) for side in (RIGHT, LEFT))
        if min(right[:middle].sum() / right.sum(), left[middle:].sum() / left.sum()) > OWN_SIDE:
            return mask.astype(np.uint8)
    factor, spacing = work_grid(scan.grid)
    coarse = block_mean((mask != 0).astype(np.float32), factor) > 0.25
    cores = separate(-distance(~coarse, spacing), coarse, spacing, coarse.shape[2] / 2)
    nearest = ndimage.distance_transform_edt(cores == 0, sampling=spacing, return_distances=False, return_indices=True)
    labels = cores[tuple(nearest)]
    for axis, step in enumerate(factor):
        labels = np.repeat(labels, step, axis=axis)
    k, j, i = mask.shape
    return np.where(mask != 0, labels[:k, :j, :i], 0).astype(np.uint8)
