"""f-AnoGAN in training: a Wasserstein GAN of healthy slices, then the encoder into it (`methods.anomaly.f_anogan`).

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville: Improved training of Wasserstein GANs. NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from LabelFreeCovidSegLib.methods.anomaly.f_anogan import coarse
from LabelFreeCovidSegLib.training.detector import DetectorTrainee
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.seeds import children

GAN_SHARE = 0.5
"""Of the iterations; Yao et al. give one number for both phases."""
CRITIC_STEPS = 5
"""For one of the generator, each with other slices."""
PENALTY_WEIGHT = 10.0
BETAS = (0.5, 0.9)


class FAnoGANTrainee(DetectorTrainee):
    """Generator and critic, then the encoder, in training."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam for each of the three networks."""
        parts = {name: getattr(self.network, name) for name in ("critic", "generator", "encoder")}
        return {name: torch.optim.Adam(part.parameters(), betas=BETAS) for name, part in parts.items()}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The same for all throughout."""
        return dict.fromkeys(("critic", "generator", "encoder"), self.preset.learning_rate)

    def slices(self, seed: np.random.SeedSequence, share: float) -> np.ndarray:
        """A healthy slice or, in the first phase, one for each of the critic's steps; (1 or 5, j, i) float32."""
        if share >= GAN_SHARE:
            return super().slices(seed, share)
        return np.concatenate([super(FAnoGANTrainee, self).slices(one, share) for one in children(seed, CRITIC_STEPS)])

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One iteration of the phase that `share` lies in."""
        torch.manual_seed(int(batch["key"][0]))
        if share < GAN_SHARE:
            return self.compete(batch["image"], update)
        terms = self.detector.losses(self.network, batch["image"])
        loss = torch.stack(list(terms.values())).sum()
        update("encoder", loss)
        return {"loss": loss, **terms}

    def compete(self, images: Tensor, update: Update) -> dict[str, Tensor]:
        """Five updates of the critic, one of the generator."""
        critic, generator = self.network.critic, self.network.generator
        for number in range(CRITIC_STEPS):
            real = coarse(images[:, number : number + 1])
            with torch.no_grad():
                made = generator(self.noise(real))
            distance = critic(real).mean() - critic(made).mean()
            penalty = gradient_penalty(critic, real, made)
            update("critic", PENALTY_WEIGHT * penalty - distance)
        deceiving = -critic(generator(self.noise(real))).mean()
        update("generator", deceiving)
        return {"deceiving": deceiving, "distance": distance, "penalty": penalty}

    def noise(self, like: Tensor) -> Tensor:
        """Latents, (n, numbers), for as many slices as `like` has."""
        return torch.randn(len(like), self.preset.latent, device=like.device)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, made: Tensor) -> Tensor:
    """How far the slope of a critic is from 1, squared, at random places between real and made slices.

    The norm is that of all pixels of a slice together.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1 - share) * made).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
