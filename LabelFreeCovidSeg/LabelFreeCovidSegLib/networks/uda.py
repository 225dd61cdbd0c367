"""The four networks of unsupervised domain adaptation by cross-domain reconstruction.

Chen, Jiang, Loew, Ko: Unsupervised domain adaptation based COVID-19 CT infection segmentation network. Applied
Intelligence 52 (2022) 6340-6353. Where its text leaves sizes open or contradicts itself, its ancestor decides:
Sankaranarayanan et al., Learning from Synthetic Data, CVPR 2018.

Levels halve the picture: level 1 is the slice itself, level 5 is a sixteenth of its width. Instead of batch norm, which
would mix the statistics of two domains, every picture is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PAPER_CHANNELS = (64, 128, 256, 512)
"""Of f. With four classes f and c have 3,790,212 parameters and g has 3,577,921."""
PAPER_CRITIC_WIDTH = 128
"""Of d: 1,335,044 parameters."""
GENERATOR_LEVELS = (3, 4, 5)
STRIDE = 16
"""What the extents of a picture must be divisible by."""
PIXELS_PER_PATCH = 64
"""Pixels of a picture for each patch that d judges: 8 x 8."""

Features = tuple[Tensor, ...]
"""Levels 2 to 5 of one batch."""


class Extractor(nn.Module):
    """f: four convolutions, each followed by 2 x 2 max-pooling.

    Args:
        channels: width of levels 2 to 5.
    """

    def __init__(self, channels: Sequence[int] = PAPER_CHANNELS) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*_conv(a, b, affine=True), nn.MaxPool2d(2)) for a, b in pairwise([1, *channels])
        )

    def forward(self, x: Tensor) -> Features:
        """Levels 2 to 5 of a batch (batch, 1, j, i).

        Raises:
            ValueError: an extent is not divisible by 16.
        """
        if any(extent % STRIDE for extent in x.shape[2:]):
            raise ValueError(f"extents {tuple(x.shape[2:])} must be divisible by {STRIDE}")
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return tuple(features)


class Classifier(nn.Module):
    """c: a U-Net's way up over the features of f to level 2, and the scores stretched to level 1.

    The paper prints three upsampling layers for four poolings; the fourth step is bilinear.
    """

    def __init__(self, channels: Sequence[int] = PAPER_CHANNELS, classes: int = 4) -> None:
        super().__init__()
        steps = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in steps)
        self.merge = nn.ModuleList(nn.Sequential(*_conv(2 * b, b, affine=True)) for _, b in steps)
        self.scores: nn.Module = nn.Conv2d(channels[0], classes, 1)

    def forward(self, features: Features) -> Tensor:
        """Class scores (batch, classes, j, i) of the slices that `features` are of."""
        return functional.interpolate(
            self.scores(self.merged(features)), scale_factor=2, mode="bilinear", align_corners=False
        )

    def merged(self, features: Features) -> Tensor:
        """What the scores are made of, at level 2: (batch, channels, j / 2, i / 2)."""
        *skips, x = features
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat((up(x), skip), dim=1))
        return x


class Generator(nn.Module):
    """g: a slice again from levels 3, 4 and 5 of f; each of its layers doubles the extents.

    Without level 2 it can't copy the slice: what it shows is what the deep features know (the paper's table 3).

    Args:
        channels: of f.
        levels: of f that it sees, from 2 to 5; it begins at the deepest one.
    """

    def __init__(self, channels: Sequence[int] = PAPER_CHANNELS, levels: Sequence[int] = GENERATOR_LEVELS) -> None:
        super().__init__()
        self.levels = range(max(levels), 1, -1)
        self.skips = set(levels) - {max(levels)}
        width = dict(enumerate(channels, 2))
        self.layers = nn.ModuleList(
            nn.Sequential(*_grow(width[level] * (2 if level in self.skips else 1), width[max(level - 1, 2)]))
            for level in self.levels
        )
        self.out = nn.Sequential(nn.Conv2d(width[2], 1, 3, padding=1), nn.Tanh())

    def forward(self, features: Features) -> Tensor:
        """A slice (batch, 1, j, i) in [-1, 1]."""
        x = features[self.levels[0] - 2]
        for level, layer in zip(self.levels, self.layers, strict=True):
            x = layer(torch.cat((x, features[level - 2]), dim=1) if level in self.skips else x)
        return self.out(x)


class Discriminator(nn.Module):
    """d: to which of four kinds a patch belongs: source or target, each real or made by g.

    Nine residual blocks on three scales between two convolutions; each patch of 8 x 8 pixels is judged by the
    110 x 110 around it.
    """

    def __init__(self, width: int = PAPER_CRITIC_WIDTH) -> None:
        super().__init__()

        def blocks() -> list[nn.Module]:
            return [Residual(width, nn.LeakyReLU(0.2)) for _ in range(3)]

        self.body = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *blocks(),
            nn.MaxPool2d(2),
            *blocks(),
            nn.MaxPool2d(2),
            *blocks(),
            nn.Conv2d(width, 4, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, 4, j / 8, i / 8) of slices (batch, 1, j, i)."""
        return self.body(x)


class Segmenter(nn.Module):
    """c after f: all that is used once training is over."""

    def __init__(self, extractor: Extractor, classifier: Classifier) -> None:
        super().__init__()
        self.extractor = extractor
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, classes, j, i) of slices (batch, 1, j, i)."""
        return self.classifier(self.extractor(x))


class Residual(nn.Module):
    """One convolution, normalised and activated, beside the identity."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.InstanceNorm2d(channels), activation)

    def forward(self, x: Tensor) -> Tensor:
        """Keep shape."""
        return x + self.body(x)


def _conv(in_channels: int, out_channels: int, affine: bool) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.InstanceNorm2d(out_channels, affine=affine),
        nn.ReLU(),
    )


def _grow(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    """A layer of g: double the extents, then two residual blocks."""
    return (
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(),
        Residual(out_channels, nn.ReLU()),
        Residual(out_channels, nn.ReLU()),
    )
