"""A variational autoencoder whose latent is a mixture of Gaussians (Dilokthanakul et al., arXiv:1611.02648)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from LabelFreeCovidSegLib.networks.autoencoder import Autoencoder, Decoder, Encoder

HIDDEN = 64
"""Width of the layer between w and the Gaussians; the papers do not print it."""
LOG_PRECISION = 0.1
"""Added to every Gaussian's."""


class GMVAE(Autoencoder):
    """Slices to z and w, w to the Gaussians that z may come from, and z to slices.

    Args:
        latent: numbers of z. outer: numbers of w. classes: Gaussians.
    """

    def __init__(self, widths: Sequence[int], side: int, latent: int, outer: int, classes: int) -> None:
        heads = (latent, latent, outer, outer)
        super().__init__(Encoder(widths, side, heads), Decoder(widths, side, latent))
        self.gaussians = Gaussians(outer, classes, latent)


class Gaussians(nn.Module):
    """p(z | w, c)."""

    def __init__(self, outer: int, classes: int, latent: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(outer, HIDDEN), nn.ReLU())
        self.means = nn.Sequential(nn.Linear(HIDDEN, classes * latent), nn.Unflatten(1, (classes, latent)))
        self.log_precisions = nn.Sequential(nn.Linear(HIDDEN, classes * latent), nn.Unflatten(1, (classes, latent)))

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the inverse variances, (n, classes, latent) each, for (n, outer)."""
        hidden = self.hidden(w)
        return self.means(hidden), self.log_precisions(hidden) + LOG_PRECISION
