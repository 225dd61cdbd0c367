"""A case on which a method has spoken: what it found beside what the expert drew, on one grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from LabelFreeCovidSegLib.scan import Grid, bounding_box, resample


@dataclass(frozen=True, eq=False)
class Judged:
    """All arrays are (k, j, i) on `grid`; a picture has k = 1.

    Attributes:
        found: bool, what the method marks.
        score: float32, its anomaly map.
        truth: bool, the expert's lesions.
        lungs: uint8, 1 right, 2 left: those that the method worked in.
        hu: float32; of pictures, what their grey values were taken for.
        in_mm: False for pictures, whose pixels have no size.
        found_classes: uint8, 1 ground glass, 2 consolidation; None if the method can't tell.
        true_classes: the same by the expert; None if nobody told them apart.
        true_lungs: bool, the expert's; None if nobody drew them.
    """

    found: np.ndarray
    score: np.ndarray
    truth: np.ndarray
    lungs: np.ndarray
    hu: np.ndarray
    grid: Grid
    in_mm: bool = True
    found_classes: np.ndarray | None = None
    true_classes: np.ndarray | None = None
    true_lungs: np.ndarray | None = None

    @property
    def lung(self) -> np.ndarray:
        """Where lung numbers are counted: the expert's lungs if drawn, else the method's; and all true lesions, since a
        lesion that the lung mask left out is lung all the same."""
        return self.truth | (self.lungs > 0 if self.true_lungs is None else self.true_lungs)

    def on(self, grid: Grid) -> Judged:
        """The same on another grid: masks by the nearest voxel, score and HU linearly."""

        def mask(array: np.ndarray) -> np.ndarray:
            return resample(array.astype(np.uint8), self.grid, grid, nearest=True).astype(array.dtype)

        def grey(array: np.ndarray) -> np.ndarray:
            return resample(array, self.grid, grid, outside=float(array.min()))

        return replace(
            self,
            found=mask(self.found),
            score=grey(self.score),
            truth=mask(self.truth),
            lungs=mask(self.lungs),
            hu=grey(self.hu),
            grid=grid,
            found_classes=None if self.found_classes is None else mask(self.found_classes),
            true_classes=None if self.true_classes is None else mask(self.true_classes),
            true_lungs=None if self.true_lungs is None else mask(self.true_lungs),
        )

    def at(self, spacing_mm: tuple[float, float, float]) -> Judged:
        """The same with voxels of this size (k, j, i), around all that is lung or lesion."""
        box = bounding_box((self.lungs > 0) | self.found | self.truth, (1, 1, 1))
        return self.on(self.grid.covering(box, spacing_mm))

    def resized(self, box: tuple[slice, ...], shape: tuple[int, int, int]) -> Judged:
        """The part in `box` brought to `shape` voxels."""
        extent = [(part.stop - part.start) * mm for part, mm in zip(box, self.grid.spacing_mm, strict=True)]
        k, j, i = (length / size for length, size in zip(extent, shape, strict=True))
        return self.on(self.grid.covering(box, (k, j, i)))
