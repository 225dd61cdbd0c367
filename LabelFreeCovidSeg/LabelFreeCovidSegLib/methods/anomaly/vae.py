"""VAE: the latent is a distribution, kept near the standard normal one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import Detector, Preset, difference, divergence, drawn
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class VAE(Detector):
    """An autoencoder of means and standard deviations.

    Attributes:
        alpha: weight of the divergence, Yao et al.'s. It is so small because differences are summed over pixels.
        dropout: of what the encoder says, and of the decoder's first layer.
    """

    alpha: float = 1e-6
    dropout: float = 0.0

    card = Card(
        name="vae",
        title="VAE",
        summary="A variational autoencoder of healthy slices. What it rebuilds darker is lesion.",
        citation="Kingma DP, Welling M. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114",
        networks=("vae",),
        picture_mm=0.0,
    )

    def build(self, preset: Preset) -> nn.Module:
        """Two heads: mean and logarithm of the standard deviation."""
        from LabelFreeCovidSegLib.networks.autoencoder import Autoencoder, Decoder, Encoder

        size = preset.widths, preset.side
        return Autoencoder(
            Encoder(*size, [preset.latent] * 2, dropout=self.dropout),
            Decoder(*size, preset.latent, dropout=self.dropout),
        )

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """Reconstruction of a sample, and divergence."""
        mean, log_sd = network.encode(x)
        made = network.decode(drawn(mean, log_sd))
        return {
            "reconstruction": difference(x, made).mean(),
            "divergence": self.alpha * divergence(mean, log_sd).mean(),
        }

    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """By the mean, without chance."""
        mean, _ = network.encode(x)
        return network.decode(mean)


DETECTOR = VAE()
CARD, load = DETECTOR.card, DETECTOR.load
