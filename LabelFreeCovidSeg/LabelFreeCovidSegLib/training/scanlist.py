"""Which scans to train on, and what of them: a TOML file that a person writes."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT

SIDES = {"both": (RIGHT, LEFT), "right": (RIGHT,), "left": (LEFT,)}
"""Which labels of a lung mask a scan is used for."""


@dataclass(frozen=True)
class ListedScan:
    """One scan of a list.

    Attributes:
        name: short and unique; names the files of the cache.
        path: of the CT, as written in the list.
        exclude: (first, last) slices, counted from the feet and inclusive, that hold focal findings.
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
        TrainingError: an unreadable list, an unknown key, a repeated name, or a CT that is not there.
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
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["scan"]
        scans = [_listed(row, root) for row in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a list of scans ({error}). See docs/training.md for its form.") from error
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


def _listed(row: dict, root: Path) -> ListedScan:
    scan = ListedScan(
        **{**row, "path": root / row["path"], "exclude": tuple((int(a), int(b)) for a, b in row.get("exclude", ()))}
    )
    if scan.lungs not in SIDES:
        raise ValueError(f"lungs = '{scan.lungs}' of scan '{scan.name}' is none of {', '.join(SIDES)}")
    return scan
