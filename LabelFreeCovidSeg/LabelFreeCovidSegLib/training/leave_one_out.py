"""Leave scans out: networks that never saw a scan, to be judged on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.training import loop, recipes, runs
from LabelFreeCovidSegLib.training.prepare import Cache
from LabelFreeCovidSegLib.training.runs import Machine, Plan

VERSION = "left-out"
"""Of the weights, which are for judging and not for use."""


def leave_one_out(
    plan: Plan,
    cache: Cache,
    folds: Sequence[Sequence[str]],
    seeds: Sequence[int],
    folder: Path,
    machine: Machine,
    progress: Progress = silent,
) -> list[Path]:
    """Train without each fold, once a seed, and put each fold's networks into a model store.

    Runs lie in `folder`/FOLD/seed-N, the store in `folder`/FOLD/models; FOLD is the left-out names joined by "+".
    What is complete is not trained again, and what was cut off goes on.

    Args:
        plan: of all runs, but for the seed and the fold's scans.
        folds: names of the scans that are left out together.

    Returns:
        The model store of each fold.

    Raises:
        TrainingError: an unknown scan, or one that is left out and held out; a run there of another recipe; a seed
            that is there twice, or several of a method whose networks do not vote.
    """
    # All faults of the plan before hours of training.
    recipes.refuse_vote(plan.method, len(seeds))
    if len(set(seeds)) < len(seeds):
        raise TrainingError(f"A seed is there twice in {', '.join(map(str, seeds))}. Give each once.")
    plans = [replace(plan, seed=seed, without=(*plan.without, *fold)) for fold in folds for seed in seeds]
    planned = [one.recipe(cache) for one in plans]
    paths = [folder / "+".join(fold) / f"seed-{seed}" for fold in folds for seed in seeds]
    for number, (one, recipe, path) in enumerate(zip(plans, planned, paths, strict=True)):
        step = part(progress, number / len(plans), (number + 1) / len(plans))
        if not _complete(path, recipe):
            runs.train(one, cache, path, machine, resume=True, progress=step)
    stores = []
    for fold in folds:
        place = folder / "+".join(fold)
        trained = [place / f"seed-{seed}" for seed in seeds]
        runs.export(trained, cache.folder, place / "models", VERSION)
        stores.append(place / "models")
    return stores


def _complete(path: Path, recipe: dict) -> bool:
    checkpoint = path / loop.CHECKPOINT
    if not checkpoint.exists():
        return False
    found = loop.read_checkpoint(checkpoint)
    loop.refuse_other(checkpoint, found.recipe, recipe)
    return found.iteration == recipe["iterations"]
