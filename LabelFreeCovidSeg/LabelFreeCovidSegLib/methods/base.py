"""What every method is to the rest of the program: a card that describes it, and `predict`.

A method goes by its name in `REGISTRY`. Several names joined by "+" are a method, too: their consensus.
"""

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
HU, CLAHE256, ANY = "hu", "clahe256", "any"


@dataclass(frozen=True)
class Card:
    """What a user should know of a method before choosing it.

    Attributes:
        seconds_per_megavoxel: what a whole run but its start took on 2 CPU cores, for a million voxels of the CT.
        networks: what the model store calls the weights that it runs on; none for a method without networks.
        picture_mm: how thick a stack of itself a single picture has to be repeated to, to be segmented; 0 where each
            slice is segmented by itself, None where pictures make no sense.
        domain: what it was trained on: "hu", or "clahe256", slices that were equalised place by place
            (`training.clahe`); the card of a loaded method says it of its weights. "any" of what has learnt nothing,
            and of a consensus, whose members say it for themselves.
        kind: what it learnt from: `LABEL_FREE`, or `SUPERVISED` with lesion labels, which tables mark.
        knows_health: whether the loaded method says how probably a voxel is healthy; see `KnowsHealth`.
        members: of a consensus, the cards of the methods that vote.
    """

    name: str
    title: str
    summary: str
    citation: str
    seconds_per_megavoxel: float = 0.3
    networks: tuple[str, ...] = ()
    picture_mm: float | None = None
    domain: str = HU
    kind: str = LABEL_FREE
    knows_health: bool = False
    members: tuple[Card, ...] = ()

    def each(self, weights: str) -> list[tuple[Card, str]]:
        """The card of every method that looks at a scan, itself or the members, and what to call its weights.

        Args:
            weights: those of the whole, as `Method.weights`.
        """
        return [(member, f"of {member.title}") for member in self.members] or [(self, weights)]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method found, on the scan's LPS grid.

    Attributes:
        lesion: (k, j, i) uint8, 1 where there is lesion.
        score: (k, j, i) float32 anomaly map, 0 outside the lungs; larger is more abnormal.
        healthy_hu: (k, j, i) float32, the scan as it would be without disease, for methods that reconstruct it.
        classes: (k, j, i) uint8: 0 no lesion, 1 ground glass, 2 consolidation, for methods that tell them apart.
        warnings: what a reader of the result should look at, one sentence each.
        calibrated: whether `score` is the probability of lesion, as measured on lesions that are known.
        agreement: (k, j, i) float32, share of the methods that call the voxel lesion, for a consensus.
    """

    lesion: np.ndarray
    score: np.ndarray
    healthy_hu: np.ndarray | None = None
    classes: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    calibrated: bool = False
    agreement: np.ndarray | None = None


class Method(Protocol):
    """A trained method, ready to predict."""

    card: Card
    weights: str
    """Which weights it runs on: name, version and the first digits of their SHA-256."""

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan. Raises `CancelledError` when `progress` does."""
        ...


