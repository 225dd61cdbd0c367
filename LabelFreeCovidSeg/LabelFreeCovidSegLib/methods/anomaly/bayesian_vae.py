"""Bayesian VAE: dropout makes it many VAEs, whose mean rebuilds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BayesianVAE(VAE):
    """A VAE with dropout that is not switched off.

    Attributes:
        samples: that are averaged; Yao et al. do not say how many.
    """

    dropout: float = 0.2
    samples: int = 20

    card = Card(
        name="bayesian-vae",
        title="Bayesian VAE",
        summary="Many variational autoencoders that dropout makes of one. What their mean rebuilds darker is lesion.",
        citation="Pawlowski N, Lee MCH, Rajchl M, McDonagh S, Ferrante E, Kamnitsas K, et al. Unsupervised Lesion "
        "Detection in Brain CT using Bayesian Convolutional Autoencoders. MIDL 2018",
        networks=("bayesian-vae",),
        picture_mm=0.0,
    )

    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """The mean of the samples."""
        made = super().reconstruct(network, x)
        for _ in range(self.samples - 1):
            made = made + super().reconstruct(network, x)
        return made / self.samples


DETECTOR = BayesianVAE()
CARD, load = DETECTOR.card, DETECTOR.load
