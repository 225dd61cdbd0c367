"""AdvEnt: as sure of itself on the target domain as on the source (Vu et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.adaptation import minent
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="advent",
    title="AdvEnt",
    summary="A network that learned from synthetic lesions, while another could tell by its doubts which slices are of "
    "patients.",
    citation=minent.CARD.citation,
    networks=("advent",),
    picture_mm=0.0,
)
# The published rates are those of networks that begin with ImageNet's weights; with a fortieth of the iterations, and
# from nothing, `small` must learn faster.
PRESETS = {
    "paper": replace(uda.PRESETS["paper"], alpha=0.0, learning_rate=2.5e-4, critic_rate=1e-4, critic_width=64),
    "small": replace(uda.PRESETS["small"], alpha=0.0, learning_rate=2e-2),
}


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
