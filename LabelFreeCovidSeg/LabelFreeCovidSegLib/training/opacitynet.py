"""The recipe of OpacityNet: crops of healthy lung, fresh pneumonia each time, seen through another scanner.

The network learns from one family of lesions (`training.pneumonia`) and is chosen, stopped and calibrated on another
(`synthesis`, NormNet's), in a scan that it never learns from: a network that has begun to know the textures of its own
lesions by heart gets worse there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib import device
from LabelFreeCovidSegLib.inference import predict_tiles
from LabelFreeCovidSegLib.methods import normnet, opacitynet
from LabelFreeCovidSegLib.methods.opacitynet import BRIGHT_HEALTHY, OPACITY, Preset
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.training import calibrate as calibration
from LabelFreeCovidSegLib.training.augment import another_breath, another_scanner
from LabelFreeCovidSegLib.training.crops import Blocks, View, views
from LabelFreeCovidSegLib.training.healthy import healthy_blocks
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.one_network import OneNetwork
from LabelFreeCovidSegLib.training.pneumonia import PAINTS, VISIBLE, infect
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.running_mean import follow, inertia
from LabelFreeCovidSegLib.training.scanlist import ListedScan, refuse_patient

PRESETS = opacitynet.PRESETS
CITATION = opacitynet.CARD.citation
EXPECTS = "Chest CT in Hounsfield units, whole lungs, any slice thickness up to 8 mm; lungs found beforehand."
SHIPS = ("network",)
EVEN = 0.5
"""Checkpoints are compared at even odds. Where the finished networks' outline runs was set on other lesions."""
VIEWS = 24
VIEW_SEED = 20_261_121
"""Of the views that choose the checkpoint."""


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """What is healthy of a scan's lungs."""
    refuse_patient(listed)
    return healthy_blocks(listed, preset.spacing_mm, normnet.BRIGHT_HU)


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> OpacityNetTrainee:
    """One OpacityNet, ready to train."""
    return OpacityNetTrainee(preset, train, judge)


class OpacityTrainee(OneNetwork):
    """A network in training that names lesions and bright healthy tissue, in volumes or in slices.

    Args:
        network: untrained. learning_rate, cooldown: as in a preset.
        inertia: if not 0, what is compared and ships is the running mean of the weights; see `opacitynet2d.Preset`.
    """

    def __init__(self, network: nn.Module, learning_rate: float, cooldown: float, inertia: float = 0.0) -> None:
        from monai.losses import DiceCELoss

        super().__init__(network, learning_rate, cooldown)
        self.inertia = inertia
        if inertia:
            self.learner = self.networks["learner"] = copy.deepcopy(network)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def learn(self, image: Tensor, target: Tensor, update: Update, iteration: int) -> dict[str, Tensor]:
        """Lower the `loss`; and what is worth a curve: sensitivity and precision for lesions.

        Args:
            image: (n, channels, ...). target: (n, 1, ...), classes. iteration: counted from 1.
        """
        scores = self.learner(image)
        with torch.no_grad():
            found, lesion = scores.argmax(dim=1, keepdim=True) == OPACITY, target == OPACITY
            hit = (found & lesion).sum()
            sensitivity, precision = hit / lesion.sum().clamp_min(1), hit / found.sum().clamp_min(1)
        loss = self.loss(scores.float(), target)
        update("network", loss)
        if self.inertia:
            follow(self.networks["network"], self.learner, inertia(iteration, self.inertia))
        return {"loss": loss, "sensitivity": sensitivity, "precision": precision}


class OpacityNetTrainee(OpacityTrainee):
    """One OpacityNet in training.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(opacitynet.build(preset), preset.learning_rate, preset.cooldown)
        self.preset = preset
        self.scans = [Blocks.of(blocks) for blocks in train]
        self.views = views(preset, Blocks.of(judge), VIEW_SEED, VIEWS) if judge else []

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """One crop: `image` (1, k, j, i) float32 and its classes as `target` (1, k, j, i) uint8."""
        rng = np.random.default_rng(seed)
        spacing = self.preset.spacing_mm
        hu, lung = self.scans[rng.integers(len(self.scans))].draw(self.preset.crop, rng)
        hu, lung = another_breath(hu, lung, spacing, rng)
        hu, lung = np.ascontiguousarray(hu), np.ascontiguousarray(lung)
        bright = (hu >= normnet.BRIGHT_HU).astype(np.float32)
        made = infect(hu, lung, spacing, rng, PAINTS[self.preset.paint])
        hu, ill, bright = another_scanner((made.hu, made.ill, bright), spacing, rng)
        healthy = BRIGHT_HEALTHY if self.preset.names_healthy else 0
        target = np.where(ill > VISIBLE, OPACITY, np.where(bright > 0.5, healthy, 0)) * lung
        return {"image": (opacitynet.window(hu) * lung)[None], "target": target[None].astype(np.uint8)}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update."""
        return self.learn(batch["image"], batch["target"], update, round(share * self.preset.iterations) + 1)

    def validate(self) -> float:
        """Dice of foreign lesions, all views of the held-out scan taken together."""
        both = either = 0
        for view in self.views:
            probability = opacity(self.networks["network"], view)
            found = opacitynet.outline(probability, self.preset.spacing_mm, EVEN) & view.lung
            both += int((found & view.lesion).sum())
            either += int(found.sum() + view.lesion.sum())
        return 2.0 * both / max(either, 1)


def opacity(network: nn.Module, view: View) -> np.ndarray:
    """Probability of lesion, (k, j, i) float32, on whatever device `network` is."""
    where = next(network.parameters()).device
    image = opacitynet.window(view.hu) * view.lung
    scores = network(torch.from_numpy(image[None, None]).to(where))
    return scores.float().softmax(dim=1)[0, OPACITY].cpu().numpy()


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """`calibration` of the networks' mean probability on foreign lesions in the held-out scan, and its error."""
    networks = calibration.restored(lambda: opacitynet.build(preset), states)
    compute = device.choose()

    def score(view: View) -> np.ndarray:
        image = opacitynet.window(view.hu) * view.lung
        found = [predict_tiles(network, image, view.lung, preset.crop, compute) for network in networks]
        return np.mean(found, axis=0)

    return calibration.calibrate(score, preset, Blocks.of(judge), progress)
