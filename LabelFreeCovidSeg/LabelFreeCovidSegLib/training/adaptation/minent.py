"""The recipe of MinEnt: on the target domain, doubt itself is the loss (Vu et al., CVPR 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.methods.adaptation import minent
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.uda import BothDomains

PRESETS = {"small": minent.PRESETS["small"], **minent.PRESETS}
CITATION = minent.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
WEIGHT = 0.001
"""Of what the target domain adds to the loss, here and in AdvEnt."""
POWER = 0.9
"""Learning rates fall to 0 with this power of the share that is left to do."""


class MinEnt(BothDomains):
    """f and c taught on the source domain, and to be sure of their answers on the target domain."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Stochastic gradient descent with the authors' settings, of f and c together."""
        networks = nn.ModuleList([self.networks["extractor"], self.networks["classifier"]])
        return {"segmenter": torch.optim.SGD(networks.parameters(), momentum=0.9, weight_decay=5e-4)}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done."""
        return {"segmenter": self.preset.learning_rate * (1.0 - share) ** POWER}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of f and c."""
        source, target = self.scores(torch.cat((batch["source"], batch["target"]))).chunk(2)
        segmentation, doubt = self.segmentation(source, batch["labels"]), entropy(target)
        update("segmenter", segmentation + WEIGHT * doubt)
        return {"segmentation": segmentation, "entropy": doubt}


def self_information(scores: Tensor) -> Tensor:
    """What each class adds to a pixel's entropy, -p log p, as a share of the largest entropy; shape of `scores`.

    Args:
        scores: (batch, classes, j, i), before the softmax.
    """
    logarithms = scores.float().log_softmax(dim=1)
    return -logarithms.exp() * logarithms / log(scores.shape[1])


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy of the pixels: 1 where all classes are alike, 0 where one is certain (their equation 3)."""
    return self_information(scores).sum(dim=1).mean()


trainee, blocks, calibrate = MinEnt, uda.blocks, uda.calibrate
