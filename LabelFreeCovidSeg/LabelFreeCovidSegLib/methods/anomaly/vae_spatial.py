"""VAE Spatial: the latent is a map, which still knows where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from LabelFreeCovidSegLib.methods.anomaly.detector import Preset
from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import nn


class VAESpatial(VAE):
    """A VAE with 1 x 1 convolutions around its latent; in the reference implementation only an AE has these."""

    card = Card(
        name="vae-spatial",
        title="VAE Spatial",
        summary="A variational autoencoder whose latent is a map. What it rebuilds darker is lesion.",
        citation="Baur C, Wiestler B, Albarqouni S, Navab N. Deep Autoencoding Models for Unsupervised Anomaly "
        "Segmentation in Brain MR Images. BrainLes 2018. arXiv:1804.04488",
        networks=("vae-spatial",),
        picture_mm=0.0,
    )

    def build(self, preset: Preset) -> nn.Module:
        """Two heads of 8 x 8 positions."""
        from LabelFreeCovidSegLib.networks.autoencoder import Autoencoder, SpatialDecoder, SpatialEncoder

        size = preset.widths, preset.side
        return Autoencoder(SpatialEncoder(*size, [preset.latent] * 2), SpatialDecoder(*size, preset.latent))


DETECTOR = VAESpatial()
CARD, load = DETECTOR.card, DETECTOR.load
