"""The recipe of self-ensembling: a student and the running mean of its weights, the teacher (Perone et al., 2019).

A student learns from the source domain and must say of a turned slice of the target domain what the teacher says of the
slice before it is turned. The authors count epochs, of 350; here these are shares of the iterations. f and c have no
dropout of their own: half of the features' channels are dropped in the student and in the teacher. What ships is the
teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import cos, exp, pi

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from LabelFreeCovidSegLib.methods.adaptation import self_ensembling
from LabelFreeCovidSegLib.methods.uda import UNKNOWN, Preset
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.running_mean import follow, inertia
from LabelFreeCovidSegLib.training.seeds import child
from LabelFreeCovidSegLib.training.uda import OTHER, BothDomains
from LabelFreeCovidSegLib.training.variety import turned

PRESETS = {"small": self_ensembling.PRESETS["small"], **self_ensembling.PRESETS}
CITATION = self_ensembling.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
EPOCHS = 350
RAMP, WARM_UP, SLOW = 100, 50, 50
"""Epochs until the consistency counts in full, until the learning rate is reached, and until the teacher slows down."""
WEIGHT = 20.0
"""Of the consistency, beside a Dice loss."""
DECAY = 6e-4
DROPPED = 0.5
STUDENT = "student_"
"""Before the names of the student's networks."""


class SelfEnsembling(BothDomains):
    """A student in training, and the teacher that follows it."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        from monai.losses import MaskedDiceLoss

        super().__init__(preset, train, judge)
        self.networks |= {STUDENT + name: copy.deepcopy(network) for name, network in self.networks.items()}
        self.dice = MaskedDiceLoss(batch=True)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with weight decay, of the student."""
        student = nn.ModuleList([self.networks[STUDENT + name] for name in uda.SHIPS])
        return {"segmenter": torch.optim.Adam(student.parameters(), weight_decay=DECAY)}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done: rising in a line, then falling to 0 with a cosine."""
        epoch = EPOCHS * share
        fall = (1.0 + cos(pi * max(epoch - WARM_UP, 0.0) / (EPOCHS - WARM_UP))) / 2
        return {"segmenter": self.preset.learning_rate * min(epoch / WARM_UP, 1.0) * fall}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """As of both domains, `matrix` (2, 2) float32 that turns the target slice, and `key`, which decides dropout."""
        rng = np.random.default_rng(child(seed, OTHER))
        matrix, key = turned(rng).astype(np.float32), np.array(rng.integers(2**62))
        return super().sample(seed, share) | {"matrix": matrix, "key": key}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of the student; then the teacher follows."""
        torch.manual_seed(batch["key"].tolist()[0])
        matrix, target = batch["matrix"], batch["target"]
        with torch.no_grad():
            taught = warped(self.said("", target), matrix)
        source, said = self.said(STUDENT, torch.cat((batch["source"], warped(target, matrix)))).chunk(2)
        segmentation = self.dice_loss(source, batch["labels"])
        consistency = functional.mse_loss(said, taught)
        update("segmenter", segmentation + consistency_weight(EPOCHS * share) * consistency)
        kept = keeps(round(share * self.preset.iterations) + 1, EPOCHS * share)
        for name in uda.SHIPS:
            follow(self.networks[name], self.networks[STUDENT + name], kept)
        return {"segmentation": segmentation, "consistency": consistency}

    def said(self, who: str, images: Tensor) -> Tensor:
        """Class probabilities (batch, 4, j, i) by the student or (`who` is empty) by the teacher, with dropout."""
        features = self.networks[who + "extractor"](images)
        dropped = tuple(functional.dropout2d(level, DROPPED) for level in features)
        return self.networks[who + "classifier"](dropped).float().softmax(dim=1)

    def dice_loss(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Dice loss of all classes over the batch, where the labels (batch, j, i) are known."""
        known = labels != UNKNOWN
        wanted = functional.one_hot(torch.where(known, labels, 0).long(), probabilities.shape[1]).movedim(3, 1)
        return self.dice(probabilities, wanted.float(), known[:, None].float())


def consistency_weight(epoch: float) -> float:
    """w(t), from 20 / e^5 to 20."""
    return WEIGHT * exp(-5.0 * (1.0 - min(epoch / RAMP, 1.0)) ** 2)


def keeps(iteration: int, epoch: float) -> float:
    """The share of itself that the teacher keeps after an iteration; as it began, it counts as one of the mean."""
    return inertia(iteration + 1, 0.99 if epoch < SLOW else 0.999)


def warped(images: Tensor, matrix: Tensor) -> Tensor:
    """Maps (batch, channels, j, i) turned about their middle; beyond the edge lies what lies on it.

    Args:
        matrix: (batch, 2, 2), from what comes out (j, i) to what goes in, in pixels.
    """
    extents = torch.tensor(images.shape[2:], dtype=matrix.dtype, device=matrix.device)
    relative = matrix * extents[None, None] / extents[None, :, None]  # both run from -1 to 1
    theta = functional.pad(relative.flip(1, 2), (0, 1))  # x before y, and no shift
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


trainee, blocks, calibrate = SelfEnsembling, uda.blocks, uda.calibrate
