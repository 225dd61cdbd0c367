"""The losses of the cycle-GAN (Fang et al., see `methods.cyclegan`; equations 2 to 4) and its history of made slices.

Equations 2 and 3 are printed with the generators' names exchanged, and 2 with real and made in each other's place in
one of its terms; what stands here is what the text around them says, and what Zhu et al. (Unpaired image-to-image
translation using cycle-consistent adversarial networks, ICCV 2017) do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = Callable[[Tensor], Tensor]

CYCLE_WEIGHT, IDENTITY_WEIGHT = 10.0, 5.0


@dataclass(frozen=True, eq=False)
class Generated:
    """What two generators make of a batch, and how well; losses are scalars.

    Attributes:
        adversarial: how far both discriminators are from taking what is made for real.
        cycle: mean difference of slices and what comes back from the other domain.
        identity: mean difference of slices and what becomes of them in their own domain.
        healthy, infected: the made slices, with gradients.
    """

    adversarial: Tensor
    cycle: Tensor
    identity: Tensor
    healthy: Tensor
    infected: Tensor

    @property
    def loss(self) -> Tensor:
        """What the generators lower."""
        return self.adversarial + CYCLE_WEIGHT * self.cycle + IDENTITY_WEIGHT * self.identity


def generated(
    to_healthy: Network, to_infected: Network, judge_healthy: Network, judge_infected: Network,
    infected: Tensor, healthy: Tensor,
) -> Generated:  # fmt: skip
    """Take slices of both domains, (n, 1, j, i) float32, to the other domain and back, and through their own."""
    made_healthy, same_healthy = to_healthy(torch.cat((infected, healthy))).float().chunk(2)
    made_infected, same_infected = to_infected(torch.cat((healthy, infected))).float().chunk(2)
    back_infected, back_healthy = to_infected(made_healthy).float(), to_healthy(made_infected).float()
    return Generated(
        adversarial=verdict_loss(judge_healthy(made_healthy), 1.0) + verdict_loss(judge_infected(made_infected), 1.0),
        cycle=functional.l1_loss(back_infected, infected) + functional.l1_loss(back_healthy, healthy),
        identity=functional.l1_loss(same_healthy, healthy) + functional.l1_loss(same_infected, infected),
        healthy=made_healthy,
        infected=made_infected,
    )


def judging_loss(judge: Network, real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator lowers: half of its mean squared error on real and on made slices.

    Only it shall learn from this: `made` is taken without its gradients.
    """
    return (verdict_loss(judge(real), 1.0) + verdict_loss(judge(made.detach()), 0.0)) / 2


def verdict_loss(verdicts: Tensor, wanted: float) -> Tensor:
    """Mean squared difference of a discriminator's verdicts and the one that is wanted of all."""
    return (verdicts.float() - wanted).square().mean()


class History(nn.Module):
    """Slices that a generator has made lately, so that a discriminator does not forget its earlier ways.

    As Zhu et al. do it: once the history is full, one half of the made slices take the place of an older one, which is
    shown instead. A module, because its buffers are part of a run.
    """

    slices: Tensor
    filled: Tensor

    def __init__(self, length: int, side: int) -> None:
        super().__init__()
        self.register_buffer("slices", torch.zeros(length, 1, side, side))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, made: Tensor, chance: Tensor) -> Tensor:
        """What to show instead of `made`, (n, 1, j, i).

        Args:
            chance: (n, 2) in [0, 1), uniform: whether an older slice is shown, and which one.
        """
        shown = []
        for fresh, (whether, which) in zip(made, chance.tolist(), strict=True):
            filled = int(self.filled)
            if filled < len(self.slices):
                self.slices[filled] = fresh
                self.filled += 1
                shown.append(fresh)
            elif whether < 0.5:
                place = int(which * len(self.slices))
                shown.append(self.slices[place].clone())
                self.slices[place] = fresh
            else:
                shown.append(fresh)
        return torch.stack(shown)
