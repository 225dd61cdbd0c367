"""Another chest out of a healthy one, for a network that is to find lungs in which little air is left.

Nobody outlined anything: the lungs of a healthy scan are easy to find, and stay where they are while their inside is
made ill (`illness`), the body around them is made up (`surroundings`) and the result is scanned again (here).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from LabelFreeCovidSegLib.scan import AIR_HU, bounding_box
from LabelFreeCovidSegLib.training.augment import thicken
from LabelFreeCovidSegLib.training.fields import smooth_noise
from LabelFreeCovidSegLib.training.illness import SEVERE, Chances, fall_ill
from LabelFreeCovidSegLib.training.surroundings import dress, enhance, swallow_air

Span = tuple[float, float]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Chest:
    """A scan and its lungs on a coarse grid.

    Attributes:
        hu: (k, j, i) float32 Hounsfield units, LPS: k to the head, j to the back, i to the patient's left.
        labels: uint8: 0 elsewhere, 1 right lung, 2 left lung.
        known: bool: where the labels may be learned from; a lung with a mass in it is not.
    """

    hu: np.ndarray
    labels: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Body:
    """How far another patient, and the way he lies, differ.

    No chest is mirrored: without contrast agent only its place, on the left, tells the heart from consolidated lung.
    """

    size: Span = (0.8, 1.25)
    turn_degrees: Span = (-8.0, 8.0)
    elastic_mm: Span = (0.0, 5.0)
    elastic_scale_mm: float = 60.0
    """Displacements over a tenth of this and more would fold."""
    shift_mm: tuple[float, float, float] = (45.0, 15.0, 20.0)
    """Largest shift of the lungs' centre from the middle of the sample along (k, j, i)."""


@dataclass(frozen=True)
class FieldOfView:
    """What of the patient is in the scan."""

    cropped: float = 0.15
    """Probability that nothing beyond the source's crop is made up: scans are shared cropped to the lungs."""
    cut: float = 0.35
    """Probability that the scan begins above the bases or ends below the apices (each)."""
    cut_share: Span = (-0.15, 0.4)
    """Of the lungs' height or width; below 0 the scan ends beyond them."""
    circle: float = 0.3
    """Probability that the reconstruction's circle is smaller than the sample."""
    radius_mm: Span = (130.0, 220.0)
    off_mm: float = 20.0
    side: float = 0.1
    """Probability that one side is cut away, lung and all."""


@dataclass(frozen=True)
class Scanner:
    """How the picture is taken; probabilities and ranges."""

    thick: float = 0.5
    thickness_mm: Span = (3.0, 8.0)
    padded: float = 0.2
    noise: float = 0.7
    noise_hu: Span = (0.0, 60.0)
    grain_mm: Span = (0.0, 3.0)
    sharpness: Span = (-0.6, 0.4)
    shift_hu: Span = (-20.0, 20.0)
    clipped: float = 0.25
    floors_hu: tuple[float, ...] = (AIR_HU, -1000.0, -950.0)
    ceilings_hu: tuple[float, ...] = (200.0, 400.0, 600.0, 1500.0)


BODY, VIEW, SCANNER = Body(), FieldOfView(), Scanner()


def vary(
    chest: Chest, shape: tuple[int, int, int], spacing_mm: Spacing, rng: np.random.Generator, chances: Chances = SEVERE
) -> Chest:
    """The same lungs in another body, ill, and scanned otherwise.

    Args:
        shape: extent (k, j, i) of the result.
        spacing_mm: voxel size of `chest` and of the result.
        chances: how ill.

    Raises:
        ValueError: `chest` has no lung.
    """
    chest, aside, past_mm = move(chest, shape, spacing_mm, rng)
    if rng.random() < VIEW.cropped:
        hu = np.where(aside | (past_mm > 0), np.float32(AIR_HU), chest.hu)
    else:
        hu = dress(chest.hu, chest.labels, aside, past_mm, spacing_mm, rng)
        hu = swallow_air(hu, chest.labels, spacing_mm, rng)
    hu = enhance(hu, chest.labels, spacing_mm, rng)
    hu, labels = fall_ill(hu, chest.labels, spacing_mm, rng, chances)
    chest = frame(replace(chest, hu=hu, labels=labels), spacing_mm, rng)
    return replace(chest, hu=rescan(chest.hu, spacing_mm, rng))


def move(
    chest: Chest, shape: tuple[int, int, int], spacing_mm: Spacing, rng: np.random.Generator
) -> tuple[Chest, np.ndarray, np.ndarray]:
    """The chest scaled, turned and bent, somewhere near the middle of an array of `shape`.

    Beyond the source its outermost voxels are repeated, without their labels.

    Returns:
        The chest, where it lies beyond the source's sides (bool), and by how much beyond its ends (mm, 0 within).
    """
    place = _places(chest.labels, shape, spacing_mm, rng)
    # Beyond the outer faces of the source's outermost voxels.
    k, j, i = (np.maximum(np.abs(p - (n - 1) / 2) - n / 2, 0) for p, n in zip(place, chest.hu.shape, strict=True))
    past_mm, aside = k * spacing_mm[0], (j > 0) | (i > 0)
    nearest = tuple(np.clip(np.rint(p), 0, n - 1).astype(np.intp) for p, n in zip(place, chest.hu.shape, strict=True))
    coded = (chest.labels + 4 * chest.known.astype(np.uint8))[nearest]
    # A lung that the scan cuts off goes on beyond it, nobody knows how far.
    known = (coded >= 4) & ~((past_mm > 0) & (coded % 4 > 0))
    labels = np.where(aside | (past_mm > 0), 0, coded % 4).astype(np.uint8)
    hu = ndimage.map_coordinates(chest.hu, place, order=1, mode="nearest", prefilter=False)
    return Chest(hu, labels, known), aside, past_mm


