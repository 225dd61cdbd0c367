"""Tubes: how trees of airways and vessels grow into a lung, and how tubes are drawn without jagged edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LabelFreeCovidSegLib.phantom.space import Space

ADVANCE = 0.42
"""Share of the way to the middle of what it supplies that a branch runs before it forks."""


@dataclass(frozen=True, eq=False)
class Tubes:
    """Curved, tapered tubes, one a row: quadratic Bézier points (n, 3) x, y, z and radii (n,), in mm."""

    start: np.ndarray
    bend: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    end_radius: np.ndarray

    @classmethod
    def along(cls, *points: tuple[float, float, float, float]) -> Tubes:
        """One tube through points (x, y, z, radius)."""
        path = np.array(points)
        a, b = path[:-1], path[1:]
        return cls(a[:, :3], (a[:, :3] + b[:, :3]) / 2, b[:, :3], a[:, 3], b[:, 3])

    @classmethod
    def joined(cls, parts: list[Tubes]) -> Tubes:
        """All tubes of `parts`."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def wider_than(self, radius_mm: float) -> Tubes:
        """The tubes that begin at least that wide."""
        keep = self.radius >= radius_mm
        return Tubes(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def swollen(self, by_mm: np.ndarray) -> Tubes:
        """The same paths, each thicker by its value: a lumen becomes the outside of its wall."""
        return Tubes(self.start, self.bend, self.end, self.radius + by_mm, self.end_radius + by_mm)

    def samples(self, step_mm: float) -> np.ndarray:
        """Points (n, 4) x, y, z, radius along all tubes, close enough that balls around them make up the tubes."""
        length = np.linalg.norm(self.end - self.start, axis=1) * 1.1
        count = np.ceil(length / np.maximum(step_mm, 0.3 * self.end_radius)).astype(int) + 1
        row = np.repeat(np.arange(len(count)), count)
        t = ((np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)) / (count - 1)[row])[:, None]
        centre = (1 - t) ** 2 * self.start[row] + 2 * t * (1 - t) * self.bend[row] + t**2 * self.end[row]
        radius = self.radius[row] + t[:, 0] * (self.end_radius - self.radius)[row]
        return np.column_stack([centre, radius])


def grow(
    roots: np.ndarray, root_radius: np.ndarray, seeds: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> Tubes:
    """Forking trees that reach every seed point: each branch heads for the middle of its seeds, then halves them.

    The halves lie on both sides of that middle along the direction in which they spread most. Radii follow Murray's
    law: the cube of a branch's radius is proportional to the number of seeds it supplies.

    Args:
        roots: (trees, 3) where the trees begin.
        root_radius: (trees,) in mm.
        seeds: (n, 3) end points.
        group: (n,) the tree of each seed; every tree has at least one.
    """
    start, radius, heading = roots, root_radius, np.zeros_like(roots)
    generations = []
    while len(seeds):
        count = np.bincount(group)
        middle = _group_mean(seeds, group, count)
        reach = np.where(count > 1, ADVANCE, 0.9)[:, None]
        end = start + reach * (middle - start)
        length = np.linalg.norm(end - start, axis=1, keepdims=True)
        bend = (start + end) / 2 + 0.12 * length * heading
        heading = (end - bend) / np.maximum(np.linalg.norm(end - bend, axis=1, keepdims=True), 1e-6)
        generations.append(Tubes(start, bend, end, radius, 0.9 * radius))
        # A turned frame for every generation keeps the forks from lining up with the axes.
        turned = (seeds - middle[group]) @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
        axis = _group_mean(turned**2, group, count).argmax(axis=1)
        side = turned[np.arange(len(seeds)), axis[group]] > 0
        forks = count[group] > 1
        seeds, parent_of_seed, child = seeds[forks], group[forks], (2 * group + side)[forks]
        children, first, group = np.unique(child, return_index=True, return_inverse=True)
        parent = parent_of_seed[first] if len(children) else np.empty(0, int)
        radius = radius[parent] * (np.bincount(group) / count[parent]) ** (1 / 3) if len(children) else radius[:0]
        start, heading = end[parent], heading[parent]
    return Tubes.joined(generations)


def draw(tubes: Tubes, space: Space) -> np.ndarray:
    """Share of each voxel inside any of the tubes, (k, j, i) float32.

    A tube thinner than a voxel is drawn one voxel wide and fainter, so that its mass is kept.
    """
    h = space.voxel_mm
    points = tubes.samples(0.7 * h)
    radius = np.maximum(points[:, 3], h / 2)
    strength = (points[:, 3] / radius) ** 2
    at = ((points[:, :3] - space.first_mm)[:, ::-1] / space.spacing_mm).astype(np.float32)
    half = np.floor((radius + h / 2)[:, None] / space.spacing_mm + 0.5).astype(int)  # from the nearest voxel
    near = ((at > -half - 1) & (at < np.array(space.shape) + half)).all(axis=1)
    share = np.zeros(space.shape, np.float32)
    sizes, of_size = np.unique(half @ (1, 1_000, 1_000_000), return_inverse=True)
    for number in range(len(sizes)):
        chosen = np.flatnonzero(near & (of_size == number))
        if not len(chosen):
            continue
        size = half[chosen[0]]
        offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in size), indexing="ij"), -1).reshape(-1, 3)
        for part in np.array_split(chosen, len(chosen) * len(offsets) // 2_000_000 + 1):
            _stamp(share, at[part], radius[part], strength[part], offsets, space)
    return share


def _stamp(
    share: np.ndarray, at: np.ndarray, radius: np.ndarray, strength: np.ndarray, offsets: np.ndarray, space: Space
) -> None:
    """Draw balls of about one size at voxel positions `at` (n, 3) into `share`, where they are more than it has."""
    h = np.float32(space.voxel_mm)
    base = np.rint(at).astype(np.int32)
    squared = np.zeros((len(at), len(offsets)), np.float32)
    index = np.zeros((len(at), len(offsets)), np.int64)
    inside = np.ones((len(at), len(offsets)), bool)
    for axis in range(3):
        voxel = base[:, axis, None] + offsets[None, :, axis]
        squared += ((voxel - at[:, axis, None]) * np.float32(space.spacing_mm[axis])) ** 2
        index = index * space.shape[axis] + voxel
        inside &= (voxel >= 0) & (voxel < space.shape[axis])
    inside &= squared < ((radius + h / 2) ** 2)[:, None]
    row = np.nonzero(inside)[0]
    depth = radius[row].astype(np.float32) - np.sqrt(squared[inside])
    value = np.clip(depth / h + np.float32(0.5), 0, 1) * strength[row].astype(np.float32)
    np.maximum.at(share.reshape(-1), index[inside], value)


def _group_mean(values: np.ndarray, group: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, column) for column in values.T], axis=1) / count[:, None]
