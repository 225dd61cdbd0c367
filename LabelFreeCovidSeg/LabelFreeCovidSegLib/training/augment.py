"""The same healthy lungs in another breath, under another scanner, and with another lung mask.

The paper trains on 453 scans and augments nothing; a handful of scans needs the variety. All of it happens in HU and
before lesions are pasted, so that the target stays what the scanner would have shown of healthy tissue.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.postprocess import box_kernel

THICK_PROBABILITY = 0.4
THICKNESS_MM = (2.0, 6.0)
PADDED_PROBABILITY = 0.25
"""Of thick slices that were repeated, not interpolated: the paper finds most of its false marks in such scans."""
SHARPNESS = (-0.6, 0.6)
"""Share of the difference to a 1 mm Gaussian that is added (sharper) or taken away (softer)."""
NOISE_HU = (0.0, 60.0)
NOISE_GRAIN_MM = (0.0, 0.8)
SHIFT_HU = (-30.0, 30.0)
DENSER_PROBABILITY = 0.4
EXPIRATION_HU = (0.0, 120.0)
"""At full expiration the lung is 100 to 150 HU denser than at full inspiration."""
DEPENDENT_HU = (0.0, 300.0)
DEPENDENT_MM = (15.0, 60.0)
"""Density added at the lowest point of a lung on its back, and the height over which it falls to 1 / e."""
UNEVEN = 0.4
UNEVEN_MM = 25.0
BORDER_PROBABILITY = 0.5
BORDER_BLUR_MM = 1.5
BORDER_LEVEL = (0.1, 0.7)
"""A mask blurred by 1.5 mm and cut here is 1.9 mm wider to 0.8 mm narrower: as far as lung finders differ."""


def augment(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A variant of a crop: another breath and mask, under another scanner.

    Args:
        hu: (k, j, i) float32.
        lung: (k, j, i) bool.

    Returns:
        HU and lung of the variant.
    """
    hu, lung = another_breath(hu, lung, spacing_mm, rng)
    (hu,) = another_scanner((hu,), spacing_mm, rng)
    return hu, np.ascontiguousarray(lung)


def another_breath(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What the patient and the lung finder do: mirrored, less air, another border; HU and lung as for `augment`."""
    if rng.random() < 0.5:
        hu, lung = hu[:, :, ::-1], lung[:, :, ::-1]
    if rng.random() < DENSER_PROBABILITY:
        hu = denser(hu, lung, spacing_mm, rng)
    if rng.random() < BORDER_PROBABILITY:
        blurred = ndimage.gaussian_filter(lung.astype(np.float32), [BORDER_BLUR_MM / mm for mm in spacing_mm])
        lung = blurred > rng.uniform(*BORDER_LEVEL)
    return hu, lung


def another_scanner(
    arrays: tuple[np.ndarray, ...], spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """What the scanner does: kernel, noise, thick slices and a shift.

    Args:
        arrays: HU (k, j, i) float32, and whatever of the same shape becomes thick slices with it.
    """
    hu, *others = arrays
    in_plane = [0.0, 1.0 / spacing_mm[1], 1.0 / spacing_mm[2]]
    hu = hu + np.float32(rng.uniform(*SHARPNESS)) * (hu - ndimage.gaussian_filter(hu, in_plane, truncate=3.0))
    hu = hu + _noise(hu.shape, spacing_mm, rng)
    if rng.random() < THICK_PROBABILITY:
        slices, padded = rng.uniform(*THICKNESS_MM) / spacing_mm[0], rng.random() < PADDED_PROBABILITY
        hu, *others = (thicken(array, slices, padded) for array in (hu, *others))
    return hu + np.float32(rng.uniform(*SHIFT_HU)), *others


def denser(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """The crop with less air in it: breathed out, and weighed down towards the back, unevenly as in a sleeper."""
    rows = np.flatnonzero(lung.any(axis=(0, 2)))
    height = np.maximum(rows[-1] - np.arange(hu.shape[1]), 0) * spacing_mm[1] if rows.size else np.zeros(hu.shape[1])
    dependent = rng.uniform(*DEPENDENT_HU) * np.exp(-height / rng.uniform(*DEPENDENT_MM))
    nodes = [2 + int(n * mm / UNEVEN_MM) for n, mm in zip(hu.shape, spacing_mm, strict=True)]
    field = ndimage.zoom(rng.uniform(-UNEVEN, UNEVEN, nodes).astype(np.float32), np.divide(hu.shape, nodes), order=1)
    added = rng.uniform(*EXPIRATION_HU) + dependent.astype(np.float32)[:, None] * (1 + field)
    # Density is gained where there is air to lose: none in a vessel.
    return hu + added.astype(np.float32) * np.clip(hu / -1000, 0, 1)


def _noise(shape: tuple[int, ...], spacing_mm: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    grain = rng.uniform(*NOISE_GRAIN_MM)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), [grain / s for s in spacing_mm])
    return noise * np.float32(rng.uniform(*NOISE_HU) / max(float(noise.std()), 1e-6))


def thicken(hu: np.ndarray, slices: float, padded: bool = False) -> np.ndarray:
    """The crop as thick slices brought back to thin ones: averaged over `slices`, and read at every such distance.

    Args:
        padded: slices were repeated, not interpolated.
    """
    if slices <= 1.0:
        return hu
    averaged = ndimage.convolve1d(hu, box_kernel(slices).astype(np.float32), axis=0, mode="nearest")
    centres = np.arange(0.0, hu.shape[0] - 1 + slices, slices)
    place = np.arange(hu.shape[0]) / slices
    lower = np.minimum(place.astype(int), len(centres) - 2)
    share = (place - lower).astype(np.float32)[:, None, None]
    share = np.round(share) if padded else share
    picked = averaged[np.minimum(np.round(centres).astype(int), hu.shape[0] - 1)]
    return (1 - share) * picked[lower] + share * picked[lower + 1]
