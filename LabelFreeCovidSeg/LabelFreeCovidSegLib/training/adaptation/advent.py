"""The recipe of AdvEnt: doubts that look alike in both domains (Vu et al., CVPR 2019, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from LabelFreeCovidSegLib.methods.adaptation import advent
from LabelFreeCovidSegLib.methods.uda import CLASSES, Preset
from LabelFreeCovidSegLib.networks.doubt_critic import DoubtCritic
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.adaptation.minent import POWER, WEIGHT, MinEnt, self_information
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.recipes import Arrays

PRESETS = {"small": advent.PRESETS["small"], **advent.PRESETS}
CITATION = advent.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
SOURCE, TARGET = 0.0, 1.0
"""What the discriminator answers."""


class AdvEnt(MinEnt):
    """f and c taught on the source domain, against a discriminator that knows a domain by its doubts."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(preset, train, judge)
        self.networks |= {"discriminator": DoubtCritic(CLASSES, preset.critic_width)}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """MinEnt's for f and c, and Adam for the discriminator."""
        critic = torch.optim.Adam(self.networks["discriminator"].parameters(), betas=(0.9, 0.99))
        return super().optimizers() | {"discriminator": critic}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done."""
        rate = self.preset.critic_rate * (1.0 - share) ** POWER
        return super().learning_rates(share) | {"discriminator": rate}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of f and c, then one of the discriminator."""
        critic = self.networks["discriminator"]
        source, target = self.scores(torch.cat((batch["source"], batch["target"]))).chunk(2)
        of_source, of_target = self_information(source), self_information(target)
        segmentation, deceiving = self.segmentation(source, batch["labels"]), taken_for(critic(of_target), SOURCE)
        update("segmenter", segmentation + WEIGHT * deceiving)
        told = taken_for(critic(of_source.detach()), SOURCE), taken_for(critic(of_target.detach()), TARGET)
        telling = (told[0] + told[1]) / 2
        update("discriminator", telling)
        return {"segmentation": segmentation, "deceiving": deceiving, "telling": telling}


def taken_for(scores: Tensor, domain: float) -> Tensor:
    """Mean binary cross-entropy of the discriminator's `scores` (any shape) with the answer `domain`."""
    return functional.binary_cross_entropy_with_logits(scores.float(), torch.full_like(scores, domain).float())


trainee, blocks, calibrate = AdvEnt, uda.blocks, uda.calibrate
