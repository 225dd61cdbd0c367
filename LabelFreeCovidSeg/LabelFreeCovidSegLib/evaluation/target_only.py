"""The recipe of the supervised row beside domain adaptation: the same network, with labels of the target domain.

What patients have is not known, and experts' masks are for judging. So the phantom's lesions, planted in near-healthy
scans (`planting`), stand for the target domain: another generator than the source's, with outlines that are known.
What learns from lesions that others are judged by is a supervised row and no method, so that this recipe belongs to
the evaluation and not to `training`.
"""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.evaluation.planting import plant
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.methods.adaptation import target_only
from LabelFreeCovidSegLib.methods.uda import Preset
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.domains import Slices, chest_blocks
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan, refuse_patient
from LabelFreeCovidSegLib.training.uda import SourceOnly
from LabelFreeCovidSegLib.training.variety import varied

PRESETS = {"small": target_only.PRESETS["small"], **target_only.PRESETS}
CITATION = target_only.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
PLANTINGS = 4
"""How often each scan is planted with lesions, other ones each time."""
SEED = 20_220_402


class TargetOnly(SourceOnly):
    """f and c taught on slices with planted lesions, to which none are added."""

    def labelled(self, slices: Slices, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray]:
        """A slice as it was planted: (j, i) float32 in [-1, 1], and its class labels (j, i) uint8."""
        rng = np.random.default_rng(seed)
        block, k = slices.draw(rng)
        return varied(block["hu"][k].astype(np.float32), block["labels"][k], self.preset.canvas, rng)


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """The chest around the lungs, several times with other lesions, and labels of lung and lesions."""
    refuse_patient(listed)
    scan = read(listed.path)
    lungs = find_lungs(scan, "classical").labels
    healthy = np.where(np.isin(lungs, SIDES[listed.lungs]), lungs, 0).astype(np.uint8)
    free = np.ones(len(scan.hu), dtype=bool)
    for first, last in listed.exclude:
        free[first : last + 1] = False
    made = []
    for number in range(PLANTINGS):
        infected = plant(scan, healthy, free, SEED + number)
        made += chest_blocks(listed, infected.scan, lungs, preset.spacing_mm, infected.lesions)
    return made


trainee, calibrate = TargetOnly, uda.calibrate
