"""The recipe of unsupervised domain adaptation: D, then G, then F, once an iteration (Chen et al., section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.uda import CLASSES, UNKNOWN, Preset
from LabelFreeCovidSegLib.networks.uda import Classifier, Discriminator, Extractor, Generator
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.training.adversary import crossing_loss, crossing_weight, discriminator_loss, generator_loss
from LabelFreeCovidSegLib.training.domains import Slices, labelled, slice_blocks, unlabelled
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from LabelFreeCovidSegLib.training.seeds import child

PRESETS = {"small": uda.PRESETS["small"], **uda.PRESETS, **uda.ABLATIONS}
CITATION = uda.CARD.citation
EXPECTS = "Chest CT in Hounsfield units, whole lungs, axial slices of any thickness; lungs found beforehand."
SHIPS = ("extractor", "classifier")
DROPS, DROP = 10, 0.8
"""The learning rate falls by this factor after each tenth of the iterations: every 10,000 in the paper."""
TARGET, OTHER, SCAN = 2, 3, 4
"""Children of a sample's seed; the first two are those of `domains.labelled`."""
VIEWS = 16
VIEW_SEED = 20_220_401
"""Of the slices that choose the checkpoint."""


class SourceOnly:
    """f and c taught on the source domain alone: the paper's ablation, and what adaptation starts from.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        self.preset = preset
        self.sources = [Slices.of(blocks) for blocks in train if "labels" in blocks[0]]
        if not self.sources:
            raise TrainingError("There is no near-healthy scan to learn from. List one without `covid = true`.")
        self.views = self._views(judge) if judge else []
        self.networks: dict[str, nn.Module] = {
            "extractor": Extractor(preset.channels),
            "classifier": Classifier(preset.channels, CLASSES),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with its default settings, of f and c together."""
        return {"segmenter": _adam(self.networks["extractor"], self.networks["classifier"])}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done: 0.8 times as much after every tenth."""
        return {"segmenter": self.preset.learning_rate * fall(share)}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """`source` (1, j, i) float32 and its `labels` (j, i) uint8."""
        image, labels = self.labelled(one_of(self.sources, seed), seed)
        return {"source": image[None], "labels": labels}

    def labelled(self, slices: Slices, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray]:
        """A slice with lesions that are known: (j, i) float32 in [-1, 1], and its class labels (j, i) uint8."""
        return labelled(slices, self.preset.spacing_mm, self.preset.canvas, seed)

    def scores(self, images: Tensor) -> Tensor:
        """What f and c make of slices (batch, 1, j, i): class scores (batch, 4, j, i)."""
        return self.networks["classifier"](self.networks["extractor"](images))

    def segmentation(self, scores: Tensor, labels: Tensor) -> Tensor:
        """`segmentation_loss` with the preset's weights."""
        return segmentation_loss(scores, labels, self.preset.class_weights)

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of f and c."""
        loss = self.segmentation(self.scores(batch["source"]), batch["labels"])
        update("segmenter", loss)
        return {"segmentation": loss}

    def validate(self) -> float:
        """Mean Dice of lung, ground glass and consolidation, all views of the held-out scan taken together."""
        device = next(self.networks["extractor"].parameters()).device
        both, either = np.zeros(CLASSES), np.zeros(CLASSES)
        for image, labels in self.views:
            found = self.scores(torch.from_numpy(image[None, None]).to(device)).argmax(dim=1)[0].cpu().numpy()
            for label in range(CLASSES):
                one, other = found == label, labels == label
                known = labels != UNKNOWN
                both[label] += np.count_nonzero(one & other)
                either[label] += np.count_nonzero(one & known) + np.count_nonzero(other)
        return float(np.mean(2 * both[uda.LUNG :] / np.maximum(either[uda.LUNG :], 1)))

    def _views(self, judge: Sequence[Arrays]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Slices of the held-out scan with lesions and their labels, always the same ones."""
        if "labels" not in judge[0]:
            raise TrainingError("A patient's scan has no labels to judge by. Hold out a near-healthy scan.")
        slices = Slices.of(judge)
        return [self.labelled(slices, np.random.SeedSequence([VIEW_SEED, number])) for number in range(VIEWS)]


class BothDomains(SourceOnly):
    """f and c taught on the source domain, and slices of the target domain beside it.

    Raises:
        TrainingError: no near-healthy scan, or none of a patient.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(preset, train, judge)
        self.targets = [Slices.of(blocks) for blocks in train if "labels" not in blocks[0]]
        if not self.targets:
            raise TrainingError(
                "There is no scan of a patient to adapt to. List one with `covid = true`, or train `source-only`."
            )

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """As of the source domain, and `target` (1, j, i) float32 from any scan of the other."""
        return super().sample(seed, share) | {"target": self.target(child(seed, TARGET))}

    def target(self, seed: np.random.SeedSequence) -> np.ndarray:
        """A slice of a patient, (1, j, i) float32."""
        return unlabelled(one_of(self.targets, seed), self.preset.spacing_mm, self.preset.canvas, seed)[None]


class Adapted(BothDomains):
    """f and c taught on the source domain while g and d make them see the target domain alike."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(preset, train, judge)
        self.networks |= {
            "generator": Generator(preset.channels, preset.generator_levels),
            "discriminator": Discriminator(preset.critic_width),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """One for f and c, and one each for g and d."""
        critics = {name: _adam(self.networks[name]) for name in ("discriminator", "generator")}
        return super().optimizers() | critics

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done."""
        rate = self.preset.critic_rate * fall(share)
        return super().learning_rates(share) | {"discriminator": rate, "generator": rate}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of d, then of g, then of f and c."""
        f, c, g, d = (self.networks[name] for name in ("extractor", "classifier", "generator", "discriminator"))
        source, target = batch["source"], batch["target"]
        with torch.no_grad():
            features = f(torch.cat((source, target)))
        made_source, made_target = g(features).chunk(2)
        loss_d = discriminator_loss(d, source, made_source.detach(), target, made_target.detach())
        update("discriminator", loss_d)
        loss_g = generator_loss(d, source, made_source, target, made_target)
        update("generator", loss_g)
        # Forward again: d and g are other ones now, and f shall learn.
        from_source, from_target = f(source), f(target)
        segmentation = self.segmentation(c(from_source), batch["labels"])
        crossing = crossing_loss(d, g(from_source), g(from_target))
        update("segmenter", segmentation + crossing_weight(self.preset.alpha) * crossing)
        return {"segmentation": segmentation, "crossing": crossing, "generator": loss_g, "discriminator": loss_d}


def segmentation_loss(scores: Tensor, labels: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Mean cross-entropy of class scores (batch, 4, j, i) with labels (batch, j, i), where these are known."""
    weights = torch.tensor(class_weights, device=scores.device)
    return functional.cross_entropy(scores.float(), labels.long(), weights, ignore_index=UNKNOWN)


def fall(share: float) -> float:
    """What is left of a learning rate when `share` of the iterations is done."""
    return DROP ** int(share * DROPS + 1e-9)


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """The chest around the lungs or, for equalised pictures, whole slices; with labels if the scan is near-healthy."""
    return slice_blocks(listed, preset.spacing_mm, whole=preset.domain == CLAHE256)


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """Nothing: the score is the network's own probability."""
    return {}


def one_of(domain: Sequence[Slices], seed: np.random.SeedSequence) -> Slices:
    """The slices of any scan of a domain; which of them, `seed` itself is free to decide."""
    return domain[int(np.random.default_rng(child(seed, SCAN)).integers(len(domain)))]


def _adam(*networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for network in networks for p in network.parameters()])


trainee = Adapted
