"""Folders of small scans, a stand-in for what segments them, and what a batch has left."""

import csv
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import batch, pipeline, quantify
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from reading import chest


def write_ct(path: Path, hu: np.ndarray | None = None) -> Path:
    """A small chest with ground glass of 5 x 6 x 4 voxels in the right lung."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if hu is None:
        hu = chest()
        hu[5:10, 15:21, 15:19] = -500
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((4.0, 4.5, 5.0))
    sitk.WriteImage(image, path)
    return path


class StandIn:
    """In the place of `pipeline.segment`: marks what is brighter than -600 HU, and fails where it is told to.

    Attributes:
        seen: names of the scans that it was given, in order.
        faults: name of a scan -> what to raise.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.faults: dict[str, BaseException] = {}

    def __call__(self, scan, method, lungs, device_name, precision, progress):
        self.seen.append(scan.name)
        if scan.name in self.faults:
            raise self.faults[scan.name]
        progress(0.5, "Standing in")
        labels = np.zeros(scan.hu.shape, np.uint8)
        labels[:, 12:36, 12:28], labels[:, 12:36, 36:52] = 1, 2
        mask = LungMask(labels, lungs)
        classes = ((scan.hu > -600) & (labels > 0)).astype(np.uint8)
        run = pipeline.Run(
            Card(method, "Stand-in", "", ""), "toy 1", Compute(), {"lungs": 1.0}, {}, ("Look at the lungs.",)
        )
        numbers = quantify.measure(classes, mask, scan.grid.voxel_ml)
        return pipeline.Result(scan, mask, classes, classes.astype(np.float32), numbers, run)


USUAL = Choices()


def run(scans: Path, choices: Choices = USUAL, reporter: Plain | None = None) -> dict[str, batch.Row]:
    """Run the batch into `out` beside the scans; the rows by path."""
    rows = batch.run(scans, scans.parent / "out", choices, Session(reporter or Plain()))
    return {row.path: row for row in rows}


def table(scans: Path) -> dict[str, dict[str, str]]:
    """The rows of `batch.csv` by path."""
    with (scans.parent / "out" / "batch.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, bytes]:
    """What a batch has left there, but for the file that it locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != batch.LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
