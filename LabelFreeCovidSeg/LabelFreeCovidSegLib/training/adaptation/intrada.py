"""The recipe of IntraDA: one run, two phases (Pan et al., CVPR 2020).

First AdvEnt learns as usual. Then it is frozen and ranks slices of the target domain by its doubt. Those that it is
surer of get its answers for labels and are the source domain of a second AdvEnt, which begins where the first began;
the others are its target domain. The slices are drawn from a seed of their own and ranked anew when a run resumes, so
that checkpoints need not hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from LabelFreeCovidSegLib.methods.adaptation import intrada
from LabelFreeCovidSegLib.methods.uda import Preset
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.adaptation.advent import AdvEnt
from LabelFreeCovidSegLib.training.adaptation.minent import entropy
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.recipes import Arrays

PRESETS = {"small": intrada.PRESETS["small"], **intrada.PRESETS}
CITATION = intrada.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
FIRST = "first_"
"""Before the names of the first phase's networks and optimizers."""
SECOND_PHASE = 0.5
"""Share of the iterations after which it begins."""
EASY = 0.67
POOL, POOL_SEED = 200, 20_200_601
"""Slices of the target domain that are ranked."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Slices of the target domain (n, 1, j, i), easy ones with the labels (n, j, i) uint8 that they were given."""

    easy: Tensor
    labels: Tensor
    hard: Tensor


class IntraDA:
    """AdvEnt twice: between the domains, and from easy to hard within the target domain."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        self.first, self.second = AdvEnt(preset, train), AdvEnt(preset, train, judge)
        for name, network in self.second.networks.items():
            network.load_state_dict(self.first.networks[name].state_dict())
        self.networks = self.second.networks | {FIRST + name: one for name, one in self.first.networks.items()}
        self.ranked: Ranked | None = None

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Those of AdvEnt for each phase."""
        return self.second.optimizers() | {FIRST + name: one for name, one in self.first.optimizers().items()}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done: in each phase as if it were alone."""
        first = self.first.learning_rates(min(share / SECOND_PHASE, 1.0))
        second = self.second.learning_rates(max(share - SECOND_PHASE, 0.0) / (1.0 - SECOND_PHASE))
        return second | {FIRST + name: rate for name, rate in first.items()}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """As of AdvEnt; in the second phase `key`, which decides what `step` draws."""
        if share < SECOND_PHASE:
            return self.first.sample(seed, share)
        return {"key": np.array(np.random.default_rng(seed).integers(2**62))}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One iteration of the phase that `share` lies in."""
        if share < SECOND_PHASE:
            return self.first.step(batch, share, lambda name, loss: update(FIRST + name, loss))
        if self.ranked is None:
            self.ranked = ranked(self.first, batch["key"].device)
        return self.second.step(drawn(self.ranked, batch["key"].tolist()), share, update)

    def validate(self) -> float:
        """As of AdvEnt; -1 while the second phase has not begun."""
        return -1.0 if self.ranked is None else self.second.validate()


@torch.no_grad()
def ranked(model: AdvEnt, device: torch.device) -> Ranked:
    """Slices of the target domain, parted by how sure `model` is of each."""
    seeds = (np.random.SeedSequence([POOL_SEED, number]) for number in range(POOL))
    images = torch.from_numpy(np.stack([model.target(seed) for seed in seeds])).to(device)
    scores = [model.scores(image[None]) for image in images]
    easy, hard = parted(torch.stack([entropy(one) for one in scores]))
    labels = torch.cat([one.argmax(dim=1).to(torch.uint8) for one in scores])
    return Ranked(images[easy], labels[easy], images[hard])


def parted(doubts: Tensor, share: float = EASY) -> tuple[Tensor, Tensor]:
    """The numbers of the `share` of slices with the least doubt, and of the others.

    Args:
        doubts: (n,), of each slice.
    """
    order = doubts.argsort(stable=True)
    count = round(share * len(doubts))
    return order[:count], order[count:]


def drawn(slices: Ranked, keys: Sequence[int]) -> dict[str, Tensor]:
    """A batch of AdvEnt: easy slices in the source's place, hard ones in the target's."""
    rngs = [np.random.default_rng(key) for key in keys]
    easy = [int(rng.integers(len(slices.easy))) for rng in rngs]
    hard = [int(rng.integers(len(slices.hard))) for rng in rngs]
    return {"source": slices.easy[easy], "labels": slices.labels[easy], "target": slices.hard[hard]}


trainee, blocks, calibrate = IntraDA, uda.blocks, uda.calibrate
