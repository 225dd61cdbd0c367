"""IntraDA: from the easy slices of the target domain to the hard ones (Pan et al., CVPR 2020)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.methods.adaptation import advent
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.uda import DomainAdaptation

CARD = Card(
    name="intrada",
    title="IntraDA",
    summary="AdvEnt a second time, from those slices of patients that the first one was sure of to the others.",
    citation="Pan F, Shin I, Rameau F, Lee S, Kweon IS. Unsupervised Intra-Domain Adaptation for Semantic Segmentation "
    "Through Self-Supervision. CVPR 2020:3764-3773. doi:10.1109/CVPR42600.2020.00382",
    networks=("intrada",),
    picture_mm=0.0,
)
PRESETS = {name: replace(preset, iterations=2 * preset.iterations) for name, preset in advent.PRESETS.items()}
"""AdvEnt's, with its iterations for each of two phases."""


def load(store: Path | None = None) -> DomainAdaptation:
    """The network with the weights of this row. Raises `WeightsError` as `uda.load` does."""
    return uda.load(store, CARD, PRESETS)
