"""The source domain alone: where adaptation starts from."""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="source-only",
    title="Source domain alone",
    summary="A network that learned from synthetic lesions alone, and never saw a scan of a patient.",
    citation=uda.CARD.citation,
    networks=("source-only",),
    picture_mm=0.0,
)
PRESETS = uda.PRESETS


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
