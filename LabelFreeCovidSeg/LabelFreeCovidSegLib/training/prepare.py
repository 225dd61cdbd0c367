"""Scans -> a compact cache, so that the machine that trains needs neither the scans nor SimpleITK.

What a cached block holds is its method's affair. Only CTs are opened: no mask file ever is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods.base import HU
from LabelFreeCovidSegLib.postprocess import Lengths
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.store import write_atomically
from LabelFreeCovidSegLib.training import recipes
from LabelFreeCovidSegLib.training.recipes import Arrays, Preset
from LabelFreeCovidSegLib.training.scanlist import ListedScan

INDEX = "cache.json"


@dataclass(frozen=True)
class CachedScan:
    """A prepared scan: where it came from, the files of its blocks, and whether it is of a patient with COVID-19."""

    name: str
    collection: str
    licence: str
    blocks: tuple[str, ...]
    covid: bool = False


@dataclass(frozen=True)
class Cache:
    """What `prepare` wrote: for which method or methods (`recipes.cache_of`), on which grid, of which scans, and for
    which kind of slices.
    """

    folder: Path
    method: str
    spacing_mm: Lengths
    scans: tuple[CachedScan, ...]
    domain: str = HU

    def blocks(self, name: str) -> list[dict[str, np.ndarray]]:
        """Read the blocks of the scan called `name`."""
        (scan,) = (scan for scan in self.scans if scan.name == name)
        blocks = []
        for file in scan.blocks:
            with np.load(self.folder / file, allow_pickle=False) as arrays:
                blocks.append(dict(arrays))
        return blocks

    def without(self, names: Sequence[str]) -> list[str]:
        """The names of all scans but these.

        Raises:
            TrainingError: a name that is not in the cache, or no scan that is left.
        """
        known = [scan.name for scan in self.scans]
        for name in names:
            if name not in known:
                raise TrainingError(f"{self.folder}: there is no scan '{name}'. There are: {', '.join(known)}.")
        left = [name for name in known if name not in names]
        if not left:
            raise TrainingError(f"{self.folder}: no scan is left to train on. Leave out fewer.")
        return left


def prepare(
    method: str, preset: Preset, scans: Sequence[ListedScan], folder: Path, progress: Progress = silent
) -> Cache:
    """Write a cache of `scans` for `method` into `folder`; its index appears last.

    Raises:
        ScanError, LungError: a scan that can't be used.
        TrainingError: a scan without a usable block or with fewer slices than it excludes, or a method that can't be
            trained.
    """
    recipe = recipes.recipe(method)
    folder.mkdir(parents=True, exist_ok=True)
    cached = []
    for number, listed in enumerate(scans):
        step = part(progress, number / len(scans), (number + 1) / len(scans))
        step(0.0, f"Preparing {listed.name}")
        blocks = recipe.blocks(listed, preset)
        if not blocks:
            raise TrainingError(f"{listed.path}: nothing of this scan is left to learn from. Exclude fewer slices.")
        files = tuple(f"{listed.name}-{n}.npz" for n in range(len(blocks)))
        for file, block in zip(files, blocks, strict=True):
            _write(folder / file, block)
        cached.append(CachedScan(listed.name, listed.collection, listed.licence, files, listed.covid))
    cache = Cache(folder, recipes.cache_of(method), preset.spacing_mm, tuple(cached), recipes.domain(preset))
    index = {"method": cache.method, "spacing_mm": preset.spacing_mm, "domain": cache.domain}
    index |= {"scans": [asdict(scan) for scan in cache.scans]}
    write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return cache


def _write(path: Path, block: Arrays) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **dict[str, Any](block))
    write_atomically(path, data.getvalue())


def open_cache(folder: Path, method: str) -> Cache:
    """The cache in `folder`. Raises `TrainingError` where there is none, or one that `method` can't learn from."""
    wanted = recipes.cache_of(method)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        scans = tuple(CachedScan(**{**row, "blocks": tuple(row["blocks"])}) for row in index["scans"])
        cache = Cache(folder, index["method"], tuple(index["spacing_mm"]), scans, index.get("domain", HU))
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder}: there is no cache of prepared scans in this folder. `train prepare {wanted}` makes one."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{folder}: not a cache of prepared scans ({error!r}). Run `train prepare {wanted}` first."
        ) from error
    if cache.method != wanted:
        raise TrainingError(
            f"{folder}: prepared for {cache.method}, not for {method}. "
            f"Run `train prepare {wanted}` into another folder."
        )
    return cache
