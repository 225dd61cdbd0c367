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
        collection, licence: where it comes from, for the manifest of the weights.
    """

    name: str
    path: Path
    exclude: tuple[tuple[int, int], ...] = ()
    lungs: str = "both"
    collection: str = ""
    licence: str = ""


def read(path: Path, root: Path | None = None) -> list[ListedScan]:
    """The scans of a list.

    Args:
        path: a TOML file with one `[[scan]]` table a scan; keys are the attributes of `ListedScan`.
        root: folder that relative paths start from; the list's own by default.

    Raises:
        TrainingError: an unreadable list, an unknown key, a repeated name, or a CT that is not there.
    """
    root = root or path.parent
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["scan"]
        scans = [_listed(row, root) for row in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a list of scans ({error}). See docs/training.md for its form.") from error
    names = [scan.name for scan in scans]
    for scan in scans:
        if names.count(scan.name) > 1:
            raise TrainingError(f"{path}: two scans are called '{scan.name}'. Give each a name of its own.")
        if not scan.path.exists():
            raise TrainingError(f"{path}: '{scan.path}' of scan '{scan.name}' is not there.")
    return scans


def _listed(row: dict, root: Path) -> ListedScan:
    scan = ListedScan(
        **{**row, "path": root / row["path"], "exclude": tuple((int(a), int(b)) for a, b in row.get("exclude", ()))}
    )
    if scan.lungs not in SIDES:
        raise ValueError(f"lungs = '{scan.lungs}' of scan '{scan.name}' is none of {', '.join(SIDES)}")
    return scan
