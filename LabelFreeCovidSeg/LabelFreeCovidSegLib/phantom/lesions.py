"""COVID-19-like lesions with a known outline: soft unions of balls, filled with 1/f noise.

Nothing here is shared with the lesions that networks are trained on (`synthesis.py`): neither shape, nor texture,
nor density. `LESION_MIX` was fixed before any network was trained, and is no knob to turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from LabelFreeCovidSegLib.phantom.anatomy import lung_distance, random_lung_points
from LabelFreeCovidSegLib.phantom.space import Space, cover

GROUND_GLASS, CONSOLIDATION = 1, 2


@dataclass(frozen=True)
class Kind:
    """What a lesion is made of.

    Attributes:
        name: as tables print it.
        label: 1 ground glass, 2 consolidation.
        low_hu, high_hu: the texture spreads evenly between them.
        edge_mm: over this length it fades into the lung, or over half its radius if that is shorter.
    """

    name: str
    label: int
    low_hu: float
    high_hu: float
    edge_mm: float


FAINT = Kind("faint ground glass", GROUND_GLASS, -650, -450, 6.0)
DENSE = Kind("dense ground glass", GROUND_GLASS, -550, -350, 4.0)
SOLID = Kind("consolidation", CONSOLIDATION, -100, 40, 2.0)

RADII_MM = (5.0, 8.0, 12.0, 16.0)


@dataclass(frozen=True)
class Plan:
    """A lesion to plant: what, how large (as a ball of that radius), and whether it is to touch the pleura."""

    kind: Kind
    radius_mm: float
    subpleural: bool


LESION_MIX = tuple(
    Plan(kind, radius, subpleural)
    for radius in reversed(RADII_MM)  # the large ones find room first
    for kind in (FAINT, DENSE, SOLID)
    for subpleural in (True, False)
)


@dataclass(frozen=True)
class Lesion:
    """A planted lesion.

    Attributes:
        kind, radius_mm, subpleural: as planned.
        centre_mm: (x, y, z) in the scan's world, LPS.
        label: its value in the map of instances.
    """

    kind: Kind
    radius_mm: float
    subpleural: bool
    centre_mm: tuple[float, float, float]
    label: int

    @classmethod
    def of(cls, plan: Plan, centre_mm: np.ndarray, label: int) -> Lesion:
        """The lesion that `plan` became."""
        x, y, z = map(float, centre_mm)
        return cls(plan.kind, plan.radius_mm, plan.subpleural, (x, y, z), label)


def place(plans: Iterable[Plan], rng: np.random.Generator) -> list[tuple[Plan, np.ndarray]]:
    """A centre (x, y, z) in the body for each plan, as `arrange` finds them.

    Raises:
        ValueError: the lungs have no room left.
    """
    points = random_lung_points(6000, rng)
    left = list(plans)
    placed = arrange(left, rng, points, -np.minimum(*lung_distance(*points.T)))
    for plan, _ in placed:
        left.remove(plan)
    for plan in left:
        raise ValueError(
            f"no room in the lungs for another {plan.kind.name} of {plan.radius_mm:g} mm: plant fewer or smaller"
        )
    return placed


def arrange(
    plans: Iterable[Plan],
    rng: np.random.Generator,
    points: np.ndarray,
    depth: np.ndarray,
    clear: np.ndarray | float = np.inf,
) -> list[tuple[Plan, np.ndarray]]:
    """A point for each plan: apart from each other, rather basal, posterior and lateral; none where none is left.

    Args:
        points: (n, 3), x, y and z about the middle of the chest, evenly spread over the lungs.
        depth: (n,) mm from the surface of the lung.
        clear: (n,) mm to the nearest slice that must stay as it is.
    """
    x, y, z = points.T
    likely = np.exp(y / 70 - z / 90 + np.abs(x) / 60)
    order = rng.choice(len(points), len(points), replace=False, p=likely / likely.sum())
    points, depth, clear = points[order], depth[order], np.broadcast_to(clear, len(points))[order]
    placed: list[tuple[Plan, np.ndarray]] = []
    for plan in plans:
        r = plan.radius_mm
        fits = (depth > 0.4 * r) & (depth < 0.8 * r) if plan.subpleural else depth > 1.35 * r + 3
        fits &= clear > 1.35 * r + 6
        for other, centre in placed:
            fits &= np.linalg.norm(points - centre, axis=1) > 1.35 * (r + other.radius_mm) + 6
        if fits.any():
            placed.append((plan, points[fits.argmax()]))
    return placed


def infect(
    lung_hu: np.ndarray, instances: np.ndarray, label: int, plan: Plan, centre: np.ndarray, space: Space,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Plant one lesion, in place: its density into `lung_hu`, its `label` into `instances` (both (k, j, i))."""
    box, share, texture = draw_lesion(plan, centre, space, rng)
    target = np.maximum(texture, lung_hu[box])
    lung_hu[box] += share * (target - lung_hu[box])
    instances[box][share > 0.5] = label


def draw_lesion(
    plan: Plan, centre: np.ndarray, space: Space, rng: np.random.Generator
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray]:
    """Where a lesion lies in `space`, its share of each voxel there and the HU it is made of, without noise.

    Its outline is where it has half replaced the lung; without the lung's borders it has the volume of the ball.
    """
    r = plan.radius_mm
    offsets = centre + rng.normal(0, 0.4 * r, (7, 3))
    sizes = rng.uniform(0.25, 0.6, 7) * r
    box = space.box(centre, 2.5 * r)
    x, y, z = space.axes(box)
    near = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
    for (cx, cy, cz), size in zip(offsets, sizes, strict=True):
        near += np.exp((size - np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)) / (0.2 * r)).astype(np.float32)
    distance = -0.2 * r * np.log(np.maximum(near, 1e-30))
    voxels = max(round(4 / 3 * np.pi * r**3 / float(np.prod(space.spacing_mm))), 1)
    if voxels < distance.size:
        distance -= np.partition(distance, voxels, axis=None)[voxels]
    share = cover(distance, min(plan.kind.edge_mm, r / 2))
    grain = special.ndtr(_pink_noise(rng, distance.shape, space.spacing_mm))
    return box, share, plan.kind.low_hu + (plan.kind.high_hu - plan.kind.low_hu) * grain


def _pink_noise(rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Random field with an amplitude spectrum of 1 / f^1.5, zero mean and unit variance."""
    spectrum = np.fft.rfftn(rng.standard_normal(shape))
    k, j, i = (np.fft.fftfreq(n, step) for n, step in zip(shape, spacing_mm, strict=True))
    i = np.abs(i[: spectrum.shape[2]])
    frequency = np.sqrt(k[:, None, None] ** 2 + j[None, :, None] ** 2 + i[None, None, :] ** 2)
    frequency[0, 0, 0] = np.inf
    field = np.fft.irfftn(spectrum * frequency**-1.5, s=shape, axes=(0, 1, 2)).astype(np.float32)
    return field / field.std()
