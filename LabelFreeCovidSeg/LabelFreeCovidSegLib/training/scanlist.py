"""Which scans to train on, and what of them: a TOML file that a person writes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT

SIDES = {"both": (RIGHT, LEFT), "right": (RIGHT,), "left": (LEFT,)}
"""Which labels of a lung mask a scan is used for."""


@dataclass(frozen=True)
class ListedScan:
    """One scan of a list.

    Attributes:
        name: short and unique, of letters, digits, dots, hyphens and underscores; names the files of the cache.
        path: of the CT, as written in the list.
        exclude: (first, last) slices, counted from 0 at the feet and inclusive, that hold focal findings.
        lungs: which of them is healthy: "both", "right" or "left".
        covid: a scan of a patient with COVID-19, for methods that look at disease without being told where it is.
        collection, licence: where it comes from, for the manifest of the weights. Weights that learn from a
            non-commercial scan are non-commercial.
    """

    name: str
    path: Path
    exclude: tuple[tuple[int, int], ...] = ()
    lungs: str = "both"
    covid: bool = False
    collection: str = ""
    licence: str = ""


def read(*paths: Path, root: Path | None = None) -> list[ListedScan]:
    """The scans of one list or of several.

    Args:
        paths: TOML files with one `[[scan]]` table a scan; keys are the attributes of `ListedScan`.
        root: folder that relative paths start from; each list's own by default.

    Raises:
        TrainingError: an unreadable list, an unknown key, a key with a value that makes no sense, a repeated name, or
            a CT that is not there.
    """
    scans: list[ListedScan] = []
    for path in paths:
        scans += _scans(path, root or path.parent)
        names = [scan.name for scan in scans]
        for name in names:
            if names.count(name) > 1:
                raise TrainingError(f"{path}: two scans are called '{name}'. Give each a name of its own.")
    return scans


def _scans(path: Path, root: Path) -> list[ListedScan]:
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("scan")
        if not (rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError("there is no [[scan]] in it")
        scans = [_listed(row, number, root) for number, row in enumerate(rows, 1)]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TrainingError(f"{path}: {reason}. See docs/training.md for the form of a list of scans.") from error
    for scan in scans:
        if not scan.path.exists():
            raise TrainingError(f"{path}: '{scan.path}' of scan '{scan.name}' is not there.")
    return scans


def refuse_patient(listed: ListedScan) -> None:
    """Raises `TrainingError` if a scan that must be near-healthy is of a patient."""
    if listed.covid:
        raise TrainingError(
            f"{listed.path}: scan '{listed.name}' is of a patient (`covid = true`), and this method learns from "
            "near-healthy lungs alone. Prepare a list without it."
        )


def _listed(row: dict[str, Any], number: int, root: Path) -> ListedScan:
    """The scan that the `number`-th table tells of. Raises `ValueError` if it makes no sense."""
    for key in ("name", "path"):
        if key not in row:
            raise ValueError(f"scan number {number} has no {key}")
    for key, value in row.items():
        if key not in KEYS:
            raise ValueError(f"scan '{row['name']}' has an unknown key '{key}'; there are {', '.join(KEYS)}")
        fits, form = KEYS[key]
        if not fits(value):
            raise ValueError(f"{key} = {value!r} of scan '{row['name']}' must be {form}")
    return ListedScan(**{**row, "path": root / row["path"], "exclude": tuple(map(tuple, row.get("exclude", ())))})


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return _is_text(value) and re.fullmatch(r"[\w.-]+", value) is not None and value.strip(".") != ""


def _are_ranges(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(ends, list) and [type(end) for end in ends] == [int, int] and 0 <= ends[0] <= ends[1]
        for ends in value
    )


KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, "of letters, digits, '.', '-' and '_', and not of dots alone: it names files"),
    "path": (_is_text, "text"),
    "exclude": (_are_ranges, "pairs of a first and a last slice, such as [[20, 40]], counted from 0 at the feet"),
    "lungs": (lambda value: value in tuple(SIDES), f"one of {', '.join(SIDES)}"),
    "covid": (lambda value: isinstance(value, bool), "true or false"),
    "collection": (_is_text, "text"),
    "licence": (_is_text, "text"),
}
"""The keys of a table, what makes a value of each usable, and how that is said."""
