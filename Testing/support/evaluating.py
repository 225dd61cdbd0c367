"""What tests of `evaluate` share: methods that stand in for real ones, and a run of them over a folder."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import pipeline, quantify
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.evaluation import datasets, run
from LabelFreeCovidSegLib.evaluation.run import FILES, Plan
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import SUPERVISED, Card
from LabelFreeCovidSegLib.scan import Scan
from LabelFreeCovidSegLib.session import Session

METHODS = ("good", "taught")
CARDS = {"good": Card("good", "Good", "", ""), "taught": Card("taught", "Taught", "", "", kind=SUPERVISED)}


class StandIn:
    """In the place of `pipeline.segment`: "good" marks what is denser than -600 HU, "taught" than -400 HU.

    Attributes:
        seen: (method, scan) that it was asked for, in order.
        faults: scan -> what to raise.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.faults: dict[str, Exception] = {}

    def __call__(self, scan, method, lungs, device_name, precision, progress):
        self.seen.append((method, scan.name))
        if scan.name in self.faults:
            raise self.faults[scan.name]
        progress(0.5, "Standing in")
        return result(scan, method, lungs)


def result(scan: Scan, method: str, lungs: str = "classical") -> pipeline.Result:
    labels = np.zeros(scan.hu.shape, np.uint8)
    labels[..., : labels.shape[2] // 2], labels[..., labels.shape[2] // 2 :] = 1, 2
    labels[scan.hu > 0] = 0
    lesion = (scan.hu > {"good": -600, "taught": -400}[method]) & (labels > 0)
    mask = LungMask(labels, lungs)
    numbers = quantify.measure(lesion.astype(np.uint8), mask, scan.grid.voxel_ml)
    score = np.where(labels > 0, (scan.hu + 1024) / 1024, 0).astype(np.float32)
    made_by = pipeline.Run(CARDS[method], "toy 1", Compute(), {}, {}, ())
    return pipeline.Result(scan, mask, lesion.astype(np.uint8), score, numbers, made_by)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (4.0, 4.5, 5.0)) -> Path:
    """An image of (k, j, i) or (rows, columns); spacing in x, y, z."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    sitk.WriteImage(image, path)
    return path


def evaluate(data: Path, out: str = "out", methods=METHODS, protocols=("volume",), reporter=None):
    plan = Plan(methods, [datasets.find(str(data))], protocols)
    return run.run(plan, data.parent / out, Session(reporter or Plain()))


def texts(data: Path, out: str = "out") -> dict[str, str]:
    return {name: (data.parent / out / name).read_text(encoding="utf-8") for name in FILES}
