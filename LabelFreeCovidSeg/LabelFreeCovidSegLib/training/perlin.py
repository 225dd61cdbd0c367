"""Perlin noise in some slices of healthy lungs: what the generator of `gan3d` learns to take away again.

Perlin: Improving noise. ACM Transactions on Graphics 21 (2002) 681-682. How much of it, and in how many slices, is what
the released program of Shabani et al. does (see `networks.dense_unet3d`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Span = tuple[float, float]
TABLE = 256
"""Gradients repeat after so many lattice points."""


@dataclass(frozen=True)
class Perlin:
    """Ranges of what is drawn for each slice.

    Attributes:
        share: of the slices that get noise: 8 of 32.
        wavelength: distance of the coarsest lattice's points in widths of the picture: 10 to 30 pixels of 128.
        octaves: lattices, each half as wide as the one before.
        persistence: amplitude of each octave in that of the one before; below 0 its sign alternates.
    """

    share: float = 0.25
    wavelength: Span = (10 / 128, 30 / 128)
    octaves: int = 10
    persistence: Span = (-0.5, 0.49)


PAPER = Perlin()


def blotched(image: np.ndarray, lung: np.ndarray, rng: np.random.Generator, perlin: Perlin = PAPER) -> np.ndarray:
    """Lungs with noise in some slices that hold lung; as it was outside the lungs.

    The released program adds it to the whole slice and beyond [0, 1]; but only in the lungs is there anything to mend.

    Args:
        image: (k, j, i) float32 in [0, 1]. lung: (k, j, i) bool.
    """
    filled = np.flatnonzero(lung.any(axis=(1, 2)))
    count = min(round(perlin.share * len(image)), len(filled))
    noisy = image.copy()
    for k in rng.choice(filled, count, replace=False):
        wavelength = rng.uniform(*perlin.wavelength) * image.shape[2]
        persistence = rng.uniform(*perlin.persistence)
        noise = noise_plane(image.shape[1:], wavelength, perlin.octaves, persistence, rng)
        noisy[k] = np.clip(image[k] + noise * lung[k], 0.0, 1.0)
    return noisy


def noise_plane(
    shape: tuple[int, ...], wavelength: float, octaves: int, persistence: float, rng: np.random.Generator
) -> np.ndarray:
    """A plane (j, i) float32 of Perlin noise; one octave lies in [-1, 1].

    Octaves are divided by the sum of their amplitudes, signs and all: with a persistence of -0.5 the noise is half as
    strong again.

    Args:
        shape: extents (j, i). wavelength: in pixels.
    """
    table = rng.permutation(TABLE)
    angles = rng.uniform(0.0, 2.0 * np.pi, TABLE)
    # The noise of gradients of length 1 is at most the square root of one half.
    gradients = np.sqrt(2.0) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    amplitudes = persistence ** np.arange(octaves)
    total = np.zeros(shape)
    for octave, amplitude in enumerate(amplitudes):
        if amplitude:
            j, i = (np.arange(n) * 2**octave / wavelength for n in shape)
            total += amplitude * lattice_noise(j, i, table, gradients)
    return (total / amplitudes.sum()).astype(np.float32)


def lattice_noise(j: np.ndarray, i: np.ndarray, table: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """One octave at every pair of coordinates, (len(j), len(i)); 0 at whole numbers.

    Args:
        j, i: coordinates in lattice points, not below 0.
        table: a permutation of 0 to 255. gradients: (256, 2), of each entry of the table.
    """
    low_j, low_i = np.floor(j).astype(int), np.floor(i).astype(int)
    part_j, part_i = (j - low_j)[:, None], (i - low_i)[None]

    def corner(up: int, right: int) -> np.ndarray:
        """The dot product of the gradient at a cell's corner and the way from there."""
        row = table[(low_j + up) % TABLE]
        slope = gradients[table[(row[:, None] + low_i + right) % TABLE]]
        return slope[..., 0] * (part_j - up) + slope[..., 1] * (part_i - right)

    share_j, share_i = _fade(part_j), _fade(part_i)
    lower = corner(0, 0) + share_i * (corner(0, 1) - corner(0, 0))
    upper = corner(1, 0) + share_i * (corner(1, 1) - corner(1, 0))
    return lower + share_j * (upper - lower)


def _fade(t: np.ndarray) -> np.ndarray:
    """From 0 to 1 with slope and curvature 0 at both ends."""
    return t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
