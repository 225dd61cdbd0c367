"""The backbone that anomaly detectors share: a slice squeezed into a few numbers, and a slice made of those.

Baur, Denner, Wiestler, Navab, Albarqouni: Autoencoders for unsupervised anomaly segmentation in brain MR images: a
comparative study. Medical Image Analysis 69 (2021) 101952; its "unified architecture".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

PAPER_WIDTHS = (32, 64, 128, 128)
"""Four stages: 128 pixels become 8. 1,627,249 parameters with one head of 128 numbers, 1,758,449 with two."""
KERNEL = 5
SLOPE = 0.3
SQUEEZE = 8
"""How many times fewer channels a vector is made of."""

Norm = Callable[[int, int], nn.Module]
"""(channels, extent) -> what normalises them."""


def batch_norm(channels: int, extent: int) -> nn.Module:
    """Of autoencoders."""
    return nn.BatchNorm2d(channels)


def layer_norm(channels: int, extent: int) -> nn.Module:
    """Of adversaries, each slice and channel by itself: batches of real and of made slices have other statistics."""
    return nn.LayerNorm((extent, extent))


class LastingDropout(nn.Dropout):
    """Dropout that evaluation does not switch off: a network that has it is drawn anew each time it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        """As in training."""
        return functional.dropout(x, self.p, training=True)


class Encoder(nn.Module):
    """Slices to vectors.

    Args:
        widths: of the stages; each halves the slice.
        side: of the square slice.
        heads: how many numbers each vector has.
    """

    def __init__(
        self, widths: Sequence[int], side: int, heads: Sequence[int], norm: Norm = batch_norm, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stages = _down(widths, side, norm)
        narrow = widths[-1] // SQUEEZE
        self.squeeze = nn.Sequential(nn.Conv2d(widths[-1], narrow, 1), nn.Flatten())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(narrow * (side >> len(widths)) ** 2, numbers), LastingDropout(dropout))
            for numbers in heads
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One (n, numbers) a head, of slices (n, 1, side, side)."""
        flat = self.squeeze(self.stages(x))
        return tuple(head(flat) for head in self.heads)


class Decoder(nn.Module):
    """A vector to a slice, the mirror image of `Encoder`."""

    def __init__(
        self, widths: Sequence[int], side: int, latent: int, norm: Norm = batch_norm, dropout: float = 0.0
    ) -> None:
        super().__init__()
        narrow, extent = widths[-1] // SQUEEZE, side >> len(widths)
        self.widen = nn.Sequential(
            nn.Linear(latent, narrow * extent**2),
            LastingDropout(dropout),
            nn.Unflatten(1, (narrow, extent, extent)),
            nn.Conv2d(narrow, widths[-1], 1),
        )
        self.stages = _up(widths, side, norm)

    def forward(self, z: Tensor) -> Tensor:
        """Slices (n, 1, side, side) of vectors (n, latent); any number, not only those from 0 to 1."""
        return self.stages(self.widen(z))


class SpatialEncoder(nn.Module):
    """Slices to maps, which still know where: one 1 x 1 convolution a head instead of a dense layer."""

    def __init__(self, widths: Sequence[int], side: int, heads: Sequence[int]) -> None:
        super().__init__()
        self.stages = _down(widths, side, batch_norm)
        self.heads = nn.ModuleList(nn.Conv2d(widths[-1], channels, 1) for channels in heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One (n, channels, j, i) a head, of slices (n, 1, side, side)."""
        features = self.stages(x)
        return tuple(head(features) for head in self.heads)


class SpatialDecoder(nn.Module):
    """A map to a slice."""

    def __init__(self, widths: Sequence[int], side: int, latent: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(latent, widths[-1], 1)
        self.stages = _up(widths, side, batch_norm)

    def forward(self, z: Tensor) -> Tensor:
        """Slices (n, 1, side, side) of maps (n, latent, j, i)."""
        return self.stages(self.widen(z))


class Autoencoder(nn.Module):
    """Both ways; what lies between is the detector's affair."""

    def __init__(self, encode: nn.Module, decode: nn.Module) -> None:
        super().__init__()
        self.encode = encode
        self.decode = decode


def _down(widths: Sequence[int], side: int, norm: Norm) -> nn.Sequential:
    """Strided convolutions: (n, 1, side, side) to (n, widths[-1], j, i)."""
    layers: list[nn.Module] = []
    for stage, (a, b) in enumerate(pairwise([1, *widths]), start=1):
        conv = nn.Conv2d(a, b, KERNEL, stride=2, padding=KERNEL // 2)
        layers += [conv, norm(b, side >> stage), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def _up(widths: Sequence[int], side: int, norm: Norm) -> nn.Sequential:
    """Transposed convolutions, from (n, widths[-1], j, i) to (n, 1, side, side)."""
    stages = len(widths)
    layers: list[nn.Module] = [norm(widths[-1], side >> stages), nn.ReLU()]
    outputs = [max(widths[0], widths[-1] >> stage) for stage in range(stages)]
    for stage, (a, b) in enumerate(pairwise([widths[-1], *outputs]), start=1):
        conv = nn.ConvTranspose2d(a, b, KERNEL, stride=2, padding=KERNEL // 2, output_padding=1)
        layers += [conv, norm(b, side >> (stages - stage)), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(outputs[-1], 1, 1))
