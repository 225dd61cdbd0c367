"""Prototypes: a class is known by examples of its features (Ouyang et al., ECCV 2020, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = 20.0
"""Of the cosines, before the softmax."""
FULL = 0.95
"""Share of a cell that must be of a class for the cell to be a prototype of it."""


class Prototypes(nn.Module):
    """Scores of classes by how like their prototypes a pixel is; the prototypes are no parameters, but remembered.

    Args:
        channels: of the features. classes: to tell apart, of which 0 is the background.
        room: how many prototypes of each class are kept, the latest ones.
    """

    vectors: Tensor
    """(classes, room, channels), each of length 1; 0 where there is none yet."""

    def __init__(self, channels: int, classes: int, room: int = 64) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, room, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Scores (batch, classes, j, i) of features (batch, channels, j, i); the least where nothing is remembered."""
        return torch.stack([likeness(features, known[known.any(dim=1)]) for known in self.vectors], dim=1)

    @torch.no_grad()
    def remember(self, features: Tensor, labels: Tensor, cells: int) -> None:
        """Take the prototypes of one labelled slice.

        Args:
            features: (channels, j, i). labels: (2 j, 2 i) classes; others are passed over. cells: along each side.
        """
        for label, known in enumerate(self.vectors):
            new = prototypes(features, shrunk(labels == label, features), cells, whole=label > 0)
            known.copy_(torch.cat((new.to(known.dtype), known.clone()))[: len(known)])


def likeness(features: Tensor, vectors: Tensor) -> Tensor:
    """How like prototypes (n, channels) the features (batch, channels, j, i) are: (batch, j, i), from -20 to 20.

    The mean over all prototypes, in which those that are most alike weigh most.
    """
    if not len(vectors):
        return features.new_full((len(features), *features.shape[2:]), -SCALE)
    scores = SCALE * functional.conv2d(functional.normalize(features, dim=1), vectors[:, :, None, None])
    return (scores.softmax(dim=1) * scores).sum(dim=1)


def prototypes(features: Tensor, mask: Tensor, cells: int, whole: bool) -> Tensor:
    """Mean features within a mask, each of length 1, (n, channels): of each cell that it fills, and of all of it.

    Args:
        features: (channels, j, i). mask: (j, i), shares from 0 to 1. cells: of a grid, along each side.
        whole: whether there shall be one of all of it: the background has too many faces for that.
    """
    cell = [max(n // cells, 1) for n in mask.shape]
    share = functional.avg_pool2d(mask[None, None], cell)
    means = functional.avg_pool2d((features * mask)[None], cell) / share.clamp_min(FULL)
    found = means[0][:, share[0, 0] >= FULL].T
    if whole and mask.any():
        found = torch.cat((found, (features * mask).sum(dim=(1, 2))[None] / mask.sum()))
    return functional.normalize(found, dim=1)


def shrunk(mask: Tensor, features: Tensor) -> Tensor:
    """A mask (j, i) as the share of each pixel of `features`."""
    return functional.adaptive_avg_pool2d(mask[None].to(features.dtype), (features.shape[-2], features.shape[-1]))[0]
