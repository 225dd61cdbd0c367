"""The lungs of a scan on the grid that a method works on, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan, bounding_box, resample

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, eq=False)
class LungCrop:
    """A scan cropped to its lungs and resampled.

    Attributes:
        box: slices (k, j, i) of the scan that hold the lungs. source: their grid.
        grid: the working grid, which holds the box.
        sides: (k, j, i) uint8 on `grid`, 1 right lung, 2 left lung. hu: (k, j, i) float32, air beyond the box.
    """

    box: tuple[slice, ...]
    source: Grid
    grid: Grid
    sides: np.ndarray
    hu: np.ndarray

    @classmethod
    def on(
        cls, working: Callable[[Grid], Grid], scan: Scan, lungs: LungMask, margin: tuple[int, int, int] = (0, 0, 0)
    ) -> Self:
        """Crop a scan to its lungs, `margin` voxels (k, j, i) around them, and bring both to a working grid.

        Args:
            working: chooses it by the grid of the box.
        """
        box = bounding_box(lungs.labels > 0, margin)
        source = scan.grid.covering(box, scan.grid.spacing_mm)
        grid = working(source)
        sides = resample(lungs.labels[box], source, grid, nearest=True)
        return cls(box, source, grid, sides, resample(scan.hu[box], source, grid, outside=AIR_HU))

    @property
    def lung(self) -> np.ndarray:
        """(k, j, i) bool."""
        return self.sides > 0

    def paste(self, array: np.ndarray, lungs: LungMask) -> np.ndarray:
        """`array` (k, j, i) on the working grid, as float32 on the scan's whole grid and 0 outside the lungs."""
        result = np.zeros(lungs.labels.shape, dtype=np.float32)
        result[self.box] = resample(array.astype(np.float32), self.grid, self.source) * (lungs.labels[self.box] > 0)
        return result
