"""The phantom's coordinates and the few operations that every part of it is drawn with.

The body stands around (0, 0, 0) millimetres: x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CENTRE_MM = (0.0, 10.0, -8.0)
"""Where the middle of the field of view lies in the body (x, y, z): low enough to show the table."""


@dataclass(frozen=True)
class Space:
    """A voxel grid in the body: array shape and voxel size, both along (k, j, i)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def voxel_mm(self) -> float:
        """Edge of the cube that has a voxel's volume: over this length a sharp boundary fades."""
        return float(np.prod(self.spacing_mm)) ** (1 / 3)

    @property
    def first_mm(self) -> np.ndarray:
        """Centre (x, y, z) of voxel (0, 0, 0)."""
        extent = (np.array(self.shape) - 1) * self.spacing_mm
        return np.array(CENTRE_MM) - extent[::-1] / 2

    def axes(self, box: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and z of the voxel centres in `box`, shaped to broadcast to (k, j, i)."""
        k, j, i = (
            (np.arange(n)[part] * step + first).astype(np.float32)
            for n, part, step, first in zip(
                self.shape, box or (slice(None),) * 3, self.spacing_mm, self.first_mm[::-1], strict=True
            )
        )
        return i[None, None, :], j[None, :, None], k[:, None, None]

    def box(self, centre_mm: np.ndarray, half_mm: float) -> tuple[slice, ...]:
        """Slices (k, j, i) of the voxels within `half_mm` of a point, cut at the grid's faces."""
        low = np.floor((centre_mm - half_mm - self.first_mm)[::-1] / self.spacing_mm).astype(int)
        high = np.ceil((centre_mm + half_mm - self.first_mm)[::-1] / self.spacing_mm).astype(int) + 1
        return tuple(
            slice(max(int(a), 0), max(min(int(b), n), 0)) for a, b, n in zip(low, high, self.shape, strict=True)
        )


def cover(distance: np.ndarray, width: float) -> np.ndarray:
    """Share of a voxel inside a shape, from the signed distance (negative inside) of its centre, both in mm."""
    return np.clip(np.float32(0.5) - distance / np.float32(width), 0, 1)


def paint(hu: np.ndarray, share: np.ndarray, value: float | np.ndarray) -> None:
    """Mix `value` into `hu`, in place, by the share of each voxel."""
    hu += share * (value - hu)
