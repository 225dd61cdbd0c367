"""A slice as it might have been taken of another patient, or of the same one who lies otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.methods.uda import Plane, window
from LabelFreeCovidSegLib.scan import AIR_HU


@dataclass(frozen=True)
class Variety:
    """How far slices are changed: "small rotations, shearing, gamma" (Chen et al., section 4.1), and size; ours."""

    turn_degrees: float = 10.0
    shear: float = 0.1
    size: tuple[float, float] = (0.85, 1.15)
    gamma: tuple[float, float] = (0.8, 1.25)


VARIETY = Variety()


def varied(
    hu: np.ndarray, labels: np.ndarray, canvas: Plane, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A slice turned, sheared, scaled, mirrored and with another gamma, in the middle of a canvas.

    Args:
        hu: (j, i) float32. labels: (j, i) uint8.

    Returns:
        Image (j, i) float32 in [-1, 1], air around it, and labels.
    """
    image, labels = framed(hu, labels, canvas, turned(rng))
    grey = ((image + 1) / 2) ** rng.uniform(*VARIETY.gamma)
    return (2 * grey - 1).astype(np.float32), labels


def turned(rng: np.random.Generator) -> np.ndarray:
    """How a slice is turned, sheared, scaled and mirrored: 2 x 2, from what comes out (j, i) to what goes in."""
    angle = np.radians(rng.uniform(-VARIETY.turn_degrees, VARIETY.turn_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, 0.0], [rng.uniform(-VARIETY.shear, VARIETY.shear), 1.0]])
    size = np.diag([1.0, rng.choice([-1.0, 1.0])]) / rng.uniform(*VARIETY.size)
    return turn @ shear @ size


def framed(
    hu: np.ndarray, labels: np.ndarray, canvas: Plane, matrix: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A slice in the middle of a canvas, as it is or through a 2 x 2 `matrix` from canvas to slice."""
    matrix = np.eye(2) if matrix is None else matrix
    middle = (np.array(hu.shape) - 1) // 2
    offset = middle - matrix @ ((np.array(canvas) - 1) // 2)
    image = ndimage.affine_transform(hu, matrix, offset, canvas, order=1, cval=AIR_HU, prefilter=False)
    moved = ndimage.affine_transform(labels, matrix, offset, canvas, order=0, cval=0, prefilter=False)
    return window(image), moved
