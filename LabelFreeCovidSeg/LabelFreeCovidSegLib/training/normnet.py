"""The recipe of NormNet: crops of healthy lung, fresh lesions each time, Dice and cross-entropy (section III-C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib import device
from LabelFreeCovidSegLib.inference import predict_tiles
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.methods.normnet import Preset
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.synthesis import synthesize
from LabelFreeCovidSegLib.training import calibrate as calibration
from LabelFreeCovidSegLib.training.augment import augment
from LabelFreeCovidSegLib.training.crops import Blocks, View, views
from LabelFreeCovidSegLib.training.healthy import healthy_blocks
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.one_network import OneNetwork
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import ListedScan, refuse_patient
from LabelFreeCovidSegLib.training.seeds import children

PRESETS = {"small": normnet.PRESETS["small"], **normnet.PRESETS}
CITATION = normnet.CARD.citation
EXPECTS = "Chest CT in Hounsfield units, whole lungs, any slice thickness up to 5 mm; lungs found beforehand."
SHIPS = ("network",)
VIEWS = 12
VIEW_SEED = 20_210_301
"""Of the views that choose the checkpoint."""


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """What is healthy of a scan's lungs."""
    refuse_patient(listed)
    return healthy_blocks(listed, preset.spacing_mm, normnet.BRIGHT_HU)


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> NormNetTrainee:
    """One NormNet, ready to train."""
    return NormNetTrainee(preset, train, judge)


class NormNetTrainee(OneNetwork):
    """One NormNet in training.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        from monai.losses import DiceCELoss

        super().__init__(normnet.build(preset), preset.learning_rate, preset.cooldown)
        self.preset = preset
        self.scans = [Blocks.of(blocks) for blocks in train]
        self.views = views(preset, Blocks.of(judge), VIEW_SEED, VIEWS) if judge else []
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """One crop with lesions: `image` (1, k, j, i) float32 and `target` (1, k, j, i) uint8."""
        crop_seed, lesion_seed = children(seed, 2)
        rng = np.random.default_rng(crop_seed)
        hu, lung = self.scans[rng.integers(len(self.scans))].draw(self.preset.crop, rng)
        if self.preset.augment:
            hu, lung = augment(hu, lung, self.preset.spacing_mm, rng)
        healthy = normnet.window(hu) * lung
        made = synthesize(healthy, lung, self.preset.spacing_mm, normnet.TAU, lesion_seed, self.preset.lesions)
        return {"image": made.image[None], "target": made.target[None].astype(np.uint8)}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """Lower the `loss`; and what is worth a curve: share of healthy bright voxels found, and of others taken."""
        scores = self.networks["network"](batch["image"])
        target = batch["target"]
        with torch.no_grad():
            found = scores.float().softmax(dim=1)[:, 1:] > 0.5
            bright = batch["image"] >= normnet.TAU
            healthy, lesion = target > 0, bright & (target == 0)
            recall = (found & healthy).sum() / healthy.sum().clamp_min(1)
            leak = (found & lesion).sum() / lesion.sum().clamp_min(1)
        loss = self.loss(scores.float(), target)
        update("network", loss)
        return {"loss": loss, "healthy_recall": recall, "lesion_leak": leak}

    def validate(self) -> float:
        """Dice of the outlined lesions, all views of the held-out scan taken together."""
        both = either = 0
        for view in self.views:
            probabilities = [probability(self.networks["network"], view)]
            found = normnet.outline(view.image, probabilities, view.lung, self.preset.spacing_mm, self.preset.growing)
            both += int((found & view.lesion).sum())
            either += int(found.sum() + view.lesion.sum())
        return 2.0 * both / max(either, 1)


def probability(network: nn.Module, view: View) -> np.ndarray:
    """That tissue is bright and healthy, (k, j, i) float32, on whatever device `network` is."""
    device = next(network.parameters()).device
    scores = network(torch.from_numpy(view.image[None, None]).to(device))
    return scores.float().softmax(dim=1)[0, 1].cpu().numpy()


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """`calibration` of the voting networks' score on the held-out scan, and its error before and after."""
    networks = calibration.restored(lambda: normnet.build(preset), states)
    compute = device.choose()

    def score(view: View) -> np.ndarray:
        found = [predict_tiles(network, view.image, view.lung, preset.crop, compute) for network in networks]
        return normnet.doubt(view.image, found, view.lung, preset.spacing_mm)

    return calibration.calibrate(score, preset, Blocks.of(judge), progress)
