"""GMVAE: the latent is kept near a mixture of Gaussians instead of a single one."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import Detector, Preset, difference, divergence, drawn
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class GMVAE(Detector):
    """q(z | x), q(w | x) and p(z | w, c) are Gaussians; which of the `classes` c a slice is of follows by Bayes.

    Attributes:
        outer: numbers of w.
        least: what the divergence of p(c | w, z) counts at least, so that classes may differ.
    """

    classes: int = 9
    outer: int = 1
    least: float = 1.0

    card = Card(
        name="gmvae",
        title="GMVAE",
        summary="A variational autoencoder of a mixture of Gaussians. What it rebuilds darker is lesion.",
        citation="You S, Tezcan KC, Chen X, Konukoglu E. Unsupervised Lesion Detection via Image Restoration with a "
        "Normative Prior. MIDL 2019. PMLR 102:540-556",
        networks=("gmvae",),
        picture_mm=0.0,
    )

    def build(self, preset: Preset) -> nn.Module:
        """Mean and log-variance of z and of w."""
        from LabelFreeCovidSegLib.networks.gmvae import GMVAE

        return GMVAE(preset.widths, preset.side, preset.latent, self.outer, self.classes)

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """Reconstruction, and the divergences of z, of w and of c."""
        mean, log_variance, outer_mean, outer_log_variance = network.encode(x)
        z, w = drawn(mean, log_variance / 2), drawn(outer_mean, outer_log_variance / 2)
        means, log_precisions = network.gaussians(w)  # (n, classes, latent)
        # Up to what is the same for all classes.
        likelihoods = (log_precisions - log_precisions.exp() * (z[:, None] - means).square()).sum(dim=2) / 2
        logarithms = likelihoods.log_softmax(dim=1)
        shares = logarithms.exp()  # p(c | w, z)
        variances = log_variance.exp()[:, None] + (mean[:, None] - means).square()
        terms = log_precisions.exp() * variances - log_precisions - log_variance[:, None] - 1
        of_each = terms.sum(dim=2) / 2  # q(z | x) from p(z | w, c)
        of_class = (shares * (logarithms + log(self.classes))).sum(dim=1)  # p(c | w, z) from the uniform one
        return {
            "reconstruction": difference(x, network.decode(z)).mean(),
            "divergence": (shares * of_each).sum(dim=1).mean(),
            "outer": divergence(outer_mean, outer_log_variance / 2).mean(),
            "class": of_class.clamp_min(self.least).mean(),
        }

    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """By the mean, without chance."""
        mean, *_ = network.encode(x)
        return network.decode(mean)


DETECTOR = GMVAE()
CARD, load = DETECTOR.card, DETECTOR.load
