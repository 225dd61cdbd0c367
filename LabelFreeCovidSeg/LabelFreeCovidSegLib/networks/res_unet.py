"""The residual 3-D U-Net of NormNet (Yao et al. 2021), which is the one of MONAI's spleen segmentation tutorial.

Our own so that segmenting needs no MONAI; a test proves that parameters and outputs are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.networks.conv3d import Conv3d

PAPER_CHANNELS = (16, 32, 64, 128, 256)
"""4,808,917 parameters with one channel in and two out."""


class ResUNet(nn.Module):
    """U-Net of residual units: strided convolutions go down, transposed ones come up, batch norm and PReLU between.

    The first convolution is strided already, so nothing but the output has full resolution: 97 GFLOPs for
    32 x 512 x 512 voxels, where the original 3-D U-Net takes 15,631.

    Args:
        channels: width of each level, the last one being the bottom.
    """

    def __init__(self, channels: Sequence[int] = PAPER_CHANNELS, in_channels: int = 1, out_channels: int = 2) -> None:
        super().__init__()
        *levels, bottom = channels
        self.stride = 2 ** len(levels)
        self.down = nn.ModuleList(ResidualUnit(a, b, stride=2) for a, b in pairwise([in_channels, *levels]))
        self.bottom = ResidualUnit(levels[-1], bottom)
        # What comes up to a level has its skip's width, except from the bottom; what goes up has the next skip's.
        from_below = [*levels[:-1], bottom]
        to_above = [out_channels, *levels[:-1]]
        self.up = nn.ModuleList(
            UpUnit(skip + lower, upper, last=depth == 0)
            for depth, (skip, lower, upper) in enumerate(zip(levels, from_below, to_above, strict=True))
        )
        # Convolutions follow the memory order of their weights; with a voxel's channels side by side, training takes
        # 0.55 s of a CPU core where it took 1.02, and segmenting two thirds of the time.
        nn.utils.convert_conv3d_weight_memory_format(self, torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, out_channels, k, j, i) of a batch (batch, in_channels, k, j, i).

        Raises:
            ValueError: an extent is not divisible by 16 (2 to the number of levels).
        """
        if any(extent % self.stride for extent in x.shape[2:]):
            raise ValueError(f"extents {tuple(x.shape[2:])} must be divisible by {self.stride}")
        skips = []
        for unit in self.down:
            x = unit(x)
            skips.append(x)
        x = self.bottom(x)
        for unit, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = unit(torch.cat((skip, x), dim=1))
        return x


class ResidualUnit(nn.Module):
    """Two convolutions and a shortcut that is itself a convolution where stride or width changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv3d(in_channels, out_channels, 3, stride, padding=1),
            *_norm_act(out_channels),
            Conv3d(out_channels, out_channels, 3, padding=1),
            *_norm_act(out_channels),
        )
        kernel = 3 if stride != 1 else 1
        self.shortcut = Conv3d(in_channels, out_channels, kernel, stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the extents if strided, else keep them."""
        return self.shortcut(x) + self.body(x)


class UpUnit(nn.Module):
    """A transposed convolution that doubles the extents, then one convolution with an identity shortcut.

    Args:
        last: the level of the output: its convolution is neither normalised nor activated.
    """

    def __init__(self, in_channels: int, out_channels: int, last: bool) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
            *_norm_act(out_channels),
        )
        self.body = nn.Sequential(
            Conv3d(out_channels, out_channels, 3, padding=1),
            *(() if last else _norm_act(out_channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double the extents."""
        x = self.up(x)
        return x + self.body(x)


def _norm_act(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm3d(channels), nn.PReLU()