class KnowsHealth(Protocol):
    """What a loaded method can say besides where its card says so."""

    def health(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> np.ndarray:
        """How probably each voxel is healthy tissue, (k, j, i) float32; it means something where lung is bright."""
        ...


DEFAULT = "opacitynet"
"""What segments a scan if nobody chooses."""

REGISTRY = {
    "opacitynet": "LabelFreeCovidSegLib.methods.opacitynet",
    "normnet": "LabelFreeCovidSegLib.methods.normnet",
    "cyclegan": "LabelFreeCovidSegLib.methods.cyclegan",
    "gan3d": "LabelFreeCovidSegLib.methods.gan3d",
    "uda": "LabelFreeCovidSegLib.methods.uda",
}
"""Name on the command line and in the panel -> module with `CARD` and `load() -> Method`. Importing the module must not
need torch: the panel shows the card in Slicer's own process, before torch is installed."""

PICTURES = {
    "opacitynet2d": "LabelFreeCovidSegLib.methods.opacitynet2d",
    "opacitynet_clahe": "LabelFreeCovidSegLib.methods.opacitynet_clahe",
}
"""Methods for single pictures alone, in the same terms; the panel, which has whole scans, does not offer them."""

BASELINES = {
    "threshold": "LabelFreeCovidSegLib.methods.anomaly.threshold",
    "ae": "LabelFreeCovidSegLib.methods.anomaly.ae",
    "vae": "LabelFreeCovidSegLib.methods.anomaly.vae",
    "vae-spatial": "LabelFreeCovidSegLib.methods.anomaly.vae_spatial",
    "vae-original": "LabelFreeCovidSegLib.methods.anomaly.vae_original",
    "context-vae": "LabelFreeCovidSegLib.methods.anomaly.context_vae",
    "constrained-vae": "LabelFreeCovidSegLib.methods.anomaly.constrained_vae",
    "gmvae": "LabelFreeCovidSegLib.methods.anomaly.gmvae",
    "bayesian-vae": "LabelFreeCovidSegLib.methods.anomaly.bayesian_vae",
    "kl-grad": "LabelFreeCovidSegLib.methods.anomaly.kl_grad",
    "vae-restoration": "LabelFreeCovidSegLib.methods.anomaly.vae_restoration",
    "f-anogan": "LabelFreeCovidSegLib.methods.anomaly.f_anogan",
    "source-only": "LabelFreeCovidSegLib.methods.adaptation.source_only",
    "target-only": "LabelFreeCovidSegLib.methods.adaptation.target_only",
    "minent": "LabelFreeCovidSegLib.methods.adaptation.minent",
    "advent": "LabelFreeCovidSegLib.methods.adaptation.advent",
    "intrada": "LabelFreeCovidSegLib.methods.adaptation.intrada",
    "self-ensembling": "LabelFreeCovidSegLib.methods.adaptation.self_ensembling",
    "ssl": "LabelFreeCovidSegLib.methods.adaptation.ssl",
    "nnunet": "LabelFreeCovidSegLib.evaluation.nnunet",
}
"""What methods are compared with, in the same terms; `evaluate` alone offers them. No weights of theirs ship, and their
cards need no torch, either."""

JOINT = "+"
"""Between the names of methods that vote."""


def everything() -> dict[str, str]:
    """Name -> module of all methods, those to segment with first."""
    return REGISTRY | PICTURES | BASELINES


def for_pictures(equalised: bool) -> str:
    """What segments pictures if nobody chooses: OpacityNet's networks for this kind of them."""
    return "opacitynet_clahe" if equalised else "opacitynet2d"


def able_in_pictures() -> list[str]:
    """The names of what can segment single pictures, what is for them alone first."""
    return [name for name in PICTURES | REGISTRY if card(name).picture_mm is not None]


def members(name: str) -> tuple[str, ...]:
    """The names that a method's name consists of: one, or several for their consensus.

    Raises:
        LabelFreeCovidSegError: one of them is in no registry, or stands there twice.
    """
    names = tuple(name.split(JOINT))
    for each in names:
        if each not in everything():
            raise LabelFreeCovidSegError(
                f"There is no method '{each}'. Choose one of: {', '.join(REGISTRY)}; for pictures (--slices): "
                f"{', '.join(able_in_pictures())}."
            )
        if names.count(each) > 1:
            raise LabelFreeCovidSegError(f"'{name}' names {each} twice, and each method has one vote. Name it once.")
    return names


def card(name: str) -> Card:
    """The card of a method, or of the consensus of several. Raises `LabelFreeCovidSegError` as `members` does."""
    cards = [_module(each).CARD for each in members(name)]
    return cards[0] if len(cards) == 1 else _consensus().card(cards)


def load(name: str) -> Method:
    """The method with the weights on this computer.

    Raises:
        LabelFreeCovidSegError: as `members`. WeightsError: weights are missing or damaged.
    """
    names = members(name)
    return _module(name).load() if len(names) == 1 else _consensus().load(names)


def _module(name: str) -> ModuleType:
    return importlib.import_module(everything()[name])


def _consensus() -> ModuleType:
    """Imported late, because it stands on this module."""
    from LabelFreeCovidSegLib.methods import consensus

    return consensus
