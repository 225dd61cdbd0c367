"""The discriminator of AdvEnt, which sees a slice's doubts and says of which domain it is (Vu et al., CVPR 2019)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class DoubtCritic(nn.Module):
    """Five convolutions 4 x 4 of stride 2, each verdict upon 94 x 94 pixels, as in DCGAN.

    Args:
        classes: of the segmentation, one map each.
        width: of the first convolution, 64 in the paper; doubled by each of the next three.
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise((classes, width, 2 * width, 4 * width, 8 * width)):
            layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (batch, 1, j / 32, i / 32) of self-information (batch, classes, j, i)."""
        return self.body(x)
