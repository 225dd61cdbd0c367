"""What all anomaly detectors do alike: learn healthy slices, rebuild a slice, and mark what is brighter than rebuilt.

They are the eleven that Yao et al. (see `methods.normnet`) compare NormNet with, on one backbone and one grid. Each is
a file beside this one that says what it does otherwise: what it is made of (`build`), what it is shown (`shown`), what
it lowers (`losses`), how it rebuilds (`reconstruct`), or what it calls abnormal (`score`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import Card, Prediction
from LabelFreeCovidSegLib.methods.normnet import window
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.postprocess import Lengths, box_mean
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.scan import Scan, bounding_box

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor, nn

MEDIAN_MM = (5.0, 16.0, 16.0)
"""Width of the median filter: 5 voxels of the working grid each way."""
SLICES = 32
"""Slices that go through a network together."""
SEED = 20_210_304
"""Of whatever a detector draws when it is asked."""


@dataclass(frozen=True)
class Preset:
    """A size of the backbone and how long it is trained.

    Attributes:
        widths: of its stages.
        spacing_mm: working grid along (k, j, i): NormNet's, its 512 pixels made 128; that of every preset, so that one
            cache is enough.
        side: of the square canvas in pixels.
        latent: numbers of the bottleneck, or channels of a spatial one.
    """

    name: str
    widths: tuple[int, ...]
    batch: int
    iterations: int
    learning_rate: float = 3e-4
    spacing_mm: Lengths = (1.0, 3.2, 3.2)
    side: int = 128
    latent: int = 128


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("paper", (32, 64, 128, 128), batch=16, iterations=6000),
        # A tenth of the parameters and a 15th of the slices, for which two minutes on a CPU core are enough. It must
        # learn faster.
        Preset("small", (8, 16, 32, 32), batch=8, iterations=800, learning_rate=1e-3),
    )
}


@dataclass(frozen=True)
class Detector(ABC):
    """An idea of how to find anomalies. Its fields are its numbers, as published or `tuned`.

    Tensors are slices (n, 1, j, i), 0 to 1 over NormNet's window.
    """

    card: ClassVar[Card]

    @abstractmethod
    def build(self, preset: Preset) -> nn.Module:
        """The untrained network."""

    def shown(self, hu: np.ndarray, lung: np.ndarray) -> np.ndarray:
        """Slices as the network sees them: nothing but lung; (k, j, i) float32 in [0, 1]."""
        return window(hu) * lung

    @abstractmethod
    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """What training lowers the sum of, for healthy slices."""

    @abstractmethod
    def reconstruct(self, network: Any, x: Tensor) -> Tensor:
        """The slices as the network would have them."""

    def score(self, network: Any, x: Tensor) -> Tensor:
        """How abnormal each pixel is: what is brighter than rebuilt. Lesions are denser than lung."""
        return (x - self.reconstruct(network, x)).clamp_min(0.0)

    def tuned(self, network: Any, healthy: Tensor) -> Self:
        """With the numbers that depend on the trained network, measured on healthy slices that it has not seen."""
        return self

    def load(self, store: Path | None = None) -> Trained:
        """The detector with the weights on this computer, or with those in another store.

        Raises:
            WeightsError: they are missing, damaged, without a threshold, or do not fit this network.
        """
        from LabelFreeCovidSegLib import weights

        entry, (state,) = weights.load(self.card.name, store)
        if "threshold" not in entry.recipe:
            raise WeightsError(
                f"The weights {entry.label} have no threshold. Train and export them with `--hold-out`, which sets it."
            )
        preset = weights.preset(entry, PRESETS)
        network = weights.fill(self.build(preset), state, entry).eval()
        detector = replace(self, **entry.recipe["tuned"])
        return Trained(detector, network, preset, entry.recipe["threshold"], entry.label)


class Trained:
    """A detector that has learned: the method.

    Args:
        network: of the detector, in evaluation mode.
        threshold: of the score, chosen on synthetic lesions.
        weights: how the report names them.
    """

    def __init__(self, detector: Detector, network: nn.Module, preset: Preset, threshold: float, weights: str) -> None:
        self.card = detector.card
        self.detector = detector
        self.network = network
        self.preset = preset
        self.threshold = threshold
        self.weights = weights

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan."""
        progress(0.0, "Preparing the lungs")
        work = on_canvas(scan, lungs, self.preset)
        image = self.detector.shown(work.hu, work.lung)
        found = scored(self.detector, self.network, image, compute, part(progress, 0.1, 0.8))
        progress(0.8, "Outlining lesions")
        score = work.paste(filtered(found, work.lung, work.grid.spacing_mm), lungs)
        lesion = (score >= np.float32(self.threshold)) & (lungs.labels > 0)
        return Prediction(lesion.astype(np.uint8), score)


def on_canvas(scan: Scan, lungs: LungMask, preset: Preset) -> LungSlices:
    """The lungs of a scan on the canvas, every pixel the mean over its area.

    Where there is lung in it, it is the mean of lung alone: the lungs must not have a bright rim of chest wall.
    """
    box = bounding_box(lungs.labels > 0)
    hu, lung = scan.hu[box], lungs.labels[box] > 0
    area_mm = (0.0, *preset.spacing_mm[1:])
    averaged = scan.hu.copy()
    for kind in (~lung, lung):
        sums, counts = (box_mean(each, area_mm, scan.grid.spacing_mm) for each in (hu * kind, kind))
        there = counts > 0
        averaged[box][there] = sums[there] / counts[there]
    return LungSlices.of(replace(scan, hu=averaged), lungs, preset.spacing_mm, preset.side)


def scored(
    detector: Detector, network: nn.Module, image: np.ndarray, compute: Compute, progress: Progress
) -> np.ndarray:
    """How abnormal each pixel of slices (k, j, i) float32 is, the same shape, in [0, 1]."""
    import torch

    device = torch.device(compute.device)
    network = network.to(device)
    score = np.empty_like(image)
    with torch.no_grad(), compute.autocast():
        for start in range(0, len(image), SLICES):
            progress(start / len(image), "Looking for anomalies")
            several = slice(start, start + SLICES)
            x = torch.from_numpy(image[several, None]).to(device)
            with repeatable():
                score[several] = detector.score(network, x)[:, 0].float().clamp(0.0, 1.0).cpu().numpy()
    return score


@contextmanager
def repeatable() -> Iterator[None]:
    """What is drawn within is always the same, and nothing that is drawn elsewhere changes."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


def filtered(score: np.ndarray, lung: np.ndarray, spacing_mm: Lengths) -> np.ndarray:
    """The score in the lungs without its specks, (k, j, i) float32: a median filter over odd numbers of voxels."""
    widths = [2 * round((width / mm - 1) / 2) + 1 for width, mm in zip(MEDIAN_MM, spacing_mm, strict=True)]
    return ndimage.median_filter(score * lung, size=[max(width, 1) for width in widths]) * lung


def difference(x: Tensor, made: Tensor) -> Tensor:
    """Sum of the absolute differences of each slice, (n,)."""
    return (x - made).abs().flatten(1).sum(dim=1)


def divergence(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL divergence of N(mean, sd) from N(0, 1), summed over all but the batch, (n,)."""
    terms = mean.square() + (2 * log_sd).exp() - 2 * log_sd - 1
    return 0.5 * terms.flatten(1).sum(dim=1)


def drawn(mean: Tensor, log_sd: Tensor) -> Tensor:
    """A sample of N(mean, sd) that gradients reach mean and sd through."""
    return mean + log_sd.exp() * mean.new_empty(mean.shape).normal_()
