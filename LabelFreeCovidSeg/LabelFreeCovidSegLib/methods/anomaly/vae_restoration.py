"""VAE Restoration: the slice is changed step by step into one that the VAE can rebuild."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import difference, divergence
from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

SMOOTHNESSES = tuple(n / 10 for n in range(20))
"""Weights of the total variation to choose from."""


@dataclass(frozen=True)
class VAERestoration(VAE):
    """A VAE whose score is what a descent takes away from the slice, on what was lowered in training.

    Attributes:
        steps: of the descent. rate: of a step.
        smoothness: weight of the total variation of what is not rebuilt; `tuned` sets it.
    """

    steps: int = 150
    rate: float = 1e-3
    smoothness: float = 0.0

    card = Card(
        name="vae-restoration",
        title="VAE Restoration",
        summary="A variational autoencoder towards which a slice is changed. What gets darker is lesion.",
        citation="Chen X, You S, Tezcan KC, Konukoglu E. Unsupervised lesion detection via image restoration with a "
        "normative prior. Med Image Anal 2020;64:101713. doi:10.1016/j.media.2020.101713",
        networks=("vae-restoration",),
        picture_mm=0.0,
    )

    def objective(self, network: Any, x: Tensor) -> Tensor:
        """What the descent lowers, (n,)."""
        mean, log_sd = network.encode(x)
        made = network.decode(mean)
        loss = difference(x, made) + self.alpha * divergence(mean, log_sd)
        return loss + self.smoothness * variation(x - made)

    def restored(self, network: Any, x: Tensor) -> Tensor:
        """The slices at the end of the descent."""
        import torch

        with torch.enable_grad():
            for _ in range(self.steps):
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.objective(network, x).sum(), x)
                x = x - self.rate * slope
        return x.detach()

    def score(self, network: Any, x: Tensor) -> Tensor:
        """What the descent took away."""
        return (x - self.restored(network, x)).clamp_min(0.0)

    def tuned(self, network: Any, healthy: Tensor) -> Self:
        """As smooth as changes healthy slices least."""

        def change(one: Self) -> float:
            return float((healthy - one.restored(network, healthy)).abs().sum())

        return min((replace(self, smoothness=smoothness) for smoothness in SMOOTHNESSES), key=change)


def variation(x: Tensor) -> Tensor:
    """Total variation of slices: absolute differences of neighbours, summed, (n,)."""
    return x.diff(dim=2).abs().flatten(1).sum(dim=1) + x.diff(dim=3).abs().flatten(1).sum(dim=1)


DETECTOR = VAERestoration()
CARD, load = DETECTOR.card, DETECTOR.load
