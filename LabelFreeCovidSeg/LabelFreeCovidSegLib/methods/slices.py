"""The lungs of a scan as axial slices on a square canvas, and the way back, for methods that work in 2-D."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.lung_crop import LungCrop
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.scan import Grid, Scan


class LungSlices(LungCrop):
    """The lungs of a scan in the middle of a canvas, the same place in every slice; one slice is one canvas."""

    @classmethod
    def of(cls, scan: Scan, lungs: LungMask, spacing_mm: Lengths, side: int) -> LungSlices:
        """Bring the lungs to a canvas of `side` pixels, which are larger than asked for where the lungs would not fit.

        Args:
            spacing_mm: along (k, j, i); j and i are the same.
        """

        def canvas(source: Grid) -> Grid:
            widest_mm = max(n * mm for n, mm in zip(source.shape[1:], source.spacing_mm[1:], strict=True))
            coarser = max(1.0, widest_mm / (side * spacing_mm[1]))
            thickness_mm = spacing_mm[0] if len(scan.hu) > 1 else source.spacing_mm[0]  # a single slice stays one
            return centred(source.with_spacing((thickness_mm, spacing_mm[1] * coarser, spacing_mm[2] * coarser)), side)

        return cls.on(canvas, scan, lungs)


def centred(grid: Grid, side: int) -> Grid:
    """`grid` with `side` voxels along j and i, as many more before as after it, to one."""
    before = np.array([(side - grid.size[0]) // 2, (side - grid.size[1]) // 2, 0])
    corner = np.array(grid.direction).reshape(3, 3) @ (before * np.array(grid.spacing))
    origin = tuple(float(x) for x in np.array(grid.origin) - corner)
    return replace(grid, size=(side, side, grid.size[2]), origin=origin)
