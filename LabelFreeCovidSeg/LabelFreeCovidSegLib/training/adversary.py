"""The losses of cross-domain reconstruction (Chen et al., see `networks.uda`; equations 4 to 6).

The paper sums over pixels and over patches. Here are means, with the weights that make the sums' proportions of them:
a slice has 64 times as many pixels as patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from LabelFreeCovidSegLib.networks.uda import PIXELS_PER_PATCH

SOURCE_REAL, SOURCE_MADE, TARGET_REAL, TARGET_MADE = range(4)
"""What d tells apart: slices of either domain, and those that g made from their features."""


def taken_for(scores: Tensor, kind: int) -> Tensor:
    """Cross-entropy of d's `scores` (batch, 4, j, i) with the answer `kind` in every patch; mean over patches."""
    kinds = torch.full((scores.shape[0], *scores.shape[2:]), kind, device=scores.device)
    return functional.cross_entropy(scores.float(), kinds)


def discriminator_loss(
    d: nn.Module, source: Tensor, made_source: Tensor, target: Tensor, made_target: Tensor
) -> Tensor:
    """L_D: all four kinds told apart. Only d shall learn from it: `made_...` come without gradients."""
    scores = d(torch.cat((source, made_source, target, made_target))).chunk(4)
    kinds = (SOURCE_REAL, SOURCE_MADE, TARGET_REAL, TARGET_MADE)
    return torch.stack([taken_for(*pair) for pair in zip(scores, kinds, strict=True)]).sum()


def generator_loss(d: nn.Module, source: Tensor, made_source: Tensor, target: Tensor, made_target: Tensor) -> Tensor:
    """L_G: slices like those that the features are of, and like real ones of their own domain."""
    differences = functional.l1_loss(made_source, source) + functional.l1_loss(made_target, target)
    like_source, like_target = d(torch.cat((made_source, made_target))).chunk(2)
    return PIXELS_PER_PATCH * differences + taken_for(like_source, SOURCE_REAL) + taken_for(like_target, TARGET_REAL)


def crossing_loss(d: nn.Module, made_source: Tensor, made_target: Tensor) -> Tensor:
    """The adversarial part of L_F: features of each domain from which g makes slices like real ones of the other."""
    from_source, from_target = d(torch.cat((made_source, made_target))).chunk(2)
    return taken_for(from_source, TARGET_REAL) + taken_for(from_target, SOURCE_REAL)


def crossing_weight(alpha: float) -> float:
    """Of `crossing_loss` beside the mean cross-entropy of the segmentation, where `alpha` weighs the sums."""
    return alpha / PIXELS_PER_PATCH
