"""The two 3-D networks of Shabani et al.: what makes lungs healthy, and what tells made lungs from real ones.

Shabani et al.: Self-supervised region-aware segmentation of COVID-19 CT images using 3D GAN and contrastive learning.
Computers in Biology and Medicine 149 (2022) 106033. The text calls the generator a modified U-Net++ and a DenseUNet;
the authors' released program has neither. Sizes here are that program's, by its counts of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from LabelFreeCovidSegLib.networks.conv3d import Conv3d

PAPER_BASE = 8
"""Width of the generator's first level: 7,861,643 parameters."""
PAPER_CRITIC_CHANNELS = (16, 32, 64, 128, 128)
RELEASED_CRITIC_CHANNELS = (32, 64, 128)
"""What was left of the released program's discriminator, whose first convolution nothing flowed through: 282,378
parameters. Its convolutions were not padded, and a fourth would have found no slices left."""
DEPTH = 4
"""Poolings of the generator."""
STRIDE = 2**DEPTH
NOISE_CHANNELS = 10
NOISE_KERNELS = (1, 3, 5)
SLOPE = 0.3


class DenseUNet3D(nn.Module):
    """G: a U-Net in which each level hands on its input beside what it made of it.

    Without normalisation, so that intensities stay what they are. What the network has to say is a change of its input:
    it begins close to a copy, and does not have to learn to draw a lung first. The sum is cut off at 0 and 1, but its
    gradient is not: an adversary's first steps blacken the lungs, and from there neither the published ReLU nor a
    sigmoid found a way back.

    Args:
        base: width of the first level; each level doubles it.
    """

    def __init__(self, base: int = PAPER_BASE) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(DEPTH)]
        self.down = nn.ModuleList()
        channels = 1
        for width in widths:
            self.down.append(DenseUnit(channels, width))
            channels += width
        bottom = 2 * widths[-1]
        self.bottom_in = _conv(channels, bottom)
        self.noise = NoiseBlock(channels + bottom)
        self.bottom_out = _conv(channels + bottom, bottom)
        # The lowest skip carries the level's input too, as the released program has it; the others do not.
        skips = [*widths[:-1], channels]
        channels += bottom
        self.up = nn.ModuleList()
        for width, skip in zip(reversed(widths), reversed(skips), strict=True):
            self.up.append(UpUnit(channels, 4 * width, skip, width))
            channels = 5 * width + skip
        self.out = Conv3d(channels, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Healthy lungs (batch, 1, k, j, i) in [0, 1].

        Args:
            x: (batch, 1, k, j, i) in [0, 1].
            z: (batch, *latent_shape(k, j, i)), uniform in [-0.5, 0.5].

        Raises:
            ValueError: an extent is not divisible by 16.
        """
        if any(extent % STRIDE for extent in x.shape[2:]):
            raise ValueError(f"extents {tuple(x.shape[2:])} must be divisible by {STRIDE}")
        image, skips = x, []
        for unit in self.down:
            made = unit(x)
            x = torch.cat((x, made), dim=1)
            skips.append(x if unit is self.down[-1] else made)
            x = functional.max_pool3d(x, 2)
        latent = self.noise(torch.cat((x, self.bottom_in(x)), dim=1), z)
        x = torch.cat((x, self.bottom_out(latent)), dim=1)
        for unit, skip in zip(self.up, reversed(skips), strict=True):
            x = unit(x, skip)
        made = image + self.out(x)
        return made + (made.clamp(0.0, 1.0) - made).detach()


class DenseUnit(nn.Module):
    """Two convolutions, the second of which sees the input again."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, width)
        self.second = _conv(in_channels + width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep extents; `width` channels."""
        return self.second(torch.cat((x, self.first(x)), dim=1))


class UpUnit(nn.Module):
    """A transposed convolution that doubles the extents, the skip beside it, and a dense unit."""

    def __init__(self, in_channels: int, up_channels: int, skip_channels: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, up_channels, 2, stride=2)
        self.dense = DenseUnit(up_channels + skip_channels, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Channels of the transposed convolution, of the skip, and of the dense unit."""
        x = torch.cat((self.up(x), skip), dim=1)
        return torch.cat((x, self.dense(x)), dim=1)


class NoiseBlock(nn.Module):
    """Randomness for the latent: seen together by kernels of three sizes, whose answers are added to the latent.

    Args:
        channels: of the latent; each kernel answers for a third of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = [channels // 3 + (n < channels % 3) for n in range(3)]
        self.kernels = nn.ModuleList(
            _conv(channels + NOISE_CHANNELS, part, kernel) for part, kernel in zip(parts, NOISE_KERNELS, strict=True)
        )

    def forward(self, latent: Tensor, z: Tensor) -> Tensor:
        """The latent (batch, channels, k, j, i) with noise in it."""
        both = torch.cat((latent, z), dim=1)
        return latent + torch.cat([kernel(both) for kernel in self.kernels], dim=1)


class Discriminator3D(nn.Module):
    """D: whether lungs are real and healthy or made by G.

    The paper's five convolutions, each followed by a pooling. They are padded, so that 32 slices are enough for all.
    Activations leak: with the paper's ReLU, the narrow layers of `answer` were dead after 100 iterations, and all lungs
    had the same answer.

    Args:
        channels: of the convolutions.
        dropout: of the hidden layers. With a batch of two, the paper's half drowns what there is to learn: told to
            tell healthy lungs from ill ones, this network was as good as chance after 120 iterations.
    """

    def __init__(self, channels: Sequence[int] = PAPER_CRITIC_CHANNELS, dropout: float = 0.5) -> None:
        super().__init__()
        levels = [
            (Conv3d(a, b, 3, padding=1), nn.LeakyReLU(SLOPE), nn.MaxPool3d(2)) for a, b in pairwise([1, *channels])
        ]
        self.features = nn.Sequential(*(layer for level in levels for layer in level))
        self.answer = nn.Sequential(
            nn.Linear(channels[-1], 32), nn.LeakyReLU(SLOPE), nn.Dropout(dropout),
            nn.Linear(32, 16), nn.LeakyReLU(SLOPE), nn.Dropout(dropout),
            nn.Linear(16, 8), nn.LeakyReLU(SLOPE),
            nn.Linear(8, 2),
        )  # fmt: skip
        # PyTorch's own scale halves a signal in each of nine layers, until all lungs have the same answer.
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, 2) of lungs (batch, 1, k, j, i): class 0 made, class 1 real."""
        return self.answer(self.features(x).mean(dim=(2, 3, 4)))


def latent_shape(extents: Sequence[int]) -> tuple[int, ...]:
    """The random latent (channels, k, j, i) for lungs of these extents (k, j, i)."""
    return NOISE_CHANNELS, *(extent // STRIDE for extent in extents)


def _conv(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(Conv3d(in_channels, out_channels, kernel, padding=kernel // 2), nn.LeakyReLU(SLOPE))
