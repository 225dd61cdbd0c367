"""Self-supervised few-shot segmentation: each pixel is what its nearest prototype is (Ouyang et al., ECCV 2020).

The paper's network is a ResNet-101 that begins with the weights of COCO. Here the features are those of f and c, from
nothing, and the last convolution gives way to prototypes (`networks.prototypes`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation, Preset

if TYPE_CHECKING:
    from LabelFreeCovidSegLib.networks.uda import Segmenter

CARD = Card(
    name="ssl",
    title="Superpixels and prototypes",
    summary="A network that learned, without labels, to find superpixels again. It compares each pixel with examples "
    "of synthetic lesions.",
    citation="Ouyang C, Biffi C, Chen C, Kart T, Qiu H, Rueckert D. Self-supervision with Superpixels: Training "
    "Few-Shot Medical Image Segmentation Without Annotation. ECCV 2020, LNCS 12374:762-780. "
    "doi:10.1007/978-3-030-58526-6_45",
    networks=("ssl",),
    picture_mm=0.0,
)
PRESETS = {
    "paper": replace(uda.PRESETS["paper"], learning_rate=1e-3, iterations=100_100),
    "small": replace(uda.PRESETS["small"], learning_rate=1e-2),
}


def build(preset: Preset) -> Segmenter:
    """The untrained network of a preset: f, and c with prototypes instead of its last convolution."""
    from LabelFreeCovidSegLib.networks.prototypes import Prototypes

    network = uda.build(preset)
    network.classifier.scores = Prototypes(preset.channels[0], uda.CLASSES)
    return network


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS, build)
