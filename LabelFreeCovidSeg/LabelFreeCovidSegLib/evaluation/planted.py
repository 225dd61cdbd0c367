"""How well a mask finds planted lesions, one by one, and how well any mask could."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.phantom import Lesion
from LabelFreeCovidSegLib.scan import Scan, bounding_box, resample

AROUND_MM = 8.0
"""What is marked within this distance of a planted lesion, and nearer to it than to any other, counts for or against
it; what is marked farther off counts as a false mark."""


class Known(Protocol):
    """A scan whose lesions are known: a `Phantom`, or a real scan with planted ones (`planting.Infected`)."""

    @property
    def scan(self) -> Scan: ...
    @property
    def lungs(self) -> np.ndarray: ...
    @property
    def lesions(self) -> np.ndarray: ...
    @property
    def instances(self) -> np.ndarray: ...
    @property
    def planted(self) -> Sequence[Lesion]: ...


@dataclass(frozen=True)
class PlantedScore:
    """Dice of one planted lesion, with what it was."""

    kind: str
    radius_mm: float
    subpleural: bool
    dice: float


def score(lesion: np.ndarray, known: Known) -> list[PlantedScore]:
    """Dice of each planted lesion with the part of `lesion` (k, j, i) that belongs to it."""
    (scores,) = score_all([lesion], known)
    return scores


def score_all(masks: Sequence[np.ndarray], known: Known) -> list[list[PlantedScore]]:
    """As `score`, for several masks of one scan: what belongs to a lesion is worked out once."""
    spacing = known.scan.grid.spacing_mm
    margin = tuple(int(np.ceil(2 * AROUND_MM / size)) for size in spacing)
    scores: list[list[PlantedScore]] = [[] for _ in masks]
    for planted in known.planted:
        box = bounding_box(known.instances == planted.label, margin)
        instances = known.instances[box]
        distance, nearest = ndimage.distance_transform_edt(instances == 0, sampling=spacing, return_indices=True)
        its = (instances[tuple(nearest)] == planted.label) & (distance <= AROUND_MM)
        truth = instances == planted.label
        for mask, rows in zip(masks, scores, strict=True):
            found = (mask[box] > 0) & its
            dice = 2.0 * (truth & found).sum() / (truth.sum() + found.sum())
            rows.append(PlantedScore(planted.kind.name, planted.radius_mm, planted.subpleural, float(dice)))
    return scores


def means(scores: list[PlantedScore]) -> dict[tuple[str, float], float]:
    """Mean Dice by (kind, radius in mm)."""
    keys = dict.fromkeys((s.kind, s.radius_mm) for s in scores)
    return {key: float(np.mean([s.dice for s in scores if (s.kind, s.radius_mm) == key])) for key in keys}


def false_share(lesion: np.ndarray, known: Known) -> float:
    """Share of the lung that is marked farther than `AROUND_MM` from any planted lesion."""
    lung = known.lungs > 0
    far = np.ones(lung.shape, dtype=bool)
    if known.planted:
        far = ndimage.distance_transform_edt(known.instances == 0, sampling=known.scan.grid.spacing_mm) > AROUND_MM
    return float(((lesion > 0) & lung & far).sum() / lung.sum())


def perfect(known: Known, lungs: LungMask, preset: normnet.Preset) -> np.ndarray:
    """The mask (k, j, i) uint8 that NormNet's post-processing makes of a network that knows each voxel."""
    work = normnet.Working.of(known.scan, lungs, preset.spacing_mm)
    truth = resample((known.lesions[work.box] > 0).astype(np.uint8), work.source, work.grid, nearest=True)
    return normnet.conclude(work, lungs, [(1 - truth).astype(np.float32)], preset.growing).lesion
