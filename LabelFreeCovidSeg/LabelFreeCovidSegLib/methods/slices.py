"""The lungs of a scan as axial slices on a square canvas, and the way back, for methods that work in 2-D."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan, bounding_box, resample


@dataclass(frozen=True, eq=False)
class LungSlices:
    """The lungs of a scan in the middle of a canvas, the same place in every slice.

    Attributes:
        box: slices (k, j, i) of the scan that hold the lungs. source: their grid.
        grid: the working grid; one slice is one canvas.
        sides: (k, j, i) uint8 on `grid`, 1 right lung, 2 left lung. hu: (k, j, i) float32, air beyond the lungs' box.
        shrunk: how many times coarser than asked for the grid is, so that lungs wider than the canvas fit; mostly 1.
    """

    box: tuple[slice, ...]
    source: Grid
    grid: Grid
    sides: np.ndarray
    hu: np.ndarray
    shrunk: float

    @classmethod
    def of(cls, scan: Scan, lungs: LungMask, spacing_mm: Lengths, side: int) -> LungSlices:
        """Bring the lungs to a canvas of `side` pixels.

        Args:
            spacing_mm: along (k, j, i); j and i are the same.
        """
        box = bounding_box(lungs.labels > 0)
        source = scan.grid.covering(box, scan.grid.spacing_mm)
        widest_mm = max(n * mm for n, mm in zip(source.shape[1:], source.spacing_mm[1:], strict=True))
        shrunk = max(1.0, widest_mm / (side * spacing_mm[1]))
        whole = tuple(slice(0, n) for n in source.shape)
        thickness_mm = spacing_mm[0] if len(scan.hu) > 1 else source.spacing_mm[0]  # a single slice stays one
        grid = centred(source.covering(whole, (thickness_mm, spacing_mm[1] * shrunk, spacing_mm[2] * shrunk)), side)
        sides = resample(lungs.labels[box], source, grid, nearest=True)
        return cls(box, source, grid, sides, resample(scan.hu[box], source, grid, outside=AIR_HU), shrunk)

    @property
    def lung(self) -> np.ndarray:
        """(k, j, i) bool."""
        return self.sides > 0

    def paste(self, array: np.ndarray, lungs: LungMask) -> np.ndarray:
        """`array` (k, j, i) on the working grid, as float32 on the scan's whole grid and 0 outside the lungs."""
        result = np.zeros(lungs.labels.shape, dtype=np.float32)
        result[self.box] = resample(array.astype(np.float32), self.grid, self.source) * (lungs.labels[self.box] > 0)
        return result


def centred(grid: Grid, side: int) -> Grid:
    """`grid` with `side` voxels along j and i, as many more before as after it, to one."""
    before = np.array([(side - grid.size[0]) // 2, (side - grid.size[1]) // 2, 0])
    corner = np.array(grid.direction).reshape(3, 3) @ (before * np.array(grid.spacing))
    origin = tuple(float(x) for x in np.array(grid.origin) - corner)
    return replace(grid, size=(side, side, grid.size[2]), origin=origin)