def _places(
    labels: np.ndarray, shape: tuple[int, int, int], spacing_mm: Spacing, rng: np.random.Generator
) -> np.ndarray:
    """Where in the source each voxel of the result comes from: (3, *shape) float32, in the source's voxels."""
    mm = np.array(spacing_mm)
    box = bounding_box(labels > 0)
    source = np.array([(axis.start + axis.stop - 1) / 2 for axis in box]) * mm
    middle = (np.array(shape) - 1) / 2 * mm + rng.uniform(-1, 1, 3) * np.array(BODY.shift_mm)
    turn = Rotation.from_euler("xyz", rng.uniform(*BODY.turn_degrees, 3), degrees=True).as_matrix()
    matrix = (turn / np.exp(rng.uniform(math.log(BODY.size[0]), math.log(BODY.size[1]), 3))).astype(np.float32)
    amplitude = rng.uniform(*BODY.elastic_mm)
    place = np.empty((3, *shape), np.float32)
    for axis in range(3):
        k, j, i = (matrix[axis, a] * (np.arange(shape[a]) * mm[a] - middle[a]).astype(np.float32) for a in range(3))
        bend = amplitude * smooth_noise(shape, spacing_mm, BODY.elastic_scale_mm, rng)
        place[axis] = (float(source[axis]) + k[:, None, None] + j[:, None] + i + bend) / float(mm[axis])
    return place


def frame(chest: Chest, spacing_mm: Spacing, rng: np.random.Generator) -> Chest:
    """The chest seen through a field of view: air without labels where the scan does not reach."""
    hidden = np.zeros(chest.hu.shape, bool)
    if chest.labels.any():
        k, _, i = bounding_box(chest.labels > 0)
        if rng.random() < VIEW.cut:
            hidden[: _within(k, rng.uniform(*VIEW.cut_share))] = True
        if rng.random() < VIEW.cut:
            hidden[_within(k, 1 - rng.uniform(*VIEW.cut_share)) :] = True
        if rng.random() < VIEW.side:
            share = rng.uniform(*VIEW.cut_share)
            right = rng.random() < 0.5
            hidden[:, :, slice(0, _within(i, share)) if right else slice(_within(i, 1 - share), None)] = True
    if rng.random() < VIEW.circle:
        _, y, x = (
            (np.arange(n) - (n - 1) / 2) * mm - rng.uniform(-VIEW.off_mm, VIEW.off_mm)
            for n, mm in zip(chest.hu.shape, spacing_mm, strict=True)
        )
        hidden |= y[:, None] ** 2 + x**2 > rng.uniform(*VIEW.radius_mm) ** 2
    return replace(
        chest, hu=np.where(hidden, np.float32(AIR_HU), chest.hu), labels=np.where(hidden, np.uint8(0), chest.labels)
    )


def _within(axis: slice, share: float) -> int:
    return max(round(axis.start + share * (axis.stop - axis.start)), 0)


def rescan(hu: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> np.ndarray:
    """The same chest with other slices, another kernel, noise, calibration and range of numbers."""
    empty = hu <= AIR_HU
    in_plane = [0.0, 2.0 / spacing_mm[1], 2.0 / spacing_mm[2]]
    hu = hu + np.float32(rng.uniform(*SCANNER.sharpness)) * (hu - ndimage.gaussian_filter(hu, in_plane, truncate=2.0))
    if rng.random() < SCANNER.noise:
        hu = hu + _noise(hu.shape, spacing_mm, rng)
    if rng.random() < SCANNER.thick:
        hu = thicken(hu, rng.uniform(*SCANNER.thickness_mm) / spacing_mm[0], rng.random() < SCANNER.padded)
    hu = hu + np.float32(rng.uniform(*SCANNER.shift_hu))
    hu[empty] = AIR_HU
    if rng.random() < SCANNER.clipped:
        hu = np.clip(hu, float(rng.choice(SCANNER.floors_hu)), float(rng.choice(SCANNER.ceilings_hu)))
    return np.maximum(hu, AIR_HU).astype(np.float32)


def _noise(shape: tuple[int, ...], spacing_mm: Spacing, rng: np.random.Generator) -> np.ndarray:
    grain = rng.uniform(*SCANNER.grain_mm)
    noise = ndimage.gaussian_filter(
        rng.standard_normal(shape, dtype=np.float32), [grain / mm for mm in spacing_mm], truncate=2.0
    )
    return noise * np.float32(rng.uniform(*SCANNER.noise_hu) / max(float(noise[::4, ::4, ::4].std()), 1e-6))
