"""A run: networks trained on a cache, and what becomes of them. Used by the command line and by leaving scans out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from LabelFreeCovidSegLib import weights
from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods.base import HU
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.store import Entry, is_non_commercial
from LabelFreeCovidSegLib.training import loop, recipes
from LabelFreeCovidSegLib.training.prepare import Cache, CachedScan, open_cache

LICENCE = "Apache-2.0"
"""Of weights, unless they learned from scans with a stricter one."""
EXPECTS_EQUALISED = "Axial chest CT slices as 8-bit pictures that were equalised place by place (CLAHE); whole slices."


@dataclass(frozen=True)
class Plan:
    """What decides a network: its recipe, the cache's scans and the seed.

    Attributes:
        preset: with the batch and the iterations to train with.
        hold_out: the scan that chooses the checkpoint and is not trained on; None to take the last one.
        without: further scans of the cache that are not trained on.
    """

    method: str
    preset: Any
    seed: int = 0
    precision: str = "float32"
    hold_out: str | None = None
    without: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        method: str,
        preset: str | None = None,
        batch: int | None = None,
        iterations: int | None = None,
        **more: Any,
    ) -> Plan:
        """A plan by names; the preset's own batch and iterations where None. Raises `TrainingError` for other names."""
        chosen = recipes.preset(method, preset)
        numbers = {"batch": batch, "iterations": iterations}
        given = {name: number for name, number in numbers.items() if number is not None}
        return cls(method, replace(chosen, **given), **more)

    def recipe(self, cache: Cache) -> dict[str, Any]:
        """The plan in plain JSON, as checkpoints and manifests keep it.

        Raises:
            TrainingError: a scan that the cache has not, one both held out and left out, or none left to train on.
        """
        if self.hold_out in self.without:
            raise TrainingError(
                f"'{self.hold_out}' is left out and can't choose the checkpoint. Hold out another scan, or none."
            )
        held = [self.hold_out] if self.hold_out else []
        return {
            "method": self.method,
            "preset": self.preset.name,
            "seed": self.seed,
            "iterations": self.preset.iterations,
            "batch": self.preset.batch,
            "precision": self.precision,
            "hold_out": self.hold_out,
            "without": sorted(set(self.without)),
            "scans": cache.without([*self.without, *held]),
        }


@dataclass(frozen=True)
class Machine:
    """How a run is done, as in `loop.Settings`: `every` decides which networks are compared to find the best, the rest
    nothing but rounding."""

    every: int = 100
    device: str = "auto"
    devices: int = 1
    workers: int = 0


def train(
    plan: Plan,
    cache: Cache,
    folder: Path,
    machine: Machine = Machine(),
    resume: bool = False,
    progress: Progress = silent,
) -> Path:
    """Train, and return the file of the best networks or, where no scan chooses, of the last.

    Raises:
        TrainingError: as `Plan.recipe` and `loop.fit`; or the cache is of another grid or another kind of slices.
    """
    preset, domain = plan.preset, recipes.domain(plan.preset)
    if (cache.spacing_mm, cache.domain) != (preset.spacing_mm, domain):
        raise TrainingError(
            f"{cache.folder}: prepared at {cache.spacing_mm} mm for {cache.domain}, but preset '{preset.name}' works "
            f"at {preset.spacing_mm} mm on {domain}. Run `train prepare {cache.method} --preset {preset.name}` into "
            "another folder."
        )
    recipe = plan.recipe(cache)
    judge = cache.blocks(plan.hold_out) if plan.hold_out else []
    torch.manual_seed(plan.seed)
    trainee = recipes.recipe(plan.method).trainee(preset, [cache.blocks(name) for name in recipe["scans"]], judge)
    settings = loop.Settings(
        seed=plan.seed,
        iterations=preset.iterations,
        batch=preset.batch,
        precision=plan.precision,
        choose=plan.hold_out is not None,
        **asdict(machine),
    )
    return loop.fit(trainee, settings, recipe, folder, resume, progress)


def export(
    folders: Sequence[Path], cache_folder: Path, store: Path, version: str, progress: Progress = silent
) -> Entry:
    """Put the networks of runs that differ in their seed or their paint alone into a model store, to vote.

    Raises:
        TrainingError: a run that is not at its end, or that differs in more than that; or several of a method whose
            networks do not vote.
    """
    finished = [finished_run(folder) for folder in folders]
    recipe = finished[0].recipe
    method, preset = recipe["method"], recipes.preset(recipe["method"], recipe["preset"])
    for folder, run in zip(folders, finished, strict=True):
        as_first = {**run.recipe, "seed": recipe["seed"]}
        if run.recipe["method"] == method and recipes.can_vote(recipes.preset(method, run.recipe["preset"]), preset):
            as_first["preset"] = preset.name
        loop.refuse_other(folder, as_first, recipe)
    runs = [(run.recipe["preset"], run.recipe["seed"]) for run in finished]
    if len(set(runs)) < len(runs):
        seeds = ", ".join(str(seed) for _, seed in runs)
        raise TrainingError(f"Two of these runs have the same seed: {seeds}. Give each run once.")
    cache = open_cache(cache_folder, method)
    if cache.without([*recipe["without"], *filter(None, [recipe["hold_out"]])]) != recipe["scans"]:
        raise TrainingError(f"{cache_folder}: not the cache that {folders[0]} was trained on. Name that one.")
    module = recipes.recipe(method)
    recipes.refuse_vote(method, len(folders))
    states = {
        f"{method}-{name}-{seed}.safetensors": shipped(run, module.SHIPS)
        for (name, seed), run in zip(runs, finished, strict=True)
    }
    judge = cache.blocks(recipe["hold_out"]) if recipe["hold_out"] else []
    measured = module.calibrate(preset, list(states.values()), judge, progress) if judge else {}
    shared = {key: value for key, value in recipe.items() if key not in ("seed", "scans", "method")}
    scans = [scan for scan in cache.scans if scan.name in recipe["scans"]]
    entry = Entry(
        name=method,
        version=version,
        files={},
        recipe={**shared, "presets": [name for name, _ in runs], "seeds": [seed for _, seed in runs], **measured},
        scans=[asdict(scan) | {"blocks": len(scan.blocks)} for scan in scans],
        licence=licence(scans),
        licence_confirmed=False,
        citation=module.CITATION,
        expects=module.EXPECTS if recipes.domain(preset) == HU else EXPECTS_EQUALISED,
    )
    return weights.store_entry(entry, states, store)


def shipped(run: loop.Checkpoint, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a run that a scan needs, of the networks called `names`; see `Recipe.SHIPS`."""
    if len(names) == 1:
        return run.below(names[0])
    return {f"{name}.{key}": tensor for name in names for key, tensor in run.below(name).items()}


def licence(scans: Sequence[CachedScan]) -> str:
    """Under which weights that learned from `scans` may be used: a non-commercial licence is handed on."""
    strict = {scan.licence for scan in scans if is_non_commercial(scan.licence)}
    return " and ".join(sorted(strict)) or LICENCE


def finished_run(folder: Path) -> loop.Checkpoint:
    """The networks to use of a run: the best where they were chosen, else the last.

    Raises:
        TrainingError: there is no run, or it is not at its end.
    """
    last = loop.read_checkpoint(folder / loop.CHECKPOINT)
    if last.iteration != last.recipe["iterations"]:
        raise TrainingError(
            f"{folder}: stopped at iteration {last.iteration} of {last.recipe['iterations']}. Run `fit --resume`."
        )
    return loop.read_checkpoint(folder / loop.BEST) if last.recipe["hold_out"] else last
