"""Constrained VAE: a reconstruction shall have the latent of what it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import difference, divergence, drawn
from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ConstrainedVAE(VAE):
    """A VAE that encodes its reconstruction again; the published ones are a plain and an adversarial autoencoder.

    Attributes:
        rho: weight of the distance between both means.
    """

    rho: float = 1.0

    card = Card(
        name="constrained-vae",
        title="Constrained VAE",
        summary="A variational autoencoder whose reconstructions have the latent of what they were made of. What it "
        "rebuilds darker is lesion.",
        citation="Chen X, Konukoglu E. Unsupervised Detection of Lesions in Brain MRI using constrained adversarial "
        "auto-encoders. MIDL 2018. arXiv:1806.04972",
        networks=("constrained-vae",),
        picture_mm=0.0,
    )

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """Those of a VAE, and how far the mean moves from slice to reconstruction."""
        mean, log_sd = network.encode(x)
        made = network.decode(drawn(mean, log_sd))
        again, _ = network.encode(made)
        return {
            "reconstruction": difference(x, made).mean(),
            "divergence": self.alpha * divergence(mean, log_sd).mean(),
            "constraint": self.rho * (mean - again).square().mean(),
        }


DETECTOR = ConstrainedVAE()
CARD, load = DETECTOR.card, DETECTOR.load
