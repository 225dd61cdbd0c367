"""What every method is to the rest of the program: a card that describes it, and `predict`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError

if TYPE_CHECKING:
    from LabelFreeCovidSegLib.device import Compute
    from LabelFreeCovidSegLib.lungs import LungMask
    from LabelFreeCovidSegLib.progress import Progress
    from LabelFreeCovidSegLib.scan import Scan

LABEL_FREE, SUPERVISED = "label-free", "supervised"


@dataclass(frozen=True)
class Card:
    """What a user should know of a method before choosing it.

    Attributes:
        seconds_per_megavoxel: what a whole run took on 2 CPU cores, for a million voxels of the CT.
        kind: what it learnt from: `LABEL_FREE`, or `SUPERVISED` with lesion labels, which tables mark.
    """

    name: str
    title: str
    summary: str
    citation: str
    seconds_per_megavoxel: float = 0.5
    kind: str = LABEL_FREE


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method found, on the scan's LPS grid.

    Attributes:
        lesion: (k, j, i) uint8, 1 where there is lesion.
        score: (k, j, i) float32 anomaly map, 0 outside the lungs; larger is more abnormal.
        healthy_hu: (k, j, i) float32, the scan as it would be without disease, for methods that reconstruct it.
        classes: (k, j, i) uint8: 0 no lesion, 1 ground glass, 2 consolidation, for methods that tell them apart.
        warnings: what a reader of the result should look at, one sentence each.
    """

    lesion: np.ndarray
    score: np.ndarray
    healthy_hu: np.ndarray | None = None
    classes: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


class Method(Protocol):
    """A trained method, ready to predict."""

    card: Card
    weights: str
    """Which weights it runs on: name, version and the first digits of their SHA-256."""

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan. Raises `CancelledError` when `progress` does."""
        ...


REGISTRY = {"normnet": "LabelFreeCovidSegLib.methods.normnet"}
"""Name on the command line and in the panel -> module with `CARD` and `load() -> Method`. A method whose weights do not
ship yet (`cyclegan`, `gan3d`, `uda`) can be trained (`training.recipes.REGISTRY`), but is not offered here."""

BASELINES = {"threshold": "LabelFreeCovidSegLib.methods.anomaly.threshold"}
"""What methods are compared with, in the same terms; `evaluate` alone offers them."""


def card(name: str) -> Card:
    """The card of a method. Raises `LabelFreeCovidSegError` for a name that is in neither registry."""
    return _module(name).CARD


def load(name: str) -> Method:
    """The method with the weights that ship. Raises `WeightsError` when those are missing or damaged."""
    return _module(name).load()


def _module(name: str) -> ModuleType:
    known = REGISTRY | BASELINES
    if name not in known:
        raise LabelFreeCovidSegError(f"There is no method '{name}'. Choose one of: {', '.join(known)}.")
    return importlib.import_module(known[name])
