"""Unsupervised domain adaptation: a slice network taught on synthetic lesions and made to see real ones alike.

Chen, Jiang, Loew, Ko: Unsupervised domain adaptation based COVID-19 CT infection segmentation network. Applied
Intelligence 52 (2022) 6340-6353.

The source domain is healthy lung with synthetic ground glass and consolidation, the target domain scans of patients
without any label. Here is what is left after training: f and c, slice by slice, four classes. The paper's source is a
generator that expert masks had taught; ours is not, so its published scores are no measure of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import CLAHE256, HU, Card, Prediction
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.scan import AIR_HU, Scan, bounding_box, resample, windowed

if TYPE_CHECKING:
    from torch import nn

    from LabelFreeCovidSegLib.networks.uda import Segmenter

CARD = Card(
    name="uda",
    title="Domain adaptation",
    summary="A network that learned, slice by slice, to tell lung, ground glass and consolidation apart in synthetic "
    "lesions, while two others made it see scans of patients the same way.",
    citation="Chen H, Jiang Y, Loew M, Ko H. Unsupervised domain adaptation based COVID-19 CT infection segmentation "
    "network. Appl Intell 2022;52(6):6340-6353. doi:10.1007/s10489-021-02691-x",
    networks=("uda",),
    picture_mm=0.0,
)

BACKGROUND, LUNG, GROUND_GLASS, CONSOLIDATION = range(4)
"""The network's classes."""
CLASSES = 4
UNKNOWN = 255
"""A label that nothing is learned from."""
WINDOW_HU = (-1000.0, 400.0)
"""Not printed in the paper; g's range is that of tanh."""
AROUND_MM = 20.0
"""What is shown in a slice around the lungs."""
SLAB = 16
"""Slices that are segmented together."""
SURE = 0.8
"""Where the lungs are is known. In them, background is an answer only from this probability on. At 0.5 the phantom's
consolidation in CMB-CRC MSB-01068 has a Dice of 0.64, at 0.8 of 0.80 (uda 1.0.0); beyond, false marks grow faster."""
AGREEMENT = 0.9
"""Dice of the network's own lungs with the mask in use; below, a reader is told."""

Plane = tuple[int, int]
"""Extents (j, i)."""


@dataclass(frozen=True)
class Preset:
    """A grid, four networks and how they are trained.

    Attributes:
        spacing_mm: working grid along (k, j, i). k is that of the training slices; a scan is segmented in its own.
        canvas: extent in pixels (j, i) of a training slice, divisible by 16.
        channels: of f, levels 2 to 5. critic_width: of d.
        batch: slices of each domain an iteration.
        learning_rate: of f and c at the beginning. critic_rate: of g and d.
        class_weights: of the classes' pixels in the cross-entropy; all 1 in the paper.
        alpha: weight of the adversarial term where all terms are sums.
        generator_levels: of f that g sees.
        domain: what the slices are; see `base.Card`.
    """

    name: str
    spacing_mm: tuple[float, float, float]
    canvas: Plane
    channels: tuple[int, int, int, int]
    critic_width: int
    batch: int
    iterations: int
    learning_rate: float = 1e-5
    critic_rate: float = 1e-5
    class_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    alpha: float = 0.1
    generator_levels: tuple[int, ...] = (3, 4, 5)
    domain: str = HU


_PAPER = Preset("paper", (3.0, 0.75, 0.75), (512, 512), (64, 128, 256, 512), 128, batch=1, iterations=100_000)
# Ships: a seventh of the parameters on half the grid. With a fortieth of the iterations it must learn faster, and each
# pixel of a lesion, one in a hundred, must count for more: without, no lesion at all was found after 900 iterations.
_SMALL = Preset("small", (3.0, 1.5, 1.5), (192, 256), (24, 48, 96, 192), 32, batch=1, iterations=2500,
                learning_rate=1e-3, critic_rate=2e-4, class_weights=(1.0, 1.0, 8.0, 8.0))  # fmt: skip
_EQUALISED = replace(_SMALL, name=f"small-{CLAHE256}", domain=CLAHE256)
PRESETS = {preset.name: preset for preset in (_PAPER, _SMALL, _EQUALISED)}
ABLATIONS = {
    preset.name: preset
    for preset in (
        replace(_SMALL, name="small-levels-234", generator_levels=(2, 3, 4)),
        replace(_SMALL, name="small-no-skips", generator_levels=(5,)),
    )
}
"""Rows of the paper's tables 3 and 4; that without an adversary is `source-only`."""


def window(hu: np.ndarray) -> np.ndarray:
    """HU -> [-1, 1] over [-1000, 400] HU."""
    return windowed(hu, WINDOW_HU, (-1.0, 1.0))


def build(preset: Preset) -> Segmenter:
    """The untrained network of a preset: f, and c after it."""
    from LabelFreeCovidSegLib.networks.uda import Classifier, Extractor, Segmenter

    return Segmenter(Extractor(preset.channels), Classifier(preset.channels, CLASSES))


