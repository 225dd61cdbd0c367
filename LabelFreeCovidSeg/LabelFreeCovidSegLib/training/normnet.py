"""The recipe of NormNet: crops of healthy lung, fresh lesions each time, Dice and cross-entropy (section III-C)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.methods.normnet import Preset
from LabelFreeCovidSegLib.synthesis import synthesize
from LabelFreeCovidSegLib.training.augment import augment
from LabelFreeCovidSegLib.training.prepare import Block, Cache


class NormNetTrainee:
    """One NormNet in training.

    Raises:
        TrainingError: the cache was prepared for another grid.
    """

    def __init__(self, preset: Preset, cache: Cache) -> None:
        from monai.losses import DiceCELoss

        if cache.spacing_mm != preset.spacing_mm:
            raise TrainingError(
                f"{cache.folder}: prepared at {cache.spacing_mm} mm, but preset '{preset.name}' works at "
                f"{preset.spacing_mm} mm. Run `train prepare --preset {preset.name}` into another folder."
            )
        self.preset = preset
        self.scans = [cache.blocks(scan) for scan in cache.scans]
        self.network: nn.Module = normnet.build(preset)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with its default settings, as the paper has it."""
        return torch.optim.Adam(self.network.parameters(), lr=self.preset.learning_rate)

    def learning_rate(self, share: float) -> float:
        """The rate when `share` of the iterations is done."""
        cooldown = self.preset.cooldown
        return self.preset.learning_rate * (min(1.0, (1.0 - share) / cooldown) if cooldown else 1.0)

    def sample(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """One crop with lesions: `image` (1, k, j, i) float32 and `target` (1, k, j, i) uint8."""
        crop_seed, lesion_seed = (
            np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, child)) for child in range(2)
        )
        rng = np.random.default_rng(crop_seed)
        blocks = self.scans[rng.integers(len(self.scans))]
        volumes = np.array([block.lung.sum() for block in blocks], dtype=float)
        hu, lung = cut(blocks[rng.choice(len(blocks), p=volumes / volumes.sum())], self.preset.crop, rng)
        if self.preset.augment:
            hu, lung = augment(hu, lung, self.preset.spacing_mm, rng)
        healthy = normnet.window(hu) * lung
        made = synthesize(healthy, lung, self.preset.spacing_mm, normnet.TAU, lesion_seed, self.preset.lesions)
        return {"image": made.image[None], "target": made.target[None].astype(np.uint8)}

    def losses(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss` to minimise, and what is worth a curve: share of healthy bright voxels found, and of others taken."""
        scores = network(batch["image"])
        target = batch["target"]
        with torch.no_grad():
            found = scores.float().softmax(dim=1)[:, 1:] > 0.5
            bright = batch["image"] >= normnet.TAU
            healthy, lesion = target > 0, bright & (target == 0)
            recall = (found & healthy).sum() / healthy.sum().clamp_min(1)
            leak = (found & lesion).sum() / lesion.sum().clamp_min(1)
        return {"loss": self.loss(scores.float(), target), "healthy_recall": recall, "lesion_leak": leak}


def cut(block: Block, crop: tuple[int, int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop around a random lung voxel, kept within the block where that is large enough; HU float32 and lung.

    What reaches beyond the block is air.
    """
    centre = np.argwhere(block.lung.any(axis=(1, 2)))
    k = int(centre[rng.integers(len(centre)), 0])
    j, i = (int(x) for x in rng.choice(np.argwhere(block.lung[k])))
    hu = np.full(crop, -1024.0, dtype=np.float32)
    lung = np.zeros(crop, dtype=bool)
    source, target = [], []
    for place, side, extent in zip((k, j, i), crop, block.lung.shape, strict=True):
        start = int(np.clip(place - side // 2, min(0, extent - side), max(0, extent - side)))
        first, last = max(start, 0), min(start + side, extent)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    hu[tuple(target)] = block.hu[tuple(source)]
    lung[tuple(target)] = block.lung[tuple(source)]
    return hu, lung
