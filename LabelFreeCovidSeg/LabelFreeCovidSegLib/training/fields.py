"""Smooth random fields, made on a coarse grid and widened axis by axis."""

from __future__ import annotations

import numpy as np


def smooth_noise(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], scale_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """A 3-D random field of zero mean and unit variance that changes over about `scale_mm`; (k, j, i) float32.

    Cubic B-splines over knots `scale_mm` apart with normal coefficients. Three products with small matrices cost a
    tenth of a Gaussian filter of the same width.
    """
    weights = []
    for n, mm in zip(shape, spacing_mm, strict=True):
        place = np.arange(n) * (mm / scale_mm) + rng.uniform(1, 2)
        distance = np.abs(place[:, None] - np.arange(int(place[-1]) + 3))
        spline = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6)
        # Between the knots the splines average out more than on them.
        weights.append((spline / np.sqrt((spline**2).sum(axis=1, keepdims=True))).astype(np.float32))
    return spread(rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32), weights)


def widen(coarse: np.ndarray, shape: tuple[int, ...], step: int) -> np.ndarray:
    """What was taken as `array[::step, ::step, ::step]`, linearly interpolated back to `shape`; float32."""
    weights = []
    for n, nodes in zip(shape, coarse.shape, strict=True):
        place = np.minimum(np.arange(n) / step, nodes - 1)
        weights.append(np.maximum(1 - np.abs(place[:, None] - np.arange(nodes)), 0).astype(np.float32))
    return spread(coarse.astype(np.float32), weights)


def spread(nodes: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Apply a matrix (new size, old size) along each of the three axes."""
    k, j, i = weights
    return np.tensordot(k, j @ (nodes @ i.T), axes=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """0 far below zero, 1 far above."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)
