"""Labels of the target domain: what adaptation can reach at most. Supervised.

The labels are those of planted lesions, made by another generator than the source's; none is an expert's
(`evaluation.target_only`).
"""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import SUPERVISED, Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="target-only",
    title="Target domain with labels",
    summary="The network of the other rows, taught with the labels of planted lesions.",
    citation=uda.CARD.citation,
    networks=("target-only",),
    picture_mm=0.0,
    kind=SUPERVISED,
)
PRESETS = {name: uda.PRESETS[name] for name in ("paper", "small")}


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
