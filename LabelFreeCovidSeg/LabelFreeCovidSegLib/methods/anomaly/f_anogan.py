"""f-AnoGAN: the decoder is a generator that an adversary taught; the encoder comes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import Detector, Preset
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor, nn

COARSER = 2
"""It works on 64 x 64 pixels. Yao et al. cut those out of the middle; here they are all of the slice, made coarser,
because lesions lie at the rim of the lungs."""


@dataclass(frozen=True)
class FAnoGAN(Detector):
    """A GAN of healthy slices, and an encoder that finds a slice in it ("izi_f").

    The GAN is taught first (`training.f_anogan`); `losses` are the encoder's.

    Attributes:
        kappa: weight of the difference in the critic's eyes.
    """

    kappa: float = 1.0

    card = Card(
        name="f-anogan",
        title="f-AnoGAN",
        summary="A generator of healthy slices, and an encoder into it. What it rebuilds darker is lesion.",
        citation="Schlegl T, Seeböck P, Waldstein SM, Langs G, Schmidt-Erfurth U. f-AnoGAN: Fast unsupervised anomaly "
        "detection with generative adversarial networks. Med Image Anal 2019;54:30-44. "
        "doi:10.1016/j.media.2019.01.010",
        networks=("f-anogan",),
        picture_mm=0.0,
    )

    def build(self, preset: Preset) -> nn.Module:
        """Encoder, generator and critic, a stage less than the others have."""
        from LabelFreeCovidSegLib.networks.f_anogan import FAnoGAN

        return FAnoGAN(preset.widths[:-1], preset.side // COARSER, preset.latent)

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """Differences between a slice and what the generator makes of its code, to the eye and to the critic."""
        x = coarse(x)
        made = network.generator(network.encoder(x))
        seen, seen_made = (network.critic.features(one) for one in (x, made))
        return {
            "reconstruction": (x - made).square().mean(),
            "features": self.kappa * (seen - seen_made).square().mean(),
        }

    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """What the generator makes of the slice's code, as fine as the slice."""
        from torch.nn import functional

        made = network.generator(network.encoder(coarse(x)))
        return functional.interpolate(made, scale_factor=COARSER, mode="bilinear", align_corners=False)


def coarse(x: Tensor) -> Tensor:
    """Slices of half the extents, each pixel the mean of four."""
    from torch.nn import functional

    return functional.avg_pool2d(x, COARSER)


DETECTOR = FAnoGAN()
CARD, load = DETECTOR.card, DETECTOR.load
