"""A chest CT in Hounsfield units and the grid it lies on.

Inside this package arrays are `(k, j, i)`, k towards the head, j towards the back, i towards the patient's left (LPS);
the file's own axes, oblique or left-handed, are kept so that every result returns to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR_HU = -1024.0
"""What lies outside the scan circle is set to this (scanners write -2000, -2048 or -3024 there)."""


@dataclass(frozen=True)
class Grid:
    """A voxel grid in the patient, in ITK's terms: x, y, z order, LPS millimetres, direction row by row."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a 3-D image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape (k, j, i)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (k, j, i)."""
        return self.spacing[2], self.spacing[1], self.spacing[0]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    @property
    def corners(self) -> np.ndarray:
        """Centres of the eight outermost voxels, (8, 3) in LPS millimetres."""
        ends = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.size) - 1) * np.array(self.spacing)
        return np.array(self.origin) + ends @ np.array(self.direction).reshape(3, 3).T

    def image(self, array: np.ndarray) -> sitk.Image:
        """`array` (k, j, i) as an image on this grid."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def covering(self, box: tuple[slice, ...], spacing_mm: tuple[float, float, float]) -> Grid:
        """The grid with the same axes and another spacing that covers `box`.

        Args:
            box: slices (k, j, i) of this grid's array; half-open, in voxels.
            spacing_mm: the new voxel size along (k, j, i).
        """
        old, new = np.array(self.spacing), np.array(spacing_mm[::-1])
        lower = np.array([axis.start for axis in box[::-1]])
        extent_mm = (np.array([axis.stop for axis in box[::-1]]) - lower) * old
        size = np.maximum(np.ceil(extent_mm / new - 1e-6), 1).astype(int)
        # The outer faces of the first voxels coincide, so centres move by half the difference of the spacings.
        corner = lower * old + (new - old) / 2
        origin = np.array(self.origin) + np.array(self.direction).reshape(3, 3) @ corner
        return Grid(tuple(map(int, size)), tuple(map(float, new)), tuple(map(float, origin)), self.direction)

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Grid:
        """The grid with the same axes and another spacing, along (k, j, i), that covers all of this one."""
        return self.covering(tuple(slice(0, n) for n in self.shape), spacing_mm)


@dataclass(frozen=True, eq=False)
class Scan:
    """A chest CT.

    Attributes:
        hu: (k, j, i) float32 Hounsfield units, LPS.
        grid: where `hu` lies.
        native: the grid of the file or node it came from; results are given on it.
        name: how messages and reports call it (a file or folder name, never a patient's).
        notes: what was chosen or assumed while reading, one sentence each, for the report.
    """

    hu: np.ndarray
    grid: Grid
    native: Grid
    name: str
    notes: tuple[str, ...] = ()

    @classmethod
    def from_image(cls, image: sitk.Image, name: str, notes: tuple[str, ...] = ()) -> Scan:
        """Turn a 3-D scalar image in HU to LPS; whatever is below air counts as air. See `read` for the checks."""
        import SimpleITK as sitk

        oriented = sitk.DICOMOrient(image, "LPS")
        hu = np.maximum(sitk.GetArrayViewFromImage(oriented).astype(np.float32), np.float32(AIR_HU))
        return cls(hu, Grid.of(oriented), Grid.of(image), name, notes)

    def native_image(self, array: np.ndarray) -> sitk.Image:
        """`array` (k, j, i), on this scan's LPS grid, as an image on the grid of the file it came from."""
        import SimpleITK as sitk

        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.native.direction)
        image = sitk.DICOMOrient(self.grid.image(array), code)
        image.SetOrigin(self.native.origin)  # turning there and back leaves rounding of 1e-13 mm
        image.SetDirection(self.native.direction)
        return image

    def oriented(self, image: sitk.Image) -> np.ndarray:
        """An image on this scan's native grid as a (k, j, i) LPS array: the way back of `native_image`."""
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def windowed(hu: np.ndarray, window_hu: tuple[float, float], values: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """HU -> `values`: a straight line over `window_hu`, clipped at its ends."""
    (low, high), (least, most) = window_hu, values
    return np.clip((hu - np.float32(low)) / np.float32((high - low) / (most - least)) + least, least, most)


def resample(
    array: np.ndarray, source: Grid, target: Grid, *, outside: float = 0.0, nearest: bool = False
) -> np.ndarray:
    """`array` on grid `source`, read off at the voxel centres of grid `target`.

    Linear interpolation, or the nearest voxel for labels. The result has `target.shape` and the dtype of `array`.

    Args:
        outside: the value where `target` reaches beyond `source`.
    """
    import SimpleITK as sitk

    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    image = sitk.Resample(
        source.image(array), target.size, sitk.Transform(), interpolator, target.origin, target.spacing,
        target.direction, outside,
    )  # fmt: skip
    return sitk.GetArrayFromImage(image)


def bounding_box(mask: np.ndarray, margin: tuple[int, ...] = (0, 0, 0)) -> tuple[slice, ...]:
    """Half-open slices of the smallest box around the true voxels of `mask`, widened by `margin` within the array.

    Raises:
        ValueError: `mask` has no true voxel.
    """
    box = []
    for axis, extra in enumerate(margin):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if hits.size == 0:
            raise ValueError("an empty mask has no bounding box")
        box.append(slice(max(int(hits[0]) - extra, 0), min(int(hits[-1]) + 1 + extra, mask.shape[axis])))
    return tuple(box)
