"""MinEnt: sure of itself on the target domain too (Vu et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="minent",
    title="MinEnt",
    summary="A network that learned from synthetic lesions, and to be sure of what it says of scans of patients.",
    citation="Vu TH, Jain H, Bucher M, Cord M, Pérez P. ADVENT: Adversarial Entropy Minimization for Domain Adaptation "
    "in Semantic Segmentation. CVPR 2019:2517-2526. doi:10.1109/CVPR.2019.00262",
    networks=("minent",),
    picture_mm=0.0,
)
# The published rates are those of networks that begin with ImageNet's weights; with a fortieth of the iterations, and
# from nothing, `small` must learn faster.
PRESETS = {
    "paper": replace(uda.PRESETS["paper"], learning_rate=2.5e-4),
    "small": replace(uda.PRESETS["small"], learning_rate=2e-2),
}


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
