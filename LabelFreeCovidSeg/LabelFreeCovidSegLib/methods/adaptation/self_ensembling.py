"""Self-ensembling: a student that must agree with its own past (Perone et al., NeuroImage 2019)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="self-ensembling",
    title="Self-ensembling",
    summary="The running mean of a network that learned from synthetic lesions, and to agree with that mean on turned "
    "slices of patients.",
    citation="Perone CS, Ballester P, Barros RC, Cohen-Adad J. Unsupervised domain adaptation for medical imaging "
    "segmentation with self-ensembling. NeuroImage 2019;194:1-11. doi:10.1016/j.neuroimage.2019.03.026",
    networks=("self-ensembling",),
    picture_mm=0.0,
)
PRESETS = {
    "paper": replace(uda.PRESETS["paper"], learning_rate=6e-4, batch=12),
    # As many slices as the other rows of this preset see.
    "small": replace(uda.PRESETS["small"], learning_rate=2e-3, batch=2, iterations=1250),
}


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
