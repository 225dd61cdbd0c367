"""The recipe of the cycle-GAN: generators, then discriminators, once an iteration (Fang et al., `methods.cyclegan`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.methods import cyclegan
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.cyclegan import Preset
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.networks.patchgan import PatchGAN
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.training import lung_slices
from LabelFreeCovidSegLib.training.cycle import History, generated, judging_loss
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.lung_slices import SliceDomains
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.running_mean import follow, inertia
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from LabelFreeCovidSegLib.training.seeds import children
from LabelFreeCovidSegLib.training.slabs import Slab

PRESETS = {"small": cyclegan.PRESETS["small"], **cyclegan.PRESETS}
CITATION = cyclegan.CARD.citation
EXPECTS = "Chest CT in Hounsfield units, whole lungs, any slice thickness; lungs found beforehand."
SHIPS = ("to_healthy",)
INITIAL_SD = 0.02
"""Of the weights; biases begin at 0."""
BETAS = (0.5, 0.999)
VIEWS = 24
VIEW_SEED = 20_211_101
"""Of the slices that choose the checkpoint."""
HEALTHY_EVERY = 3
"""Of these, every so manieth has no lesion."""


class CycleGANTrainee:
    """Two generators and two discriminators in training; what ships is the running mean of one, the contender.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.

    Raises:
        TrainingError: no near-healthy scan to train on or to judge by.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        self.preset = preset
        self.domains = SliceDomains(preset, train)
        self.views = views(preset, judge) if judge else []
        self.networks: dict[str, nn.Module] = {
            "to_healthy": cyclegan.build(preset),
            "contender": cyclegan.build(preset),
            "to_infected": cyclegan.build(preset),
            "judge_healthy": PatchGAN(preset.critic_widths),
            "judge_infected": PatchGAN(preset.critic_widths),
            "made_healthy": History(preset.history, preset.side),
            "made_infected": History(preset.history, preset.side),
        }
        for network in self.networks.values():
            for name, parameter in network.named_parameters():
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=INITIAL_SD)
        self.networks["to_healthy"].load_state_dict(self.networks["contender"].state_dict())

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for both generators, and Adam for both discriminators."""
        return {
            "generators": self._adam("contender", "to_infected"),
            "judges": self._adam("judge_healthy", "judge_infected"),
        }

    def _adam(self, *names: str) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for name in names for p in self.networks[name].parameters()], betas=BETAS)

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done: constant over the first half, then falling to 0."""
        rate = self.preset.learning_rate * min(1.0, 2.0 * (1.0 - share))
        return {"generators": rate, "judges": rate}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """`infected` and `healthy`, (1, j, i) float32 each, and `chance` (2, 2) for the histories."""
        ill, well, rest = children(seed, 3)
        rng = np.random.default_rng(rest)
        return {
            "infected": shifted(image(self.domains.infected(ill), self.preset), self.preset, rng),
            "healthy": shifted(image(self.domains.healthy(well), self.preset), self.preset, rng),
            "chance": rng.random((2, 2), dtype=np.float32),
        }

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of the generators, then one of the discriminators."""
        networks = self.networks
        judges = networks["judge_healthy"], networks["judge_infected"]
        infected, healthy = batch["infected"], batch["healthy"]
        made = generated(networks["contender"], networks["to_infected"], *judges, infected, healthy)
        update("generators", made.loss)
        kept = inertia(round(share * self.preset.iterations) + 1, self.preset.inertia)
        follow(networks["to_healthy"], networks["contender"], kept)
        chance = batch["chance"]
        old_healthy = networks["made_healthy"](made.healthy, chance[:, 0])
        old_infected = networks["made_infected"](made.infected, chance[:, 1])
        judging_healthy = judging_loss(judges[0], healthy, old_healthy)
        judging_infected = judging_loss(judges[1], infected, old_infected)
        update("judges", judging_healthy + judging_infected)
        taken = (infected - made.healthy.detach()).clamp_min(0.0).mean()
        return {
            "generators": made.loss, "adversarial": made.adversarial, "cycle": made.cycle, "identity": made.identity,
            "judging_healthy": judging_healthy, "judging_infected": judging_infected, "taken_away": taken,
        }  # fmt: skip

    def validate(self) -> float:
        """Dice of the outlined lesions, all slices of the held-out scan taken together.

        Each slice is outlined as if it were a whole scan: lesions of one density must not hide those of another here,
        and differences in a healthy slice are lesions unless they are small.
        """
        preset, generator = self.preset, self.networks["to_healthy"]
        compute = Compute(next(generator.parameters()).device.type)
        both = either = 0
        for view in self.views:
            given = image(view, preset)
            excess = cyclegan.removed(given, cyclegan.made_healthy(generator, given, compute, silent), view.lung)
            excess = cyclegan.filtered(excess, preset.spacing_mm, preset.outlining)
            found = cyclegan.outline(excess, view.lung, preset.spacing_mm, preset.outlining)
            both += int(np.count_nonzero(found & view.lesion))
            either += int(np.count_nonzero(found) + np.count_nonzero(view.lesion))
        return 2.0 * both / max(either, 1)


def image(slab: Slab, preset: Preset) -> np.ndarray:
    """Slices as the networks see them, (n, j, i) float32 in [-1, 1]."""
    return cyclegan.shown(slab.hu, slab.lung, preset.background)


def shifted(picture: np.ndarray, preset: Preset, rng: np.random.Generator) -> np.ndarray:
    """Slices (n, j, i) moved on their canvas: a crop of the size of the canvas from one that is larger."""
    reach = round(preset.jitter_mm / preset.spacing_mm[1])
    padded = np.pad(picture, [(0, 0), (reach, reach), (reach, reach)], constant_values=preset.background)
    j, i = rng.integers(2 * reach + 1, size=2)
    return padded[:, j : j + preset.side, i : i + preset.side].copy()


def views(preset: Preset, judge: Sequence[Arrays]) -> list[Slab]:
    """Slices of the held-out scan to judge networks by, always the same ones; every third is healthy."""
    domains = SliceDomains(preset, [judge])
    seeds = [np.random.SeedSequence([VIEW_SEED, number]) for number in range(VIEWS)]
    return [
        domains.planted(seed) if number % HEALTHY_EVERY else domains.healthy(seed) for number, seed in enumerate(seeds)
    ]


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> CycleGANTrainee:
    """New networks and everything the loop needs to train them.

    Raises:
        TrainingError: no near-healthy scan to train on or to judge by.
    """
    return CycleGANTrainee(preset, train, judge)


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """The lungs on a canvas, slice by slice, or whole slices for equalised pictures."""
    if preset.domain == CLAHE256:
        return lung_slices.whole_blocks(listed, preset.spacing_mm)
    return lung_slices.blocks(listed, lambda scan, lungs: LungSlices.of(scan, lungs, preset.spacing_mm, preset.side))


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """Nothing: the score is a difference of intensities, and the threshold follows from the scan's own."""
    return {}