class DomainAdaptation:
    """A trained network, slice by slice.

    Args:
        network: in evaluation mode; (n, 1, j, i) -> (n, 4, j, i).
        preset: what it was trained with.
        weights: how the report names it.
        card: of the row that it is; what is compared with this method differs in training alone.
    """

    def __init__(self, network: nn.Module, preset: Preset, weights: str, card: Card = CARD) -> None:
        self.card = replace(card, domain=preset.domain)
        self.network = network
        self.preset = preset
        self.weights = weights

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan, ground glass and consolidation apart.

        In the lungs the most likely class but background counts, unless background is `SURE`.
        """
        margin = (0, *(int(np.ceil(AROUND_MM / mm)) for mm in scan.grid.spacing_mm[1:]))
        box = bounding_box(lungs.labels > 0, margin)
        own = np.zeros(scan.hu.shape, dtype=bool)
        classes = np.zeros(scan.hu.shape, dtype=np.uint8)
        score = np.zeros(scan.hu.shape, dtype=np.float32)
        for slab in slabs(box):
            progress((slab[0].start - box[0].start) / (box[0].stop - box[0].start), "Finding lesions")
            probabilities = self._probabilities(scan, slab, compute)
            own[slab] = probabilities.argmax(axis=0) > BACKGROUND
            lung = probabilities[BACKGROUND] <= SURE
            classes[slab] = probabilities[LUNG:].argmax(axis=0) * lung
            lesion = probabilities[GROUND_GLASS] + probabilities[CONSOLIDATION]
            score[slab] = np.divide(lesion, 1 - probabilities[BACKGROUND], out=np.zeros_like(lesion), where=lung)
        inside = lungs.labels > 0
        classes *= inside
        lesion = (classes > 0).astype(np.uint8)
        return Prediction(lesion, score * inside, classes=classes, warnings=disagreement(own, lungs, scan))

    def _probabilities(self, scan: Scan, slab: tuple[slice, ...], compute: Compute) -> np.ndarray:
        """Of each class in a slab of the scan, on the scan's grid: (4, k, j, i) float32."""
        source = scan.grid.covering(slab, scan.grid.spacing_mm)
        grid = source.with_spacing((source.spacing_mm[0], *self.preset.spacing_mm[1:]))
        slices = window(resample(scan.hu[slab], source, grid, outside=AIR_HU))
        found = probabilities(self.network, slices, self.preset.canvas, compute)
        return np.stack([resample(one, grid, source) for one in found])


def slabs(box: tuple[slice, ...]) -> Iterator[tuple[slice, ...]]:
    """`box` cut into slabs of `SLAB` slices, from the feet up."""
    for start in range(box[0].start, box[0].stop, SLAB):
        yield slice(start, min(start + SLAB, box[0].stop)), *box[1:]


def probabilities(network: nn.Module, slices: np.ndarray, canvas: Plane, compute: Compute) -> np.ndarray:
    """Softmax of the network's classes, (4, k, j, i) float32.

    Args:
        slices: (k, j, i) float32 in [-1, 1], each put in the middle of a canvas at least as large as `canvas`.
    """
    import torch

    from LabelFreeCovidSegLib.networks.uda import STRIDE

    plane = slices.shape[1:]
    extents = [max(extent, n + -n % STRIDE) for n, extent in zip(plane, canvas, strict=True)]
    before = [(extent - n) // 2 for n, extent in zip(plane, extents, strict=True)]
    padding = [(a, extent - n - a) for a, n, extent in zip(before, plane, extents, strict=True)]
    padded = np.pad(slices, [(0, 0), *padding], constant_values=-1.0)
    device = torch.device(compute.device)
    with torch.inference_mode(), compute.autocast():
        scores = network.to(device)(torch.from_numpy(padded)[:, None].to(device))
        found = scores.float().softmax(dim=1).cpu().numpy()
    j, i = (slice(a, a + n) for a, n in zip(before, plane, strict=True))
    return np.ascontiguousarray(found[:, :, j, i].swapaxes(0, 1))


def disagreement(own: np.ndarray, lungs: LungMask, scan: Scan) -> tuple[str, ...]:
    """A sentence if the network's own lungs, (k, j, i) bool, are not those of the mask in use."""
    given = lungs.labels > 0
    dice = 2 * np.count_nonzero(own & given) / (np.count_nonzero(own) + np.count_nonzero(given))
    if dice >= AGREEMENT:
        return ()
    more, less = (np.count_nonzero(a & ~b) * scan.grid.voxel_ml for a, b in ((own, given), (given, own)))
    return (
        f"Check the lungs: the method's own idea of them agrees little with the outline in use (Dice {dice:.2f}). "
        f"It holds {more:.0f} mL more, and leaves out {less:.0f} mL in which no lesion can have been found.",
    )


def load(
    store: Path | None = None,
    card: Card = CARD,
    presets: Mapping[str, Preset] = PRESETS | ABLATIONS,
    build: Callable[[Preset], Segmenter] = build,
) -> DomainAdaptation:
    """The method with the weights that ship, or with those in another store.

    Args:
        card, presets, build: of a row that this method is compared with (`methods.adaptation`).

    Raises:
        WeightsError: they are missing, damaged, or do not fit this network.
    """
    from LabelFreeCovidSegLib import weights

    entry, (state,) = weights.load(card.name, store)
    preset = weights.preset(entry, presets)
    return DomainAdaptation(weights.fill(build(preset), state, entry).eval(), preset, entry.label, card)
