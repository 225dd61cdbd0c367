"""What other scanners would have made of the same lungs: mirror image, kernel, noise and slice thickness.

The paper trains on 453 scans and augments nothing; a handful of scans needs the variety. All of it happens in HU and
before lesions are pasted, so that the target stays what the scanner would have shown of healthy tissue.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

THICK_PROBABILITY = 0.4
THICKNESS_MM = (2.0, 6.0)
SHARPNESS = (-0.6, 0.6)
"""Share of the difference to a 1 mm Gaussian that is added (sharper) or taken away (softer)."""
NOISE_HU = (0.0, 60.0)
NOISE_GRAIN_MM = (0.0, 0.8)
SHIFT_HU = (-30.0, 30.0)


def augment(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A variant of a crop.

    Args:
        hu: (k, j, i) float32.
        lung: (k, j, i) bool.

    Returns:
        HU and lung of the variant.
    """
    if rng.random() < 0.5:
        hu, lung = hu[:, :, ::-1], lung[:, :, ::-1]
    in_plane = [0.0, 1.0 / spacing_mm[1], 1.0 / spacing_mm[2]]
    hu = hu + np.float32(rng.uniform(*SHARPNESS)) * (hu - ndimage.gaussian_filter(hu, in_plane, truncate=3.0))
    hu = hu + _noise(hu.shape, spacing_mm, rng)
    if rng.random() < THICK_PROBABILITY:
        hu = thicken(hu, rng.uniform(*THICKNESS_MM) / spacing_mm[0])
    return hu + np.float32(rng.uniform(*SHIFT_HU)), np.ascontiguousarray(lung)


def _noise(shape: tuple[int, ...], spacing_mm: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    grain = rng.uniform(*NOISE_GRAIN_MM)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), [grain / s for s in spacing_mm])
    return noise * np.float32(rng.uniform(*NOISE_HU) / max(float(noise.std()), 1e-6))


def thicken(hu: np.ndarray, slices: float) -> np.ndarray:
    """The crop as thick slices that were interpolated back: averaged over `slices`, read at every such distance."""
    if slices <= 1.0:
        return hu
    averaged = ndimage.uniform_filter1d(hu, max(round(slices), 1), axis=0, mode="nearest")
    centres = np.arange(0.0, hu.shape[0] - 1 + slices, slices)
    place = np.arange(hu.shape[0]) / slices
    lower = np.minimum(place.astype(int), len(centres) - 2)
    share = (place - lower).astype(np.float32)[:, None, None]
    picked = averaged[np.minimum(np.round(centres).astype(int), hu.shape[0] - 1)]
    return (1 - share) * picked[lower] + share * picked[lower + 1]
