"""The recipe of superpixels and prototypes: few-shot segmentation without labels (Ouyang et al., ECCV 2020).

Two views are made of a slice of either domain, and a superpixel of it stands for a lesion: with its prototypes in one
view, it is to be found in the other, and back again. Neither labels nor lesions take part. What lung and lesions look
like the network is shown after each step: source slices with their labels give the prototypes that ship.

The authors' network begins with the weights that a ResNet-101 has of COCO; this one, f and c, begins with nothing.
Their superpixels are those of Felzenszwalb and Huttenlocher, these of SLIC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LabelFreeCovidSegLib.methods.adaptation import ssl
from LabelFreeCovidSegLib.methods.uda import Preset, window
from LabelFreeCovidSegLib.networks.prototypes import Prototypes, likeness, prototypes, shrunk
from LabelFreeCovidSegLib.training import uda
from LabelFreeCovidSegLib.training.domains import Slices
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.seeds import child
from LabelFreeCovidSegLib.training.uda import OTHER, BothDomains, one_of
from LabelFreeCovidSegLib.training.variety import varied

PRESETS = {"small": ssl.PRESETS["small"], **ssl.PRESETS}
CITATION = ssl.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS
DROPS, DROP = 100, 0.95
"""The learning rate falls by this factor after each hundredth of the iterations: about every 1000 in the paper."""
SUPERPIXEL = 24
"""Distance of the superpixels' seeds, in pixels."""
COMPACTNESS = 0.1
"""Of distance against intensity in a superpixel."""
AIR = -0.95
"""In the window; a darker superpixel lies outside of the body."""
CELLS, SHOWN_CELLS = 8, 16
"""Of the prototypes' grid, along each side: in an episode, and of the labelled slices that are shown in the end."""
WEIGHTS = (0.05, 1.0)
"""Of background and superpixel in the cross-entropy, as the authors' program has them."""


class FewShot(BothDomains):
    """f and c in training, with prototypes instead of the last convolution."""

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        super().__init__(preset, train, judge)
        self.segmenter = ssl.build(preset)
        self.prototypes = cast(Prototypes, self.segmenter.classifier.scores)
        self.networks = {"extractor": self.segmenter.extractor, "classifier": self.segmenter.classifier}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Stochastic gradient descent with the authors' settings."""
        return {"segmenter": torch.optim.SGD(self.segmenter.parameters(), momentum=0.9, weight_decay=5e-4)}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done."""
        return {"segmenter": self.preset.learning_rate * DROP ** int(share * DROPS + 1e-9)}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """`source` with its `labels`, `views` (2, 1, j, i) float32 and the superpixel in both, `pieces` (2, j, i)."""
        image, labels = self.labelled(one_of(self.sources, seed), seed)
        other = child(seed, OTHER)
        views, pieces = episode(one_of([*self.sources, *self.targets], other), self.preset, other)
        return {"source": image[None], "labels": labels, "views": views, "pieces": pieces}

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One update of f and c; then they are shown source slices."""
        views, pieces = batch["views"], batch["pieces"]
        features = self.features(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        losses = [episode_losses(*one) for one in zip(features, pieces, strict=True)]
        finding, returning = torch.stack([torch.stack(pair) for pair in losses]).mean(dim=0)
        update("segmenter", finding + returning)
        with torch.no_grad():
            for shown, labels in zip(self.features(batch["source"]), batch["labels"], strict=True):
                self.prototypes.remember(shown, labels, SHOWN_CELLS)
        return {"finding": finding, "returning": returning}

    def features(self, images: Tensor) -> Tensor:
        """What is compared with prototypes: (batch, channels, j / 2, i / 2) float32 of slices (batch, 1, j, i)."""
        return self.segmenter.classifier.merged(self.segmenter.extractor(images)).float()


def superpixels(image: np.ndarray) -> np.ndarray:
    """Numbers of the superpixels of a slice (j, i) float32 in [-1, 1]: (j, i) int (Achanta et al., SLIC)."""
    import SimpleITK as sitk

    slic = sitk.SLICImageFilter()
    slic.SetSuperGridSize([SUPERPIXEL, SUPERPIXEL])
    slic.SetSpatialProximityWeight(COMPACTNESS)
    slic.SetNumberOfWorkUnits(1)  # how its sums are rounded depends on the number of threads
    return sitk.GetArrayFromImage(slic.Execute(sitk.GetImageFromArray(image))).astype(int)


def episode(slices: Slices, preset: Preset, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Two views of a slice (2, 1, j, i) float32 in [-1, 1], and a superpixel in both (2, j, i) uint8."""
    rng = np.random.default_rng(seed)
    block, k = slices.draw(rng)
    hu = block["hu"][k].astype(np.float32)
    image = window(hu)
    numbers = superpixels(image)
    counts = np.bincount(numbers.ravel())
    means = np.bincount(numbers.ravel(), image.ravel()) / np.maximum(counts, 1)
    for number in rng.permutation(np.flatnonzero((counts > 0) & (means > AIR))):
        piece = (numbers == number).astype(np.uint8)
        views = [varied(hu, piece, preset.canvas, rng) for _ in range(2)]
        if all(mask.any() for _, mask in views):  # it may have been turned out of the canvas
            break
    return np.stack([view[None] for view, _ in views]), np.stack([mask for _, mask in views])


def episode_losses(features: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the superpixel found in the second view and, with what was found as prototype, in the first.

    Args:
        features: (2, channels, j / 2, i / 2), of both views. pieces: (2, j, i) uint8.
    """
    support, query = features
    scores = compared(support, shrunk(pieces[0] == 1, support), query)
    found = scores.argmax(dim=1)[0].to(query.dtype)
    back = compared(query, found, support)
    return missed(scores, pieces[1]), missed(back, pieces[0])


def compared(support: Tensor, mask: Tensor, query: Tensor) -> Tensor:
    """Scores (1, 2, j, i) of background and object in `query`, with prototypes by `mask` (j, i) of `support`."""
    background = prototypes(support, 1.0 - mask, CELLS, whole=False)
    thing = prototypes(support, mask, CELLS, whole=True)
    return torch.stack([likeness(query[None], vectors) for vectors in (background, thing)], dim=1)


def missed(scores: Tensor, piece: Tensor) -> Tensor:
    """Weighted cross-entropy of scores (1, 2, j / 2, i / 2) with a superpixel (j, i)."""
    large = functional.interpolate(scores, size=list(piece.shape), mode="bilinear", align_corners=False)
    return functional.cross_entropy(large, piece[None].long(), scores.new_tensor(WEIGHTS))


trainee, blocks, calibrate = FewShot, uda.blocks, uda.calibrate
