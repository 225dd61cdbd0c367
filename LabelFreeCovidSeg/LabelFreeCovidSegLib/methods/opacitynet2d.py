"""OpacityNet for single slices: the idea of `methods.opacitynet` where there is no neighbouring slice to look at.

Pictures in publications and public collections are slices without Hounsfield units. What can be calibrated
(`anchors`) is given as HU; what was equalised place by place can't be, and has networks of its own that have learned
from slices that went through the same steps (`opacitynet_clahe`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import HU, Card, Prediction
from LabelFreeCovidSegLib.methods.normnet import Calibration
from LabelFreeCovidSegLib.methods.opacitynet import CLASSES, OPACITY, WINDOW_HU, window
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.postprocess import NEIGHBOURS, Lengths
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.scan import Scan, bounding_box

if TYPE_CHECKING:
    from torch import nn

    from LabelFreeCovidSegLib.networks.slice_unet import SliceUNet

CARD = Card(
    name="opacitynet2d",
    title="OpacityNet for slices",
    summary="OpacityNet's idea slice by slice, for pictures: a network that learned from painted pneumonia to tell "
    "lesions from vessels and other bright healthy tissue.",
    citation="LabelFreeCovidSeg: OpacityNet. The idea of naming healthy tissue is that of Yao Q, Xiao L, Liu P, Zhou "
    "SK. Label-Free Segmentation of COVID-19 Lesions in Lung CT. IEEE Trans Med Imaging 2021;40(10):2808-2819. "
    "doi:10.1109/TMI.2021.3066161",
    networks=("opacitynet2d",),
    picture_mm=0.0,
)

SLICES = 16
"""Slices that go through a network together."""
ADAPTED = 1 / 3
"""Share of the statistics of what a network is about to see in those that it normalises with: a round number. That
adapting helps with patients' pictures was seen on the development sets; synthetic lesions show nothing of it."""


@dataclass(frozen=True)
class Preset:
    """A grid, a network and how it is trained.

    Attributes:
        spacing_mm: working grid along (k, j, i). k is that of the training slices; a scan is segmented in it too.
        side: of the square canvas, in pixels.
        widths: of the U-Net.
        batch: stacks an iteration. slices: of each stack.
        cooldown: last share of the iterations, over which the learning rate falls to 0 in a straight line.
        inertia: share of itself that the running mean of the weights, which is what ships, keeps in an iteration; 0 for
            the weights as they are.
        window_hu: what the networks see, brought to [0, 1].
        lesion_probability: from here on a pixel is lesion: the networks' mean of it, before calibration.
        domain: what the slices are; see `base.Card`.
        paint: see `opacitynet.Preset`.
    """

    name: str
    spacing_mm: Lengths
    side: int
    widths: tuple[int, ...]
    batch: int
    slices: int
    iterations: int
    learning_rate: float
    cooldown: float
    inertia: float = 0.0
    window_hu: tuple[float, float] = WINDOW_HU
    lesion_probability: float = 0.3
    domain: str = HU
    paint: str = "wide"


SMALL = Preset("small", (3.0, 1.5, 1.5), 192, (16, 32, 64, 96, 128), batch=2, slices=4, iterations=1200,
               learning_rate=3e-3, cooldown=0.8)  # fmt: skip
PRESETS = {"small": SMALL}


