"""The generator of the cycle-GAN: a U-Net of strided convolutions, as deep as the slice is wide.

Its plan is that of pix2pix (Isola et al., Image-to-image translation with conditional adversarial networks, CVPR 2017)
with the 3 x 3 kernels that the cycle-GAN's paper names (see `methods.cyclegan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PAPER_WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)
"""Eight stages: 256 pixels become one. 30,604,353 parameters with 3 x 3 kernels, 54,403,457 with pix2pix's 4 x 4."""


class UNet2D(nn.Module):
    """Slices (n, 1, j, i) to slices in [-1, 1].

    Every stage is normalised by itself, but for the outermost, whose brightness is that of the slice, and the
    innermost on the way down, which may be a single pixel.

    Args:
        widths: of the stages, the outermost first; each halves the slice.
        kernel: 3 or 4.
    """

    def __init__(self, widths: Sequence[int] = PAPER_WIDTHS, kernel: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(wide, narrow, kernel, stride=2, padding=1) for wide, narrow in pairwise([1, *widths])
        )
        # From the innermost stage outwards; all but that one are handed what their stage saw on the way down, too.
        outputs = [*reversed(widths[:-1]), 1]
        inputs = [widths[-1], *(2 * width for width in outputs[:-1])]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, kernel, stride=2, padding=1, output_padding=kernel % 2)
            for wide, narrow in zip(inputs, outputs, strict=True)
        )

    @property
    def stride(self) -> int:
        """What the extents of a slice must be divisible by."""
        return 2 ** len(self.down)

    def forward(self, x: Tensor) -> Tensor:
        """Raises `ValueError` for extents that are not divisible by `stride`."""
        if any(extent % self.stride for extent in x.shape[2:]):
            raise ValueError(f"extents {tuple(x.shape[2:])} must be divisible by {self.stride}")
        x = self.down[0](x)
        seen = []
        for stage in self.down[1:]:
            seen.append(x)
            x = stage(functional.leaky_relu(x, 0.2))
            if stage is not self.down[-1]:
                x = functional.instance_norm(x)
        for stage in self.up[:-1]:
            x = functional.instance_norm(stage(functional.relu(x)))
            x = torch.cat((x, seen.pop()), dim=1)
        return torch.tanh(self.up[-1](functional.relu(x)))
