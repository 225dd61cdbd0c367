"""The running mean of a network's weights: steadier than the network, which every batch pushes somewhere else."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(mean: nn.Module, network: nn.Module, kept: float) -> None:
    """Move weights and statistics of batches of `mean` towards those of `network`, of which `1 - kept` goes in."""
    for own, new in zip(_numbers(mean), _numbers(network), strict=True):
        own.lerp_(new, 1.0 - kept)


def _numbers(network: nn.Module) -> list[torch.Tensor]:
    """All that is no counter."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def inertia(iteration: int, most: float) -> float:
    """The share of itself that a mean keeps after an iteration, counted from 1: at first it is the mean of all."""
    return min(1.0 - 1.0 / iteration, most)
