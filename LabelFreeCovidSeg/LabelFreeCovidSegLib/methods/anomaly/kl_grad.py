"""KL Grad: abnormal is what would have to change for the latent to be likelier; nothing is rebuilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import divergence
from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

PERCENTILE = 99.9
"""Of the score in healthy slices that is taken for 1."""


@dataclass(frozen=True)
class KLGrad(VAE):
    """A VAE whose score is the slope of the divergence.

    Attributes:
        scale: the slope that is taken for 1; `tuned` sets it.
        sigma: in pixels, of the Gaussian that smooths the score, 5 pixels wide.
    """

    scale: float = 1.0
    sigma: float = 1.0

    card = Card(
        name="kl-grad",
        title="KL Grad",
        summary="A variational autoencoder of healthy slices. Where a change would make its latent likelier is lesion.",
        citation="Zimmerer D, Isensee F, Petersen J, Kohl S, Maier-Hein K. Unsupervised Anomaly Localization using "
        "Variational Auto-Encoders. MICCAI 2019. arXiv:1907.02796",
        networks=("kl-grad",),
        picture_mm=0.0,
    )

    def score(self, network: Any, x: Tensor) -> Tensor:
        """The slope, smoothed, as a share of `scale`."""
        import torch
        from torch.nn import functional

        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(divergence(*network.encode(x)).sum(), x)
        bell = (-0.5 * (torch.arange(-2.0, 3.0, device=x.device) / self.sigma).square()).exp()
        kernel = torch.outer(bell, bell) / bell.sum().square()
        return functional.conv2d(slope.abs().float(), kernel[None, None], padding=2) / self.scale

    def tuned(self, network: Any, healthy: Tensor) -> Self:
        """Scaled so that hardly anything healthy is 1."""
        import numpy as np

        slopes = replace(self, scale=1.0).score(network, healthy)[healthy > 0]
        return replace(self, scale=float(np.percentile(slopes.cpu().numpy(), PERCENTILE)))


DETECTOR = KLGrad()
CARD, load = DETECTOR.card, DETECTOR.load
