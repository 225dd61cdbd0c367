"""How networks do on a scan that they never saw: what they mark of it, and what they find of planted lesions.

Forward passes are what costs: each network looks at a scan once, and both its own outline and the vote's follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.evaluation.planted import Known, perfect, score_all
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.normnet import NormNet, Working, outline
from LabelFreeCovidSegLib.phantom.lesions import DENSE, SOLID
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Grid, Scan

SIDES = {"right": 1, "left": 2}
VOTE, PERFECT = "vote", "perfect"
LEAST_MM = 8.0
"""Planted lesions of this radius and more, dense ground glass and consolidation, are what networks are compared by."""
WORST, APART_MM = 5, 10.0
"""So many slices are named as the worst ones, no two nearer to each other than this."""

Masks = Mapping[str, np.ndarray]
"""Name of a network, or `VOTE` -> lesion, (k, j, i) bool on the scan's grid."""


def masks(
    model: NormNet, names: list[str], scan: Scan, lungs: LungMask, compute: Compute, progress: Progress = silent
) -> dict[str, np.ndarray]:
    """What each network of `model` outlines on its own, and what all of them do together (`VOTE`).

    Args:
        names: of the networks, in their order.
    """
    work = Working.of(scan, lungs, model.preset.spacing_mm)
    probabilities = model.recognise(work, compute, progress)
    panels = {VOTE: probabilities}
    if len(probabilities) > 1:
        panels |= {name: [probability] for name, probability in zip(names, probabilities, strict=True)}
    mm, growing = work.grid.spacing_mm, model.preset.growing
    return {
        name: work.paste(outline(work.intensity, panel, work.lung, mm, growing), lungs) >= 0.5
        for name, panel in panels.items()
    }


@dataclass(frozen=True)
class Marks:
    """What is marked in a scan without disease, by network.

    Attributes:
        share: network -> "both", "right", "left" -> % of that lung.
        worst: the slices with most of the vote's marks, counted from the feet, with mL of each.
    """

    share: dict[str, dict[str, float]]
    worst: list[tuple[int, float]]


def false_marks(found: Masks, lungs: np.ndarray, free: np.ndarray, grid: Grid) -> Marks:
    """Count what was marked in the `free` slices (k,) bool of `lungs` (k, j, i), which hold no disease."""
    healthy = lungs * free[:, None, None]
    regions = {"both": healthy > 0} | {
        side: healthy == label for side, label in SIDES.items() if (lungs == label).any()
    }
    share = {
        name: {region: 100 * float((mask & lung).sum() / max(lung.sum(), 1)) for region, lung in regions.items()}
        for name, mask in found.items()
    }
    volumes_ml = (found[VOTE] & regions["both"]).sum(axis=(1, 2)) * grid.voxel_ml
    worst: list[tuple[int, float]] = []
    for k in np.argsort(-volumes_ml, kind="stable"):
        apart = all(abs(k - other) * grid.spacing_mm[0] >= APART_MM for other, _ in worst)
        if volumes_ml[k] > 0 and apart and len(worst) < WORST:
            worst.append((int(k), float(volumes_ml[k])))
    return Marks(share, worst)


def dice_rows(found: Masks, known: Known, lungs: LungMask, model: NormNet) -> list[dict]:
    """One row a planted lesion: its kind, radius and place, the Dice of each mask, and of a perfect network's."""
    columns = {**found, PERFECT: perfect(known, lungs, model.preset) > 0}
    scores = dict(zip(columns, score_all(list(columns.values()), known), strict=True))
    rows = []
    for n, lesion in enumerate(known.planted):
        row = {"kind": lesion.kind.name, "radius_mm": lesion.radius_mm, "subpleural": lesion.subpleural}
        rows.append(row | {"dice": {name: column[n].dice for name, column in scores.items()}})
    return rows


def by_cell(rows: list[dict]) -> dict[tuple[str, float], dict[str, float]]:
    """Mean Dice by kind and radius, for each mask."""
    cells = dict.fromkeys((row["kind"], row["radius_mm"]) for row in rows)
    return {cell: _mean([row for row in rows if (row["kind"], row["radius_mm"]) == cell]) for cell in cells}


def overall(rows: list[dict]) -> dict[str, float]:
    """Mean Dice over dense ground glass and consolidation of at least `LEAST_MM`, for each mask."""
    kinds = (DENSE.name, SOLID.name)
    return _mean([row for row in rows if row["kind"] in kinds and row["radius_mm"] >= LEAST_MM])


def _mean(rows: list[dict]) -> dict[str, float]:
    return {name: float(np.mean([row["dice"][name] for row in rows])) for name in rows[0]["dice"]}
