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
    summary="A network that learned from synthetic lesions until its doubts no longer told another network which "
    "slices are of patients.",
    citation=minent.CARD.citation,
    networks=("advent",),
    picture_mm=0.0,
)
PRESETS = {
    "paper": replace(minent.PRESETS["paper"], critic_rate=1e-4, critic_width=64),
    "small": minent.PRESETS["small"],
}


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
