"""Data sets by which methods are judged. Nothing else in this project opens an expert's lesion mask."""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation.datasets import folder, pictures, volumes
from LabelFreeCovidSegLib.evaluation.datasets.base import Case as Case
from LabelFreeCovidSegLib.evaluation.datasets.base import DataSet as DataSet
from LabelFreeCovidSegLib.evaluation.datasets.base import Mask as Mask

REGISTRY = {
    data.name: data
    for data in (
        volumes.CORONACASES,
        volumes.RADIOPAEDIA,
        volumes.MEDSEG,
        pictures.MEDSEG_100,
        volumes.MOSMED,
        volumes.UESTC,
        pictures.COVID_SEMISEG,
        volumes.LUNA16,
        volumes.RICORD,
    )
}


def find(text: str) -> tuple[DataSet, Path]:
    """The data set that `NAME=FOLDER` (a public one), `FOLDER` (laid out as `folder.LAYOUT`) or `FILE.toml` (the
    description of such a folder) stands for.

    Raises:
        DataSetError: no public set is called so, or the description is wrong.
    """
    name, equals, path = text.partition("=")
    if not equals:
        return folder.find(Path(text))
    if name not in REGISTRY:
        raise DataSetError(f"There is no data set '{name}'. Choose one of: {', '.join(REGISTRY)}, or give a folder.")
    return REGISTRY[name], Path(path)


def listing() -> str:
    """What to download for each public data set."""
    parts = [f"{data.name}: {data.download}" for data in REGISTRY.values()]
    return "\n\n".join([*parts, f"Any other folder laid out as\n{folder.LAYOUT}"])
