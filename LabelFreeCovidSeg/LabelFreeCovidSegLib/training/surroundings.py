"""The body around the lungs, as far as it is not in a scan that was cropped to them: fat, muscle, arms, table, bowel.

All of it is made so that a network learns what is no lung: air outside, gas in the bowel, blood with contrast agent.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.scan import bounding_box
from LabelFreeCovidSegLib.training.fields import sigmoid, smooth_noise, widen

Span = tuple[float, float]
Spacing = tuple[float, float, float]

COARSE_MM = 7.5
"""Outlines of a body need no finer grid."""
ROUNDING_MM = 1.0
"""Rounding the outline lets distances from the body begin this early, within it."""
GAS_HU, ROOM_HU, FAT_HU, SKIN_HU, MUSCLE_HU, BONE_HU = -980.0, -1000.0, -100.0, 10.0, 50.0, 400.0
SKIN_MM = 3.0
NO_TISSUE_HU = -400.0
BLEND_MM = 8.0
"""Over this length the crop's outermost voxels pass into made-up tissue: streaks of repeated voxels would show."""
TRUNK_MM: Span = (4.0, 60.0)
"""Thickness of what lies outside the crop, from cachectic to obese."""
TABLE, ARMS = 0.6, 0.3
"""Probabilities: of a table in the field of view, of arms beside the body (patients who cannot raise them)."""
STOMACH, COLON = 0.5, 0.4
CONTRAST, WASHED = 0.4, 0.3
"""Probabilities: that blood is made brighter, and that its contrast agent is taken away."""
PLAIN_BLOOD_HU = 45.0
CONTRAST_HU: Span = (30.0, 250.0)
BLOOD_HU: Span = (0.0, 120.0)
DOME_MM = 80.0
"""Height of the diaphragm's dome over the lung's lowest point."""
AWAY_MM = 7.0
"""Bowel gas keeps this distance to the lungs: diaphragm and wall."""


