"""The chest without its fine structure: body wall, bones, organs and the shape of the lungs, as formulas in mm.

x runs to the patient's left, y to the back, z to the head; every function takes arrays that broadcast together.
Distances are signed, negative inside, and exact enough near their surface to fade it over one voxel.
"""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.phantom.space import Space, cover, paint

AIR, FISSURE, FAT, MUSCLE, BLOOD, LIVER, MARROW, CORTEX = -1000, -400, -100, 50, 42, 58, 180, 700

Point = tuple[float, float, float]
Axis = np.ndarray

LUNG_BOX_MM = ((-135.0, 135.0), (-95.0, 95.0), (-150.0, 125.0))
"""x, y and z ranges that hold both lungs."""


def ellipsoid(x: Axis | float, y: Axis | float, z: Axis | float, centre: Point, radii: Point) -> np.ndarray:
    """Signed distance to an ellipsoid, to first order; an infinite radius makes it a cylinder."""
    terms = [((a - c) / r, r) for a, c, r in zip((x, y, z), centre, radii, strict=True)]
    level = np.sqrt(sum(t**2 for t, _ in terms))
    slope = np.sqrt(sum((t / r) ** 2 for t, r in terms))
    return level * (level - 1) / np.maximum(slope, 1e-6)


def both(a: np.ndarray, b: np.ndarray, rounding: float = 0.0) -> np.ndarray:
    """What lies inside both shapes; the edge where they meet is rounded over `rounding` mm."""
    if not rounding:
        return np.maximum(a, b)
    return np.maximum(a, b) + np.maximum(rounding - np.abs(a - b), 0) ** 2 / (4 * rounding)


def cavity_distance(x: Axis, y: Axis, z: Axis) -> np.ndarray:
    """The space inside the ribs, with the lungs, the mediastinum and the upper abdomen."""
    blunt = _blunted(z, -70, 205)
    return ellipsoid(x, y, blunt, (0, 2, 0), (134, 93, 205))


