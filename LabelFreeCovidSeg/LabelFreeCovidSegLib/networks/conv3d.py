"""A 3-D convolution whose gradient can be trusted on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, but of an input two voxels deep never in bfloat16 on a CPU.

    There oneDNN (torch 2.13, with avx512_bf16) takes the weights' gradient from memory that nobody has written when
    the kernel has three voxels and stride 1: mostly zeros, at times 1e26 or NaN. Other depths are right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv3d.forward`."""
        if x.shape[2] == 2 and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)
