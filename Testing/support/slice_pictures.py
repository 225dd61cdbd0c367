"""A slice of the phantom as people's pictures of CT are: windowed to 8 bits, whole or cropped to the lungs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from LabelFreeCovidSegLib import phantom

PIXEL_MM = 1.5


@dataclass(frozen=True, eq=False)
class Slice:
    """An axial slice with its truth. All arrays are (j, i)."""

    hu: np.ndarray
    lung: np.ndarray
    lesion: np.ndarray

    def window(self, low: float, high: float) -> np.ndarray:
        """As a picture, uint8."""
        return (np.clip((self.hu - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)

    def cropped(self) -> Slice:
        """The part that is shown of pictures that were cropped to the lungs, whose sides the lungs touch."""
        rows, columns = (np.flatnonzero(self.lung.any(axis=axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return Slice(self.hu[box], self.lung[box], self.lesion[box])

    def consolidated(self, radius: int) -> tuple[Slice, np.ndarray]:
        """With a disk of soft tissue, of `radius` pixels, around a lung's outermost point, as far as it is lung."""
        i = np.flatnonzero(self.lung.any(axis=0))[0]
        j = int(np.flatnonzero(self.lung[:, i]).mean())
        y, x = np.ogrid[: self.hu.shape[0], : self.hu.shape[1]]
        solid = ((y - j) ** 2 + (x - i) ** 2 < radius**2) & self.lung
        return Slice(np.where(solid, 20, self.hu), self.lung, solid), solid


def belly() -> np.ndarray:
    """A picture of a slice without lungs, uint8."""
    y, x = np.ogrid[:200, :260]
    inside = ((y - 100) / 80) ** 2 + ((x - 130) / 110) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 5, inside.shape)
    return np.clip(np.where(inside, 200, 40) + noise, 0, 255).astype(np.uint8)


@cache
def chest_slice() -> Slice:
    """The slice of the phantom with the most lesion, in a field of view of 420 x 360 mm."""
    chest = phantom.make(0, (50, 240, 280), (6.0, PIXEL_MM, PIXEL_MM))
    k = int(np.count_nonzero(chest.lesions, axis=(1, 2)).argmax())
    return Slice(chest.scan.hu[k], chest.lungs[k] > 0, chest.lesions[k] > 0)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Overlap of two masks."""
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))
