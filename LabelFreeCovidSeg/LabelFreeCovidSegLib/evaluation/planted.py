"""How well a mask finds the lesions that were planted in the phantom, one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.phantom import Phantom
from LabelFreeCovidSegLib.scan import bounding_box

AROUND_MM = 8.0
"""What is marked within this distance of a planted lesion, and nearer to it than to any other, counts for or against
it; what is marked farther off counts as a false mark."""


@dataclass(frozen=True)
class PlantedScore:
    """Dice of one planted lesion, with what it was."""

    kind: str
    radius_mm: float
    subpleural: bool
    dice: float


def score(lesion: np.ndarray, phantom: Phantom) -> list[PlantedScore]:
    """Dice of each planted lesion with the part of `lesion` (k, j, i) that belongs to it."""
    spacing = phantom.scan.grid.spacing_mm
    margin = tuple(int(np.ceil(2 * AROUND_MM / size)) for size in spacing)
    scores = []
    for planted in phantom.planted:
        box = bounding_box(phantom.instances == planted.label, margin)
        instances = phantom.instances[box]
        distance, nearest = ndimage.distance_transform_edt(instances == 0, sampling=spacing, return_indices=True)
        its = (instances[tuple(nearest)] == planted.label) & (distance <= AROUND_MM)
        truth, found = instances == planted.label, (lesion[box] > 0) & its
        dice = 2.0 * (truth & found).sum() / (truth.sum() + found.sum())
        scores.append(PlantedScore(planted.kind.name, planted.radius_mm, planted.subpleural, float(dice)))
    return scores


def means(scores: list[PlantedScore]) -> dict[tuple[str, float], float]:
    """Mean Dice by (kind, radius in mm)."""
    keys = dict.fromkeys((s.kind, s.radius_mm) for s in scores)
    return {key: float(np.mean([s.dice for s in scores if (s.kind, s.radius_mm) == key])) for key in keys}


def false_share(lesion: np.ndarray, phantom: Phantom) -> float:
    """Share of the lung that is marked farther than `AROUND_MM` from any planted lesion."""
    lung = phantom.lungs > 0
    far = np.ones(lung.shape, dtype=bool)
    if phantom.planted:
        far = ndimage.distance_transform_edt(phantom.instances == 0, sampling=phantom.scan.grid.spacing_mm) > AROUND_MM
    return float(((lesion > 0) & lung & far).sum() / lung.sum())