def lung_distance(x: Axis, y: Axis, z: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances to the right and the left lung.

    The heart lies in the left one's way and the right dome of the diaphragm is the higher one, so that the
    right lung is larger and a mirrored scan can be told from a straight one.
    """
    spine = ellipsoid(x, y, 0, (0, 72, 0), (27, 30, np.inf))
    width = 27 + 16 * np.exp(-(((z - 2) / 34) ** 2))
    middle = np.maximum(1 - ((y - 10) / 80) ** 2, 0.01) ** 0.6 * width
    below_heart = np.clip(-58 - z, 0, 44) * np.clip((30 - y) / 20, 0, 1)
    septum = np.maximum(middle, 4 + below_heart) - np.abs(x - 4)
    outside = both(cavity_distance(x, y, z), np.maximum(-spine, septum), 8)
    heart = -_heart(x, y, z)
    blunt = _blunted(z, -75, 200)
    right = both(ellipsoid(x, y, blunt, (-66, 4, 0), (80, 106, 200)), both(-right_dome(x, y, z), heart, 30), 5)
    left = both(ellipsoid(x, y, blunt, (66, 4, 0), (80, 106, 197)), both(-left_dome(x, y, z), heart, 30), 5)
    return np.maximum(both(outside, right, 6), x - 4), np.maximum(both(outside, left, 6), 4 - x)


def random_lung_points(count: int, rng: np.random.Generator, lung: int | None = None) -> np.ndarray:
    """About `count` points (n, 3), evenly spread over both lungs, or over the right (0) or left (1) one."""
    low, high = np.array(LUNG_BOX_MM).T
    points = rng.uniform(low, high, (12 * count, 3))
    distances = lung_distance(*points.T)
    inside = np.minimum(*distances) if lung is None else distances[lung]
    return points[inside < 0][:count]


def lobe_distances(x: Axis, y: Axis, z: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances to the right oblique, the horizontal and the left oblique fissure.

    An oblique fissure is positive above it, in the upper (and middle) lobe; the horizontal one is positive above it.
    """
    wave = 5 * np.sin(x / 19) + 4 * np.cos(y / 23 + x / 41)
    right = (z - 1.05 * y + 14 + wave) / 1.45
    horizontal = z + 4 + 0.5 * wave - 0.004 * (x + 70) ** 2
    left = (z - 1.0 * y + 4 - wave) / 1.41
    return right, horizontal, left


def lobe_of(points: np.ndarray) -> np.ndarray:
    """The lobe of each point (n, 3): right lower 0, middle 1, upper 2; left lower 3, upper 4."""
    right, horizontal, left = lobe_distances(*points.T)
    in_right = np.where(right < 0, 0, np.where(horizontal < 0, 1, 2))
    return np.where(points[:, 0] < 0, in_right, np.where(left < 0, 3, 4))


def right_dome(x: Axis, y: Axis, z: Axis) -> np.ndarray:
    """The right half of the diaphragm; the liver fills it."""
    return ellipsoid(x, y, z, (-62, -8, -175), (98, 98, 105))


def left_dome(x: Axis, y: Axis, z: Axis) -> np.ndarray:
    """The left half of the diaphragm, over stomach and spleen."""
    return ellipsoid(x, y, z, (64, -8, -180), (94, 96, 98))


def fissure_share(x: Axis, y: Axis, z: Axis, width: float) -> np.ndarray:
    """How much of each voxel the fissures fill: sheets of 0.4 mm, fainter in larger voxels."""
    right, horizontal, left = lobe_distances(x, y, z)
    horizontal = np.where(right > 0, np.abs(horizontal), np.inf)
    sheet = np.where(x < 0, np.minimum(np.abs(right), horizontal), np.abs(left))
    return np.clip(1 - sheet / max(width, 1.0), 0, 1) * np.float32(min(0.4 / width, 0.4))


def torso(space: Space, slices: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything around the lungs, for some of the slices.

    Returns:
        HU, share of the right lung and share of the left lung in each voxel, all (k, j, i) float32.
    """
    x, y, z = space.axes((slices, slice(None), slice(None)))
    h = space.voxel_mm
    body = _body(x, y)
    cavity = cavity_distance(x, y, z)
    hu = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), AIR, np.float32)
    _table(hu, x, y, h)
    paint(hu, cover(body, h), -20)  # skin
    paint(hu, cover(body + 2, h), FAT)
    fat = 9 + 3 * np.sin(np.arctan2(y, x) * 3) + 5 * np.exp(-((x / 60) ** 2)) * (y > 0)
    paint(hu, cover(body + fat, h), MUSCLE)
    _muscle_planes(hu, x, y, body, h)
    paint(hu, cover(cavity, h), FAT)
    paint(hu, cover(_heart(x, y, z) + 3, h), BLOOD)
    _abdomen(hu, x, y, z, h)
    _ribs(hu, x, y, z, cavity, h)
    _spine_and_sternum(hu, x, y, z, cavity, h)
    right, left = lung_distance(x, y, z)
    return hu, cover(right, h), cover(left, h)


def _body(x: Axis, y: Axis) -> np.ndarray:
    """The skin: an ellipse blunted to a back that lies flat."""
    return ((np.abs(x) / 165) ** 2.5 + (np.abs(y) / 112) ** 2.5) ** 0.4 * 118 - 118


def _blunted(z: Axis, centre: float, radius: float) -> np.ndarray:
    """z about `centre`, warped so that an ellipsoid of that radius ends less pointed."""
    t = (z - centre) / radius
    return np.sign(t) * np.abs(t) ** 1.6 * radius


def _heart(x: Axis, y: Axis, z: Axis) -> np.ndarray:
    left = ellipsoid(x + 0.3 * z, y + 0.15 * z, z, (34, -30, -56), (50, 46, 54))
    right = ellipsoid(x, y, z, (-8, -24, -42), (38, 46, 58))
    return np.minimum(left, right)


def _table(hu: np.ndarray, x: Axis, y: Axis, h: float) -> None:
    curve = y - 112 - 7 * np.cos(x / 90)
    within = cover(np.abs(x) - 190, h)
    paint(hu, cover(np.abs(curve - 12) - 11, h) * within, -930)  # foam
    paint(hu, cover(np.abs(curve - 12) - 11, h) * cover(9.5 - np.abs(curve - 12), h) * within, -300)  # shells


def _muscle_planes(hu: np.ndarray, x: Axis, y: Axis, body: np.ndarray, h: float) -> None:
    """Thin fat between the muscles of the wall, so that it is not one slab."""
    plane = np.abs(body + 19 + 3 * np.sin(x / 17) + 2 * np.cos(y / 11)) - 1.0
    paint(hu, 0.8 * cover(plane, 2 * h), FAT)


def _abdomen(hu: np.ndarray, x: Axis, y: Axis, z: Axis, h: float) -> None:
    """Liver under the right dome; a stomach full of gas, which a lung finder must not take, and the spleen."""
    if z.min() > 0:
        return
    inside = cover(cavity_distance(x, y, z) + 4, h)
    paint(hu, cover(right_dome(x, y, z), h) * inside, LIVER)
    paint(hu, cover(ellipsoid(x, y, z, (10, -25, -150), (60, 45, 52)), h) * inside, LIVER)
    dome = left_dome(x, y, z)
    paint(hu, cover(dome, h) * cover(-dome - 3, h) * inside, MUSCLE)
    paint(hu, cover(ellipsoid(x, y, z, (74, 46, -122), (38, 36, 40)), h) * inside, 50)
    stomach = ellipsoid(x, y, z, (66, -24, -127), (44, 42, 38))
    paint(hu, cover(stomach, h) * inside, 40)
    paint(hu, cover(stomach + 4, h) * inside, 12)  # what it holds settles at the back
    paint(hu, cover(both(stomach + 4, y + 12), h) * inside, AIR)


def _ribs(hu: np.ndarray, x: Axis, y: Axis, z: Axis, cavity: np.ndarray, h: float) -> None:
    """Sloping hoops in the wall, higher at the back; in front they go over into cartilage."""
    pitch = 27.0
    height = z - 0.5 * y - 6 * np.cos(x / 40)
    along = height - pitch * np.round(height / pitch)
    level = np.sqrt(((cavity - 6.5) / 4.2) ** 2 + (along / 7.5) ** 2)
    distance = (level - 1) * 4.2
    front = cover(y + 58, 8)
    gap = cover(26 - np.abs(x), h) * cover(z - 118, h)
    paint(hu, cover(distance, h) * gap, CORTEX + front * (110 - CORTEX))
    paint(hu, cover(distance + 1.4, h) * gap, MARROW + front * (90 - MARROW))


def _spine_and_sternum(hu: np.ndarray, x: Axis, y: Axis, z: Axis, cavity: np.ndarray, h: float) -> None:
    body = ellipsoid(x, y, 0, (0, 64, 0), (18, 15, np.inf))
    disc = cover(2.5 - np.abs(z - 24 * np.round(z / 24)), h)
    arch = np.minimum(
        ellipsoid(x, y, 0, (0, 86, 0), (15, 12, np.inf)),
        np.minimum(
            ellipsoid(np.abs(x), y, 0, (24, 84, 0), (16, 5, np.inf)),
            ellipsoid(x, y, 0, (0, 98, 0), (4, 12, np.inf)),
        ),
    )
    paint(hu, cover(arch, h) * (1 - 0.8 * cover(np.abs(z - 24 * np.round(z / 24)) - 5, 4)), 450)
    paint(hu, cover(body, h), np.where(disc > 0.5, CORTEX - 150, 80).astype(np.float32))
    paint(hu, cover(body + 1.6, h) * disc, MARROW)
    paint(hu, cover(ellipsoid(x, y, 0, (0, 86, 0), (9, 8, np.inf)), h), 30)  # canal
    sternum = np.maximum(np.sqrt((x / 19) ** 2 + ((cavity - 5) / 6) ** 2) * 6 - 6, np.maximum(y + 40, -z - 62))
    paint(hu, cover(sternum, h), 400)
    paint(hu, cover(sternum + 1.5, h), 150)
