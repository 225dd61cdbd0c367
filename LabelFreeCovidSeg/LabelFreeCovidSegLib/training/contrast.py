"""Slices with much disease and slices with little, told apart: the contrastive half of `gan3d`'s second phase.

Shabani et al. (see `networks.dense_unet3d`), equation 6, after Khosla et al., Supervised contrastive learning, NeurIPS
2020. The released program sorts slices by thresholds on the sum of the pseudo mask, which hold for its own intensities
only; the same shares of the slices are taken here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.05
HIGH_SHARE = 0.084
"""1792 of 21,248 slices."""
LOW_BAND = (0.68, 0.84)
"""Of the sum from which a slice is high: 65 and 80 of 95."""
TURN_DEGREES = 14.4
SHIFT = 0.2
"""Of the picture's extent."""


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """SupCon: each sample's features shall be like those of its own label and unlike the others; mean over samples.

    A sample is not compared with itself. One that is alone with its label has nothing to be like, and counts not.

    Args:
        features: (n, channels), of any length. labels: (n,).
    """
    # Not as a product of matrices, which autocast would round to bfloat16: slices differ by less than that.
    likeness = functional.cosine_similarity(features[:, None].float(), features[None].float(), dim=2) / temperature
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    # The least number, not minus infinity, whose gradient is no number.
    likeness = likeness.masked_fill(itself, torch.finfo(likeness.dtype).min)
    surprise = likeness.logsumexp(dim=1, keepdim=True) - likeness
    friends = (labels[:, None] == labels[None]) & ~itself
    count = friends.sum(dim=1)
    mean = surprise.masked_fill(~friends, 0.0).sum(dim=1) / count.clamp_min(1)
    return mean.sum() / (count > 0).sum().clamp_min(1)


def high_and_low(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which slices have much disease and which have little: as many of either, and none in both.

    Args:
        sums: (n,) of the pseudo mask of each slice.

    Returns:
        Indices of the slices, those with most disease first; those with least disease first.
    """
    rising = np.argsort(sums, kind="stable")
    high = rising[::-1][: math.floor(HIGH_SHARE * len(sums))]
    if not high.size:
        return high, high
    lower, upper = (share * sums[high[-1]] for share in LOW_BAND)
    low = rising[(sums[rising] >= lower) & (sums[rising] <= upper) & ~np.isin(rising, high)]
    count = min(len(high), len(low))
    return high[:count], low[:count]


def varied(slices: Tensor, rng: np.random.Generator) -> Tensor:
    """Each of the slices (n, 1, j, i) mirrored or not, turned and shifted at random; 0 beyond its edges."""
    matrices = []
    for _ in range(len(slices)):
        angle = math.radians(rng.uniform(-TURN_DEGREES, TURN_DEGREES))
        mirror = rng.choice([-1.0, 1.0])
        # Shares of the half extent: a picture reaches from -1 to 1.
        j, i = 2.0 * rng.uniform(-SHIFT, SHIFT, 2)
        matrices.append(
            [[mirror * math.cos(angle), -math.sin(angle), i], [mirror * math.sin(angle), math.cos(angle), j]]
        )
    theta = torch.tensor(matrices, dtype=slices.dtype, device=slices.device)
    places = functional.affine_grid(theta, list(slices.shape), align_corners=False)
    return functional.grid_sample(slices, places, align_corners=False)
