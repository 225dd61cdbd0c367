"""AE, what all others vary: a slice goes through a vector too short to hold a lesion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import Detector, Preset, difference
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor, nn


class AE(Detector):
    """Lowers the difference between a slice and its reconstruction."""

    card = Card(
        name="ae",
        title="AE",
        summary="An autoencoder of healthy slices. What it rebuilds darker is lesion.",
        citation="Baur C, Denner S, Wiestler B, Navab N, Albarqouni S. Autoencoders for unsupervised anomaly "
        "segmentation in brain MR images: A comparative study. Med Image Anal 2021;69:101952. "
        "doi:10.1016/j.media.2020.101952",
        networks=("ae",),
        picture_mm=0.0,
    )

    def build(self, preset: Preset) -> nn.Module:
        """One head: the latent."""
        from LabelFreeCovidSegLib.networks.autoencoder import Autoencoder, Decoder, Encoder

        size = preset.widths, preset.side
        return Autoencoder(Encoder(*size, [preset.latent]), Decoder(*size, preset.latent))

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """The reconstruction alone."""
        return {"reconstruction": difference(x, self.reconstruct(network, x)).mean()}

    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """There and back."""
        (latent,) = network.encode(x)
        return network.decode(latent)


DETECTOR = AE()
CARD, load = DETECTOR.card, DETECTOR.load
