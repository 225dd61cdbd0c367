"""The slice network of Shabani et al. (see `networks.dense_unet3d`): a narrow BCDU-Net, and a contrastive head.

Azad, Asadi-Aghbolaghi, Fathy, Escalera: Bi-Directional ConvLSTM U-Net with Densley Connected Convolutions, ICCV
workshops 2019; here at half its width. The encoder is a module of its own because segmentation and contrast share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PAPER_BASE = 32
"""Width of the first level: 5,008,197 parameters."""
LEVELS = 4
STRIDE = 2 ** (LEVELS - 1)
PROJECTION = 128
"""Features that slices are compared by."""
SLOPE = 0.3

Features = tuple[Tensor, ...]
"""Levels 1 to 4 of a batch of slices, the last one being the bottom."""


class Encoder(nn.Module):
    """En_2D: three levels, and a bottom of three densely connected blocks."""

    def __init__(self, base: int = PAPER_BASE) -> None:
        super().__init__()
        *widths, bottom = (base * 2**level for level in range(LEVELS))
        self.levels = nn.ModuleList(_twice(a, b) for a, b in pairwise([1, *widths]))
        self.skip_dropout = nn.Dropout(0.5)
        self.blocks = nn.ModuleList(
            nn.Sequential(_twice(channels, bottom), nn.Dropout(0.5)) for channels in (widths[-1], bottom, 2 * bottom)
        )

    def forward(self, x: Tensor) -> Features:
        """Features of slices (batch, 1, j, i).

        Raises:
            ValueError: an extent is not divisible by 8.
        """
        if any(extent % STRIDE for extent in x.shape[2:]):
            raise ValueError(f"extents {tuple(x.shape[2:])} must be divisible by {STRIDE}")
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
            x = functional.max_pool2d(x, 2)
        features[-1] = self.skip_dropout(features[-1])
        first, second, third = self.blocks
        one = first(x)
        two = second(one)
        return *features, third(torch.cat((two, one), dim=1))


class Decoder(nn.Module):
    """The way up: what comes from below and the skip are a sequence of two that a convolutional LSTM reads.

    Args:
        lstm_kernel: of all three LSTMs. first_up_kernel: of the first transposed convolution. 2 and 3 are those of the
            released training program; 3 and 2, those of its evaluation, make 5,166,917 parameters.
    """

    def __init__(self, base: int = PAPER_BASE, lstm_kernel: int = 2, first_up_kernel: int = 3) -> None:
        super().__init__()
        widths = [base * 2**level for level in reversed(range(LEVELS))]
        kernels = (first_up_kernel, 2, 2)
        self.up = nn.ModuleList(_double(a, b, kernel) for (a, b), kernel in zip(pairwise(widths), kernels, strict=True))
        self.merge = nn.ModuleList(ConvLSTM(width, width // 2, lstm_kernel) for width in widths[1:])
        self.convs = nn.ModuleList(_twice(width // 2, width) for width in widths[1:])
        # The published ReLU has no gradient below 0. Of two channels both went there, and nothing was learned any more.
        self.out = nn.Sequential(nn.Conv2d(base, 2, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Conv2d(2, 1, 1), nn.Tanh())

    def forward(self, features: Features) -> Tensor:
        """How much brighter than healthy each pixel is, (batch, 1, j, i) in [-1, 1]."""
        *skips, x = features
        for up, merge, convs, skip in zip(self.up, self.merge, self.convs, reversed(skips), strict=True):
            x = convs(merge((up(x), skip)))
        return self.out(x)


class ConvLSTM(nn.Module):
    """A convolutional LSTM that gives the hidden state after the last of a sequence (Shi et al. 2015)."""

    def __init__(self, in_channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.hidden = hidden
        # With an even kernel one row and column more is needed after than before.
        self.padding = [(kernel - 1) // 2, kernel // 2] * 2
        self.of_input = nn.Conv2d(in_channels, 4 * hidden, kernel)
        self.of_hidden = nn.Conv2d(hidden, 4 * hidden, kernel, bias=False)
        with torch.no_grad():
            self.of_input.bias[hidden : 2 * hidden] = 1.0  # type: ignore[index]  # there is one; remember at first

    def forward(self, sequence: Sequence[Tensor]) -> Tensor:
        """(batch, hidden, j, i) after tensors (batch, in_channels, j, i)."""
        state = memory = torch.zeros(())
        for step, x in enumerate(sequence):
            gates = self.of_input(functional.pad(x, self.padding))
            if step:
                gates = gates + self.of_hidden(functional.pad(state, self.padding))
            take, keep, new, show = gates.chunk(4, dim=1)
            memory = take.sigmoid() * new.tanh() + (keep.sigmoid() * memory if step else 0.0)
            state = show.sigmoid() * memory.tanh()
        return state


class Projection(nn.Module):
    """The contrastive head: a slice's features as `PROJECTION` numbers, not below 0.

    They are normalised over the batch first. As they are, all have the same sign and are large, so that the angles
    between slices hardly differ.
    """

    def __init__(self, base: int = PAPER_BASE) -> None:
        super().__init__()
        channels = base * 2 ** (LEVELS - 1)
        self.dense = nn.Sequential(nn.BatchNorm1d(channels, affine=False), nn.Linear(channels, PROJECTION))

    def forward(self, features: Features) -> Tensor:
        """(batch, 128) of the encoder's answer."""
        return functional.relu(self.dense(features[-1].mean(dim=(2, 3))))


class BCDUNet(nn.Module):
    """The decoder after the encoder: all that segments."""

    def __init__(self, base: int = PAPER_BASE, lstm_kernel: int = 2, first_up_kernel: int = 3) -> None:
        super().__init__()
        self.encoder = Encoder(base)
        self.decoder = Decoder(base, lstm_kernel, first_up_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """How much brighter than healthy each pixel of slices (batch, 1, j, i) is; same shape, in [-1, 1]."""
        return self.decoder(self.encoder(x))


def _twice(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, each with a ReLU; weights as He et al. draw them for those."""
    layers: list[nn.Module] = []
    for a, b in ((in_channels, out_channels), (out_channels, out_channels)):
        conv = nn.Conv2d(a, b, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


def _double(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A transposed convolution that doubles the extents, normalised and activated."""
    odd = kernel % 2
    up = nn.ConvTranspose2d(in_channels, out_channels, kernel, stride=2, padding=odd, output_padding=odd)
    return nn.Sequential(up, nn.BatchNorm2d(out_channels), nn.ReLU())
