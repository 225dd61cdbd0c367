"""The phantom's lesions in a real scan: known outlines among a patient's own vessels, noise and artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.phantom.lesions import FAINT, LESION_MIX, Lesion, Plan, arrange, draw_lesion
from LabelFreeCovidSegLib.phantom.space import Space
from LabelFreeCovidSegLib.scan import Grid, Scan, bounding_box

TWICE = tuple(plan for plan in sorted(LESION_MIX, key=lambda plan: plan.kind is FAINT) for _ in range(2))
"""What is planted in one go, as far as there is room: large lesions first, and faint ones last."""

SITES, SITE_MM = 20_000, 2.0
"""So many places in the lungs are tried, on a grid of about this size."""
THIN_MM = 1.25
"""A thicker slice is the mean of thinner ones of about this thickness, as in a scanner."""
SMOOTH_MM = 2.5
"""Noise is what a Gaussian of this standard deviation takes away within a slice."""
NOISE_LIMIT = 2.5
"""In standard deviations; beyond lie vessels and their rims, which are no noise."""
GAS_HU = -700.0
"""A voxel at the lung's border that is denser than this is shared with the chest wall; a lighter one is an airway."""


@dataclass(frozen=True, eq=False)
class Infected:
    """A real scan with planted lesions. All arrays are (k, j, i) on the scan's grid.

    Attributes:
        scan: the CT with the lesions in it.
        lungs: uint8, 1 right, 2 left, as given.
        lesions: uint8, 1 ground glass, 2 consolidation.
        instances: uint8, the `label` of the lesion in `planted` that a voxel belongs to.
        planted: the lesions.
    """

    scan: Scan
    lungs: np.ndarray
    lesions: np.ndarray
    instances: np.ndarray
    planted: tuple[Lesion, ...]


def plant(scan: Scan, lungs: np.ndarray, free: np.ndarray, seed: int, plans: Sequence[Plan] = TWICE) -> Infected:
    """Plant those of `plans` that find room. The same arguments plant the same lesions.

    Nothing gets darker, so vessels stay what they are, and the scan's own noise goes on inside the lesions.

    Args:
        lungs: (k, j, i) uint8, 1 right, 2 left: where lesions may come.
        free: (k,) bool, slices that may be changed.
    """
    of_places, of_lesions = (np.random.default_rng([seed, part]) for part in range(2))
    spacing = scan.grid.spacing_mm
    box = bounding_box(lungs > 0, (1, 1, 1))
    space, labels, healthy = Space(lungs[box].shape, spacing), lungs[box], scan.hu[box]
    clear = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing[0])[1:-1][box[0]]
    placed = arrange(plans, of_places, *_sites(labels, space, clear, of_places))
    instances = np.zeros(lungs.shape, np.uint8)
    hu = scan.hu.copy()
    for label, (plan, centre) in enumerate(placed, 1):
        _infect(hu[box], instances[box], label, plan, centre, healthy, labels, space, of_lesions)
    first = np.array([axis.start for axis in box[::-1]]) * scan.grid.spacing - space.first_mm
    planted = tuple(
        Lesion.of(plan, _world(scan.grid, centre + first), label)
        for label, (plan, centre) in enumerate(placed, 1)
        if (instances == label).any()  # a small one may fall between two thick slices
    )
    classes = np.array([0, *(plan.kind.label for plan, _ in placed)], np.uint8)[instances]
    return Infected(replace(scan, hu=hu), lungs, classes, instances, planted)


def _sites(
    labels: np.ndarray, space: Space, clear: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 3) in the lungs, their depth and their distance from slices that must stay as they are."""
    every = tuple(slice(None, None, max(round(SITE_MM / mm), 1)) for mm in space.spacing_mm)
    coarse = labels[every]
    step = [part.step * mm for part, mm in zip(every, space.spacing_mm, strict=True)]
    depth = sum(ndimage.distance_transform_edt(coarse == side, sampling=step) for side in np.unique(coarse) if side)
    inside = np.flatnonzero(coarse)
    k, j, i = np.unravel_index(rng.choice(inside, min(SITES, inside.size), replace=False), coarse.shape)
    x, y, z = (axis.ravel() for axis in space.axes(every))
    return np.stack([x[i], y[j], z[k]], axis=1), depth[k, j, i], clear[every[0]][k]


def _infect(
    hu: np.ndarray, instances: np.ndarray, label: int, plan: Plan, centre: np.ndarray, healthy: np.ndarray,
    lungs: np.ndarray, space: Space, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Plant one lesion, in place, into `hu` and `instances`; `healthy` is `hu` as it was. All (k, j, i)."""
    times = max(round(space.spacing_mm[0] / THIN_MM), 1)
    thin = Space((space.shape[0] * times, *space.shape[1:]), (space.spacing_mm[0] / times, *space.spacing_mm[1:]))
    (rows, *plane), shares, textures = draw_lesion(plan, centre, thin, rng)
    box = (slice(rows.start // times, -(-rows.stop // times)), *plane)
    i, j, k = np.round((centre - space.first_mm) / space.spacing_mm[::-1]).astype(int)
    lung = lungs[box] == lungs[k, j, i]
    noise = _noise(healthy[box], lung, space.spacing_mm)
    cover, gain = np.zeros(lung.shape, np.float32), np.zeros(lung.shape, np.float32)
    for row, share, texture in zip(range(rows.start, rows.stop), shares, textures, strict=True):
        n = row // times - box[0].start
        cover[n] += share / times
        gain[n] += share / times * np.maximum(texture + noise[n] - healthy[box][n], 0)
    shared = ndimage.binary_dilation(lung, np.ones((1, 3, 3))) & (lungs[box] == 0) & (healthy[box] > GAS_HU)
    hu[box] += gain * (lung | shared)
    instances[box][lung & (cover > 0.5)] = label


def _noise(hu: np.ndarray, lung: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The noise of a piece of lung in HU, 0 elsewhere: what smoothing within the slices takes away."""
    sigma = (0, SMOOTH_MM / spacing[1], SMOOTH_MM / spacing[2])
    weight = ndimage.gaussian_filter(lung.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(lung, hu, 0), sigma) / np.maximum(weight, 1e-6)
    rest = np.where(lung, hu - smooth, 0)
    limit = NOISE_LIMIT * 1.4826 * np.median(np.abs(rest[lung]))  # of a Gaussian, by its median deviation
    return np.clip(rest, -limit, limit)


def _world(grid: Grid, along_mm: np.ndarray) -> np.ndarray:
    """The point `along_mm` (x, y, z) from the first voxel, in the world."""
    return np.array(grid.origin) + np.reshape(grid.direction, (3, 3)) @ along_mm
