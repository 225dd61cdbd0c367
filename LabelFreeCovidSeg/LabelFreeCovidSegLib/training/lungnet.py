"""The recipe of the lung network: near-healthy chests made ill, the classical finder's masks as the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LabelFreeCovidSegLib.lungs import find_lungs, lungnet
from LabelFreeCovidSegLib.lungs.classical import AIR_BELOW_HU
from LabelFreeCovidSegLib.lungs.morphology import Spacing
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.scan import AIR_HU, resample
from LabelFreeCovidSegLib.training import recipes
from LabelFreeCovidSegLib.training.chests import Chest, vary
from LabelFreeCovidSegLib.training.healthy import unknown
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.one_network import OneNetwork
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan, refuse_patient


@dataclass(frozen=True)
class Preset:
    """How the network is trained; `crop` in voxels (k, j, i) of 4 mm holds most of a chest."""

    name: str = "whole"
    spacing_mm: Spacing = lungnet.SPACING_MM
    crop: tuple[int, int, int] = (64, 64, 80)
    batch: int = 4
    iterations: int = 3000
    learning_rate: float = 3e-3
    cooldown: float = 0.8


PRESETS = {preset.name: preset for preset in (Preset(),)}
CITATION = "LabelFreeCovidSeg's own: no lung was outlined by hand for it."
EXPECTS = "Chest CT in Hounsfield units with air in both lungs, any field of view."
SHIPS = ("network",)


def blocks(listed: ListedScan, preset: recipes.Preset) -> list[dict[str, np.ndarray]]:
    """A scan on the working grid: `hu` int16, `labels` uint8 of the classical finder, and where they are `known`.

    Where one lung is left out, what lies nearer to it than to the other is not known.
    """
    refuse_patient(listed)
    scan = read(listed.path)
    labels = find_lungs(scan, "classical").labels
    grid = scan.grid.with_spacing(preset.spacing_mm)
    hu = resample(scan.hu, scan.grid, grid, outside=AIR_HU)
    labels = resample(labels, scan.grid, grid, nearest=True)
    known = (~unknown(labels, SIDES[listed.lungs], preset.spacing_mm)).astype(np.uint8)
    return [{"hu": np.round(hu).astype(np.int16), "labels": labels, "known": known}]


class LungNetTrainee(OneNetwork):
    """A lung network in training.

    Args:
        train: scans to learn from, each a list of blocks.
        judge: blocks of the held-out scan that chooses the checkpoint; empty if the last one counts.
    """

    VIEWS = 6
    """Ill versions of the held-out scan on which checkpoints are compared."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(lungnet.build(), preset.learning_rate, preset.cooldown)
        self.preset = preset
        self.chests = [chest(block) for blocks in train for block in blocks]
        self.judges = [chest(block) for block in judge]

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """An ill chest: `question` (2, k, j, i) float32, `lung` and `known` (1, k, j, i) bool."""
        rng = np.random.default_rng(seed)
        return self._view(self.chests[rng.integers(len(self.chests))], rng)

    def _view(self, chest: Chest, rng: np.random.Generator) -> dict[str, np.ndarray]:
        ill = vary(chest, self.preset.crop, self.preset.spacing_mm, rng)
        lung = ill.labels > 0
        air = lung & (ill.hu < AIR_BELOW_HU)
        return {"question": lungnet.question(ill.hu, air), "lung": lung[None], "known": ill.known[None]}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """Lower the `loss`, cross-entropy; and for a curve the `dice` of what the air does not tell.

        Dice as a loss would mark all that is lung as often as not, down to a third: here that is heart and liver.
        """
        scores, known = self.networks["network"](batch["question"]).float(), batch["known"]
        lung = batch["lung"].float()
        loss = functional.binary_cross_entropy_with_logits(scores, lung, weight=known)
        airless = _airless(batch)
        with torch.no_grad():
            dice = dice_of((scores > 0) * airless, lung * airless)
        update("network", loss)
        return {"loss": loss, "dice": dice}

    def validate(self) -> float:
        """Mean Dice of the airless lung in ill versions of the held-out scan, the same each time."""
        scores, network = [], self.networks["network"]
        device = next(network.parameters()).device
        for number in range(self.VIEWS):
            view = self._view(self.judges[number % len(self.judges)], np.random.default_rng([number, 1729]))
            with torch.inference_mode():
                found = network(torch.from_numpy(view["question"][None]).to(device)).cpu()[0] > 0
            airless = _airless({name: torch.from_numpy(array[None]) for name, array in view.items()})[0]
            scores.append(float(dice_of(found * airless, torch.from_numpy(view["lung"]) * airless)))
        return float(np.mean(scores))


def _airless(batch: Mapping[str, Tensor]) -> Tensor:
    """Where the answer is known, but not told by air; (n, 1, k, j, i)."""
    return batch["known"] * (batch["question"][:, 1:] == 0)


def dice_of(one: Tensor, other: Tensor) -> Tensor:
    """Dice over the whole batch: a sample in which no lung is in view has none of its own."""
    return (2 * (one * other).sum() + 1) / (one.sum() + other.sum() + 1)


def chest(block: Arrays) -> Chest:
    """A cached block, ready to be made ill."""
    return Chest(block["hu"].astype(np.float32), block["labels"], block["known"] > 0)


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> LungNetTrainee:
    """A new network and everything the loop needs to train it."""
    return LungNetTrainee(preset, train, judge)


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """Nothing: a lung mask has no score."""
    return {}
