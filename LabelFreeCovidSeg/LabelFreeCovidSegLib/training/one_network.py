"""What recipes share that train one network: Adam, and a learning rate that cools down at the end."""

from __future__ import annotations

import torch
from torch import nn


class OneNetwork:
    """The half of a `loop.Trainee` that does not depend on what is learned.

    Args:
        network: untrained. learning_rate: at the beginning.
        cooldown: last share of the iterations, over which the rate falls to 0 in a straight line; 0 if it stays.

    Attributes:
        learner: what the optimizer moves: `network`, unless that is to be a running mean of it.
    """

    def __init__(self, network: nn.Module, learning_rate: float, cooldown: float) -> None:
        self.networks: dict[str, nn.Module] = {"network": network}
        self.learner = network
        self.learning_rate, self.cooldown = learning_rate, cooldown

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with its default settings."""
        return {"network": torch.optim.Adam(self.learner.parameters(), lr=self.learning_rate)}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rate when `share` of the iterations is done."""
        return {"network": self.learning_rate * (min(1.0, (1.0 - share) / self.cooldown) if self.cooldown else 1.0)}
