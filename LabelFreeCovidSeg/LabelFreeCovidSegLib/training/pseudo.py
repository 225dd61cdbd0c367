"""Pseudo masks: what the frozen generator takes away from ill lungs, slice by slice, for the slice network to learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.methods.gan3d import still
from LabelFreeCovidSegLib.training.contrast import high_and_low
from LabelFreeCovidSegLib.training.slabs import Slab


@dataclass(frozen=True, eq=False)
class PseudoSlices:
    """All slices with lung of a pool of slabs.

    Attributes:
        images: (n, 1, j, i) float16 in [0, 1]. masks: the same shape, how much the generator took away.
        high, low: indices of slices with much disease and with little, as many of either.
    """

    images: Tensor
    masks: Tensor
    high: np.ndarray
    low: np.ndarray

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """`count` slices of any kind and their masks, float32."""
        chosen = torch.from_numpy(rng.integers(len(self.images), size=count)).to(self.images.device)
        return self.images[chosen].float(), self.masks[chosen].float()

    def draw_pairs(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """`count` slices, one half high and one half low: (count, 1, j, i) float32, and labels (count,), 1 high."""
        half = count // 2
        chosen = np.concatenate([rng.choice(self.high, half), rng.choice(self.low, half)])
        labels = torch.arange(count, device=self.images.device) < half
        return self.images[torch.from_numpy(chosen).to(self.images.device)].float(), labels.long()


@torch.no_grad()
def pseudo_slices(generator: nn.Module, slabs: Iterable[Slab], device: torch.device) -> PseudoSlices:
    """The pool's slices and what `generator`, on `device`, takes away from them."""
    images, masks = [], []
    for slab in slabs:
        image = torch.from_numpy(slab.image).to(device)
        lung = torch.from_numpy(slab.lung).to(device)
        made = generator(image[None, None], still(1, slab.lung.shape, device))[0, 0].float()
        filled = lung.any(dim=(1, 2))
        mask = (image - made).clamp_min(0.0) * lung
        images.append(image[filled, None])
        masks.append(mask[filled, None])
    # Halved last: autocast to bfloat16 can't join halves.
    joined = torch.cat(masks)
    high, low = high_and_low(joined.sum(dim=(1, 2, 3)).cpu().numpy())
    return PseudoSlices(torch.cat(images).half(), joined.half(), high, low)
