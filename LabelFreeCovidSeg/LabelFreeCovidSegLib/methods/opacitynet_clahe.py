"""OpacityNet for pictures that were equalised place by place; see `methods.opacitynet2d` and `training.clahe`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.anchors import EQUALISED_HU
from LabelFreeCovidSegLib.methods import opacitynet2d
from LabelFreeCovidSegLib.methods.base import CLAHE256
from LabelFreeCovidSegLib.methods.opacitynet2d import OpacityNet2D

CARD = replace(
    opacitynet2d.CARD,
    name="opacitynet_clahe",
    title="OpacityNet for equalised slices",
    summary="OpacityNet for slices whose contrast was equalised place by place (CLAHE), which have no Hounsfield units "
    "left: its networks learned from slices that went through the same steps.",
    networks=("opacitynet_clahe",),
    domain=CLAHE256,
)
# Equalised pictures differ more than others. Slices of two stacks an iteration sent the network up and down: here each
# is of another stack, and its mean is kept. The threshold outlines synthetic lesions best.
_SMALL = replace(opacitynet2d.SMALL, batch=8, slices=1, iterations=2000, inertia=0.99, window_hu=EQUALISED_HU,
                 lesion_probability=0.4, domain=CLAHE256)  # fmt: skip
PRESETS = {"small": _SMALL}


def load(store: Path | None = None) -> OpacityNet2D:
    """The method with the weights that ship, or with those in another store. Raises `WeightsError`."""
    return opacitynet2d.restored(CARD, PRESETS, store)