class OpacityNet2D:
    """Trained networks whose probabilities are averaged, slice by slice.

    Args:
        networks: in evaluation mode; (n, 2, j, i) -> (n, 3, j, i).
        preset: what they were trained with.
        weights: how the report names them.
        card: of the method that they belong to.
        calibration: of their probability; without it, it is given as it is.
    """

    def __init__(
        self, networks: Sequence[nn.Module], preset: Preset, weights: str, card: Card = CARD,
        calibration: Calibration = (),
    ) -> None:  # fmt: skip
        self.networks = tuple(networks)
        self.preset = preset
        self.weights = weights
        self.card = card
        self.calibration = calibration

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan or slice."""
        progress(0.0, "Preparing the lungs")
        spacing_mm = self._spacing_mm(scan)
        work = LungSlices.of(scan, lungs, spacing_mm, self._side(scan, lungs, spacing_mm))
        shown = seen(window(work.hu, self.preset.window_hu), work.lung)
        shares = pairwise(np.linspace(0.0, 1.0, len(self.networks) + 1))
        found = [
            judged(network, shown, compute, part(progress, *share))
            for network, share in zip(self.networks, shares, strict=True)
        ]
        probability = weighed(np.mean(found, axis=0), work.lung)
        # What the networks say holds if this is lung.
        certainty = np.float32(1.0) if lungs.certainty is None else lungs.certainty
        lesion = certainty * work.paste(probability, lungs) > self.preset.lesion_probability
        if self.calibration:
            probability = np.interp(probability, *np.transpose(self.calibration)).astype(np.float32) * work.lung
        score = certainty * work.paste(probability, lungs)
        return Prediction(lesion.astype(np.uint8), score, calibrated=bool(self.calibration))

    def _side(self, scan: Scan, lungs: LungMask, spacing_mm: Lengths) -> int:
        """Of a canvas that holds the lungs as they are. Shrunk to fit, an equalised picture would lose its grain, and a
        network that has never seen one so smooth took all of the lungs for lesion."""
        extents = [axis.stop - axis.start for axis in bounding_box(lungs.labels > 0)[1:]]
        widest = max(n * mm / new for n, mm, new in zip(extents, scan.grid.spacing_mm[1:], spacing_mm[1:], strict=True))
        stride = 2 ** (len(self.preset.widths) - 1)
        return max(self.preset.side, stride * math.ceil(widest / stride - 1e-6))

    def _spacing_mm(self, scan: Scan) -> Lengths:
        """The working grid along (k, j, i). Equalised pictures keep their pixels, whose sharpness is part of what they
        look like and whose size is a guess."""
        return self.preset.spacing_mm if self.preset.domain == HU else scan.grid.spacing_mm


def seen(intensity: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """What a network sees of slices (k, j, i): (k, 2, j, i) float32, intensity in the lungs and the lungs."""
    return np.stack([intensity * lung, lung.astype(np.float32)], axis=1)


def judged(network: nn.Module, shown: np.ndarray, compute: Compute, progress: Progress = silent) -> np.ndarray:
    """Probability of lesion (k, j, i) float32 in slices (k, 2, j, i) float32, by a network that has adapted to them."""
    network = adapted(network, shown, compute, part(progress, 0.0, 0.5))
    found = []
    for start in range(0, len(shown), SLICES):
        progress(0.5 + 0.5 * start / len(shown), "Finding lesions")
        found.append(probabilities(network, shown[start : start + SLICES], compute))
    return np.concatenate(found)


def adapted(network: nn.Module, shown: np.ndarray, compute: Compute, progress: Progress = silent) -> nn.Module:
    """A copy of a network in evaluation mode that has adapted to slices (k, 2, j, i) float32 before it judges them.

    Other scanners, reconstructions and ways to make a picture change what its layers say of healthy lung. Batch
    normalisation with the statistics of training takes that for anatomy, with those of the slices alone it takes
    extensive disease for the way pictures are; so they are mixed (Schneider et al.: Improving robustness against common
    corruptions by covariate shift adaptation, NeurIPS 2020). No label is needed, and nothing is learned.
    """
    import torch

    device = torch.device(compute.device)
    made = copy.deepcopy(network).to(device).train()
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches, which are as good as equally large
    batches = math.ceil(len(shown) / SLICES)
    with torch.inference_mode(), compute.autocast():
        for first in range(batches):
            progress(first / batches, "Adapting to the slices")
            # From everywhere: what batches differ by would be missing in the variance.
            made(torch.from_numpy(shown[first::batches]).to(device))
    trained = network.state_dict()
    for name, its in made.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            its.lerp_(trained[name].to(device), 1.0 - ADAPTED)
    return made.eval()


def probabilities(network: nn.Module, shown: np.ndarray, compute: Compute) -> np.ndarray:
    """Probability of lesion in slices (k, 2, j, i) float32; (k, j, i) float32."""
    import torch

    device = torch.device(compute.device)
    with torch.inference_mode(), compute.autocast():
        scores = network.to(device)(torch.from_numpy(shown).to(device))
        return scores.float().softmax(dim=1)[:, OPACITY].cpu().numpy()


def weighed(probability: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Probability (k, j, i) float32 in `lung` (k, j, i) bool, with what the slices beside it say of the same place."""
    said, counted = (
        ndimage.correlate1d(array, NEIGHBOURS, axis=0, mode="nearest")
        for array in (probability * lung, lung.astype(np.float32))
    )
    return said / np.where(lung, counted, np.float32(1.0)) * lung


def build(preset: Preset) -> SliceUNet:
    """An untrained network of a preset: class 0 the rest, `BRIGHT_HEALTHY`, `OPACITY`."""
    from LabelFreeCovidSegLib.networks.slice_unet import SliceUNet

    return SliceUNet(preset.widths, in_channels=2, out_channels=CLASSES)


def load(store: Path | None = None) -> OpacityNet2D:
    """The method with the weights that ship, or with those in another store. Raises `WeightsError` as `restored`."""
    return restored(CARD, PRESETS, store)


def restored(card: Card, presets: Mapping[str, Preset], store: Path | None) -> OpacityNet2D:
    """The method that `card` describes, with one of `presets`.

    Raises:
        WeightsError: weights are missing, damaged, or do not fit this network.
    """
    from LabelFreeCovidSegLib import weights

    entry, states = weights.load(card.name, store)
    preset = weights.preset(entry, presets)
    networks = [weights.fill(build(preset), state, entry).eval() for state in states]
    return OpacityNet2D(networks, preset, entry.label, card, entry.recipe.get("calibration", ()))
