"""A case on which a method has spoken: what it found beside what the expert drew, on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LabelFreeCovidSegLib.scan import Grid, resample


@dataclass(frozen=True, eq=False)
class Judged:
    """All arrays are (k, j, i) on `grid`; a picture has k = 1 and stands upright.

    Attributes:
        found: bool, what the method marks.
        score: float32, its anomaly map.
        truth: bool, the expert's lesions.
        lungs: uint8, 1 right, 2 left: those that the method worked in.
        hu: float32; of pictures, what their grey values were taken for.
        in_mm: False for pictures, whose pixels have no size.
        found_classes: uint8, 1 ground glass, 2 consolidation; by density where the method does not tell them apart,
            None where that can't, either.
        true_classes: the same by the expert; None if nobody told them apart.
        true_lungs: bool, the expert's; None if nobody drew them.
        health: float32, how probably each voxel is healthy; None unless it was asked for and the method knows.
        empty: the slices of pictures in which nothing could be looked for, each with the reason.
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
    health: np.ndarray | None = None
    empty: tuple[str, ...] = ()

    @property
    def lung(self) -> np.ndarray:
        """Where lung numbers are counted: the expert's lungs if drawn, else the method's; and all true lesions, since a
        lesion that the lung mask left out is lung all the same."""
        return self.truth | (self.lungs > 0 if self.true_lungs is None else self.true_lungs)

    def masks_on(self, grid: Grid, *masks: np.ndarray) -> list[np.ndarray]:
        """Masks of this case, bool, on another grid: each voxel is what the nearest one is here."""
        return [resample(mask.astype(np.uint8), self.grid, grid, nearest=True) > 0 for mask in masks]

    def score_on(self, grid: Grid) -> np.ndarray:
        """The score on another grid, linearly interpolated."""
        return resample(self.score, self.grid, grid)


def resized(grid: Grid, box: tuple[slice, ...], shape: tuple[int, int, int]) -> Grid:
    """The grid of `shape` voxels that covers `box` of another."""
    extent = [(part.stop - part.start) * mm for part, mm in zip(box, grid.spacing_mm, strict=True)]
    k, j, i = (length / size for length, size in zip(extent, shape, strict=True))
    return grid.covering(box, (k, j, i))
