"""The discriminator of the cycle-GAN: one verdict for each 70 x 70 patch of a slice (Isola et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

PAPER_WIDTHS = (64, 128, 256, 512)
"""2,762,689 parameters."""


class PatchGAN(nn.Module):
    """Slices (n, 1, j, i) to verdicts (n, 1, j / 8 - 2, i / 8 - 2), of no fixed range.

    The cycle-GAN's paper does not print the kernel; a patch of 70 pixels, which it does, takes 4 x 4.

    Args:
        widths: of the first four convolutions; a fifth gives the verdict.
    """

    def __init__(self, widths: Sequence[int] = PAPER_WIDTHS) -> None:
        super().__init__()
        a, b, c, d = widths
        self.first = nn.Conv2d(1, a, 4, stride=2, padding=1)
        self.normalised = nn.ModuleList(
            (
                nn.Conv2d(a, b, 4, stride=2, padding=1),
                nn.Conv2d(b, c, 4, stride=2, padding=1),
                nn.Conv2d(c, d, 4, stride=1, padding=1),
            )
        )
        self.verdict = nn.Conv2d(d, 1, 4, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """A verdict a patch: 1 real, 0 made."""
        x = functional.leaky_relu(self.first(x), 0.2)
        for convolution in self.normalised:
            x = functional.leaky_relu(functional.instance_norm(convolution(x)), 0.2)
        return self.verdict(x)