def dress(
    hu: np.ndarray, labels: np.ndarray, aside: np.ndarray, past_mm: np.ndarray, spacing_mm: Spacing,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """A trunk around the crop, the room around the trunk.

    Args:
        hu: (k, j, i) float32; beyond the crop its outermost voxels repeated.
        labels: uint8, 0 outside the lungs.
        aside: bool, beyond the crop's sides.
        past_mm: float32, how far beyond its ends; 0 within.
    """
    outward = _outward(hu, labels, aside, spacing_mm)
    fat = smooth_noise(hu.shape, spacing_mm, 25.0, rng)
    muscle = rng.uniform(0, 15)
    tissue = FAT_HU + (MUSCLE_HU - FAT_HU) * sigmoid(4 * fat + (muscle - outward))
    # Lung that the crop's end cuts through, and air around the body, are not repeated.
    flesh = np.where((hu < -200) & (aside | (past_mm > 0) | (outward > 0)) & (labels == 0), tissue, hu)
    share = np.clip((outward + past_mm) / BLEND_MM, 0, 1)
    flesh = flesh + share * (tissue - flesh)
    bumps = np.exp(0.25 * smooth_noise(hu.shape, spacing_mm, 120.0, rng))
    depth = math.exp(rng.uniform(math.log(TRUNK_MM[0]), math.log(TRUNK_MM[1]))) * bumps - outward
    flesh = np.where((depth < SKIN_MM) & (outward > SKIN_MM), np.float32(SKIN_HU), flesh)
    room = _room(depth, spacing_mm, rng)
    # What the crop shows stays, however thin the trunk around it.
    air = sigmoid(-depth / (0.4 * spacing_mm[2])) * np.clip(outward / SKIN_MM, 0, 1)
    return np.where(labels > 0, hu, flesh + air * (room - flesh)).astype(np.float32)


def _outward(hu: np.ndarray, labels: np.ndarray, aside: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Distance in mm from what the crop shows of the body; 0 in it."""
    step = max(round(COARSE_MM / min(spacing_mm)), 1)
    shape = hu.shape
    hu, labels, aside = (a[::step, ::step, ::step] for a in (hu, labels, aside))
    pieces, _ = ndimage.label((hu < NO_TISSUE_HU) & (labels == 0))
    rim = np.zeros(hu.shape, bool)
    rim[:, [0, -1]] = rim[:, :, [0, -1]] = True
    ambient = np.isin(pieces, np.setdiff1d(pieces[rim], [0]))
    body = ~(ambient | aside)
    distance = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(~body, [mm * step for mm in spacing_mm]), 0.7, truncate=2.0
    )
    return np.maximum(widen(distance, shape, step) - ROUNDING_MM, 0)


def _room(depth: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> np.ndarray:
    """Air, and what lies in it, around a body of which `depth` mm are above 0."""
    room = np.full(depth.shape, ROOM_HU, np.float32)
    _, rows, columns = np.nonzero(depth[::4, ::4, ::4] > 0)
    if not rows.size:
        return room
    k, j, i = (np.arange(n, dtype=np.float32) * mm for n, mm in zip(depth.shape, spacing_mm, strict=True))
    back = 4 * spacing_mm[1] * float(np.percentile(rows, 99.5)) + spacing_mm[1]
    left, right = (4 * spacing_mm[2] * float(np.percentile(columns, share)) for share in (99.5, 0.5))
    if rng.random() < TABLE:
        bowl = rng.uniform(0, 1 / 500) * (i - (left + right) / 2) ** 2
        under = j[:, None] - (back + rng.uniform(2, 25) - bowl)
        shell = np.abs(under - rng.uniform(0, 25)) < rng.uniform(1.5, 3.5)
        room[:, shell] = rng.uniform(-600, 200)
        room[:, (np.abs(under) < 2)] = rng.uniform(-700, 0)
    if rng.random() < ARMS:
        for x in (right - rng.uniform(30, 60), left + rng.uniform(30, 60)):
            _lay_arm(room, k - k.mean(), j - (back - rng.uniform(20, 90)), i - x, rng)
    return room


def _lay_arm(room: np.ndarray, k: np.ndarray, j: np.ndarray, i: np.ndarray, rng: np.random.Generator) -> None:
    """A tilted cylinder of bone, muscle and fat around the axis j = i = 0, in place."""
    lean, spread = rng.uniform(-0.15, 0.15, 2).tolist()
    from_axis = np.hypot(j[:, None] + lean * k[:, None, None], i + spread * k[:, None, None])
    thick = rng.uniform(30, 55)
    for radius, density in (
        (thick, FAT_HU), (thick * rng.uniform(0.6, 0.95), MUSCLE_HU), (rng.uniform(9, 13), BONE_HU),
    ):  # fmt: skip
        room[from_axis < radius] = density


def enhance(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> np.ndarray:
    """Contrast agent in heart and great vessels: soft tissue between the lungs brightened, in smooth patches.

    Or none any more: most scans to learn from were taken with it, and an aorta without it is no lung either.
    """
    drawn = rng.random()
    if drawn >= CONTRAST + WASHED:
        return hu
    step = max(round(COARSE_MM / min(spacing_mm)), 1)
    sides = [
        ndimage.gaussian_filter(
            (labels[::step, ::step, ::step] == side).astype(np.float32), 35 / (step * spacing_mm[2])
        )
        for side in (1, 2)
    ]
    between = widen(np.clip(np.sqrt(sides[0] * sides[1]) / 0.2, 0, 1), hu.shape, step) * (labels == 0)
    if drawn >= CONTRAST:
        return (hu - between * np.maximum(hu - PLAIN_BLOOD_HU, 0)).astype(np.float32)
    chambers = sigmoid(4 * smooth_noise(hu.shape, spacing_mm, 35.0, rng) + rng.uniform(-2, 3))
    low, high = BLOOD_HU
    blood = sigmoid((hu - low - 20) / 6) * sigmoid((high - hu) / 6)
    return (hu + np.float32(rng.uniform(*CONTRAST_HU)) * between * chambers * blood).astype(np.float32)


def swallow_air(hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator) -> np.ndarray:
    """Gas over fluid in the stomach, gas in the colon, both below the diaphragm and clear of the lungs."""
    bubbles = []
    if rng.random() < STOMACH:
        bubbles.append((rng.uniform(20, 55), rng.uniform(-0.6, 1.0)))
    if rng.random() < COLON:
        bubbles += [(rng.uniform(10, 25), 1.0) for _ in range(rng.integers(1, 6))]
    sides = [side for side in (1, 2) if (labels == side).any()]
    for radius, level in bubbles if sides else []:
        hu = _bubble(hu, labels, rng.choice(sides), radius, level, spacing_mm, rng)
    return hu


def _bubble(
    hu: np.ndarray, labels: np.ndarray, side: int, radius: float, level: float, spacing_mm: Spacing,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """One bubble below the lung `side`; gas in front of `level` (in radii towards the back), fluid behind it."""
    base, j, i = bounding_box(labels == side)
    row, column = rng.integers(j.start, j.stop), rng.integers(i.start, i.stop)
    over = np.flatnonzero(labels[:, row, column] == side)
    if not over.size or (over[0] - base.start) * spacing_mm[0] > DOME_MM:
        return hu  # not over the diaphragm but over the heart, or beside the lung
    axes = radius * np.array([rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.2)])
    centre = np.array([over[0] * spacing_mm[0] - axes[0] - AWAY_MM - 3, row * spacing_mm[1], column * spacing_mm[2]])
    box = tuple(
        slice(max(int((c - 1.5 * a - 10) / mm), 0), max(int((c + 1.5 * a + 10) / mm), 0) + 1)
        for c, a, mm in zip(centre, axes, spacing_mm, strict=True)
    )
    part = hu[box]
    if not part.size:
        return hu
    k, y, x = ((np.arange(s.start, s.start + n) * mm - c) / a
        for s, n, mm, c, a in zip(box, part.shape, spacing_mm, centre, axes, strict=True))  # fmt: skip
    bent = 1 + 0.12 * smooth_noise(part.shape, spacing_mm, max(radius, 12.0), rng)
    inward = radius * (bent - np.sqrt(k[:, None, None] ** 2 + y[:, None] ** 2 + x**2))
    clear = ndimage.distance_transform_edt(labels[box] == 0, spacing_mm) if labels[box].any() else np.inf
    inward = np.minimum(inward, clear - AWAY_MM)
    inward = np.where((part > NO_TISSUE_HU) & (part < 200), inward, -np.inf)
    filling = np.where(y[:, None] < level, np.float32(GAS_HU), np.float32(rng.uniform(0, 60)))
    wall = sigmoid((inward + 4) / 0.8)
    part = part + wall * (40 - part)
    hu = hu.copy()
    hu[box] = part + sigmoid(inward / 0.8) * (filling - part)
    return hu
