"""Which methods can be trained, and what each must say of itself.

To add a method: write a module with what `Recipe` lists and add a line to `REGISTRY`. The cache, the loop, the
checkpoints, leaving scans out, exporting and the command line are there already.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from LabelFreeCovidSegLib.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from LabelFreeCovidSegLib.progress import Progress
    from LabelFreeCovidSegLib.training.loop import Trainee
    from LabelFreeCovidSegLib.training.scanlist import ListedScan

Arrays = Mapping[str, "np.ndarray"]
"""A block of a cached scan: named arrays (k, j, i), all of one shape, on the working grid."""


class Preset(Protocol):
    """A grid, a network and how it is trained: a frozen dataclass with at least these attributes."""

    @property
    def name(self) -> str:
        """As `--preset` takes it."""
        ...

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Working grid along (k, j, i)."""
        ...

    @property
    def batch(self) -> int:
        """Samples an iteration."""
        ...

    @property
    def iterations(self) -> int:
        """Length of a run."""
        ...


def domain(preset: Preset) -> str:
    """What the slices are that a preset learns from, as `methods.base.Card.domain`: "hu" unless it says otherwise."""
    from LabelFreeCovidSegLib.methods.base import HU  # late: what can be trained is listed without numpy

    return getattr(preset, "domain", HU)


class Recipe(Protocol):
    """What a line of `REGISTRY` leads to: mostly a module.

    Attributes:
        PRESETS: by name; the first is the default.
        CITATION: of the method, for the manifest.
        EXPECTS: what the input of the finished weights must be, for a reader of the manifest, where it is in HU.
        SHIPS: which of the trainee's networks a scan needs, as far as a preset has them. The weights of one that ships
            alone keep the names they have in it; where there are several, `NETWORK.` stands before them.
    """

    PRESETS: Mapping[str, Any]
    CITATION: str
    EXPECTS: str
    SHIPS: tuple[str, ...]

    def blocks(self, listed: ListedScan, preset: Any) -> Sequence[Arrays]:
        """Read one scan and bring what can be learned from it onto the working grid.

        Only the CT may be opened. A scan of which nothing is left gives no block.

        Raises:
            ScanError, LungError: the scan can't be used.
        """
        ...

    def trainee(self, preset: Any, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> Trainee:
        """A new network and everything the loop needs to train it.

        Args:
            train: the blocks of each scan to learn from.
            judge: the blocks of the held-out scan, for `Trainee.validate`; empty where none is held out.
        """
        ...

    def calibrate(
        self, preset: Any, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
    ) -> dict[str, Any]:
        """What the manifest's recipe shall say of the finished networks' score, measured on the held-out scan.

        Empty for a method without a score. Values are plain JSON.

        Args:
            states: the tensors that ship of each run, which vote.
        """
        ...


REGISTRY = {
    "normnet": "LabelFreeCovidSegLib.training.normnet",
    "opacitynet": "LabelFreeCovidSegLib.training.opacitynet",
    "opacitynet2d": "LabelFreeCovidSegLib.training.opacitynet2d",
    "opacitynet_clahe": "LabelFreeCovidSegLib.training.opacitynet_clahe",
    "lungnet": "LabelFreeCovidSegLib.training.lungnet",
    "picturenet": "LabelFreeCovidSegLib.training.picturenet",
    "cyclegan": "LabelFreeCovidSegLib.training.cyclegan",
    "gan3d": "LabelFreeCovidSegLib.training.gan3d",
    "uda": "LabelFreeCovidSegLib.training.uda",
    "source-only": "LabelFreeCovidSegLib.training.adaptation.source_only",
    "target-only": "LabelFreeCovidSegLib.evaluation.target_only",
    "minent": "LabelFreeCovidSegLib.training.adaptation.minent",
    "advent": "LabelFreeCovidSegLib.training.adaptation.advent",
    "intrada": "LabelFreeCovidSegLib.training.adaptation.intrada",
    "self-ensembling": "LabelFreeCovidSegLib.training.adaptation.self_ensembling",
    "ssl": "LabelFreeCovidSegLib.training.adaptation.ssl",
    "ae": "LabelFreeCovidSegLib.training.anomaly:AE",
    "vae": "LabelFreeCovidSegLib.training.anomaly:VAE",
    "vae-spatial": "LabelFreeCovidSegLib.training.anomaly:VAE_SPATIAL",
    "vae-original": "LabelFreeCovidSegLib.training.anomaly:VAE_ORIGINAL",
    "context-vae": "LabelFreeCovidSegLib.training.anomaly:CONTEXT_VAE",
    "constrained-vae": "LabelFreeCovidSegLib.training.anomaly:CONSTRAINED_VAE",
    "gmvae": "LabelFreeCovidSegLib.training.anomaly:GMVAE",
    "bayesian-vae": "LabelFreeCovidSegLib.training.anomaly:BAYESIAN_VAE",
    "kl-grad": "LabelFreeCovidSegLib.training.anomaly:KL_GRAD",
    "vae-restoration": "LabelFreeCovidSegLib.training.anomaly:VAE_RESTORATION",
    "f-anogan": "LabelFreeCovidSegLib.training.anomaly:F_ANOGAN",
}
"""Name on the command line -> module, or module:name of what stands in it; imported only when it is asked for."""

VOTING = ("normnet", "opacitynet", "opacitynet2d", "opacitynet_clahe", "picturenet")
"""Methods whose networks vote if there are several. Of all others, one run is the method."""


def recipe(method: str) -> Recipe:
    """The recipe of a method. Raises `TrainingError` for a name that is not in the registry."""
    if method not in REGISTRY:
        raise TrainingError(f"'{method}' can't be trained. Choose one of: {', '.join(REGISTRY)}.")
    return cast(Recipe, pkgutil.resolve_name(REGISTRY[method]))


def can_vote(one: Any, other: Any) -> bool:
    """Whether networks of two presets can vote: these are alike but for their name and paint."""
    return _unpainted(one) == _unpainted(other)


def _unpainted(preset: Any) -> Any:
    return replace(preset, name="", **({"paint": ""} if hasattr(preset, "paint") else {}))


def refuse_vote(method: str, runs: int) -> None:
    """Raise `TrainingError` for several runs of a method whose networks do not vote."""
    if runs > 1 and method not in VOTING:
        raise TrainingError(f"Networks of {method} do not vote, and {runs} runs were given. Give one.")


def cache_of(method: str) -> str:
    """The name of the cache that a method learns from: its own; where several recipes stand in one module, that of the
    module; and what is compared with `uda` learns from the cache of `uda`.
    """
    module, _, one_of_several = REGISTRY[method].partition(":")
    package, _, name = module.rpartition(".")
    if package.endswith(".adaptation"):
        return "uda"
    return name if one_of_several else method


CACHES = {cache_of(method): method for method in reversed(REGISTRY)}
"""Name of a cache, as `train prepare` takes it -> one of the methods that learn from it."""


def preset(method: str, name: str | None = None) -> Any:
    """A preset of a method, its default if `name` is None. Raises `TrainingError` for a name that it has not."""
    presets = recipe(method).PRESETS
    name = name or next(iter(presets))
    if name not in presets:
        raise TrainingError(f"{method} has no preset '{name}'. Choose one of: {', '.join(presets)}.")
    return presets[name]
