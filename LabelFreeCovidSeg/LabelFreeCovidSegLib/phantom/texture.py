"""What is random in every voxel: the lung's own texture and the scanner's noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.phantom.space import Space

PARENCHYMA_HU = -868.0
GRAVITY_HU_PER_MM = 0.45
"""A lung of a person who lies on the back is denser behind: about 70 HU over its depth."""

SOFT_MM, SHARP_MM = 0.75, 0.45
"""Standard deviation of the kernel that correlates the noise within a slice."""


def parenchyma(space: Space, rng: np.random.Generator) -> np.ndarray:
    """HU of lung without vessels, airways and fissures, (k, j, i) float32, also where there is no lung."""
    hu = _smooth_noise(rng, space, 24) * np.float32(9)
    hu += _smooth_noise(rng, space, 5) * np.float32(16)
    hu += np.float32(PARENCHYMA_HU) + np.float32(GRAVITY_HU_PER_MM) * space.axes()[1]
    return hu


def scanner_noise(space: Space, sharp: bool, rng: np.random.Generator) -> np.ndarray:
    """Noise of zero mean and unit variance, (k, j, i) float32, correlated within each slice as the kernel makes it."""
    noise = rng.standard_normal(space.shape, dtype=np.float32)
    for axis in (1, 2):
        ndimage.gaussian_filter1d(noise, (SHARP_MM if sharp else SOFT_MM) / space.spacing_mm[axis], axis, output=noise)
    return noise / noise.std()


def _smooth_noise(rng: np.random.Generator, space: Space, wavelength_mm: float) -> np.ndarray:
    """A smooth random field of unit variance, (k, j, i) float32: coarse white noise, linearly interpolated."""
    counts = [int(np.ceil(n * step / wavelength_mm)) + 2 for n, step in zip(space.shape, space.spacing_mm, strict=True)]
    field = rng.standard_normal(counts, dtype=np.float32)
    for axis, step in ((2, space.spacing_mm[2]), (1, space.spacing_mm[1]), (0, space.spacing_mm[0])):
        at = np.arange(space.shape[axis]) * step / wavelength_mm
        weights = np.clip(1 - np.abs(at[:, None] - np.arange(counts[axis])), 0, 1)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.moveaxis(np.tensordot(weights.astype(np.float32), field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)
