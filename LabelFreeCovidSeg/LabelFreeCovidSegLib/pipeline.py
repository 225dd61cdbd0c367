"""segment(): the one door. The panel, the command line, the tests and scripts all go through it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LabelFreeCovidSegLib import __version__, device, quantify
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card, Prediction
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.quantify import Measurements
from LabelFreeCovidSegLib.scan import Scan


@dataclass(frozen=True)
class Run:
    """How a result came about: enough to repeat it and to judge it.

    Attributes:
        seconds: of each step.
        warnings: what a reader of the result should look at, one sentence each.
    """

    card: Card
    weights: str
    compute: Compute
    seconds: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """Everything one segmentation gives, on the scan's LPS grid (`Scan.native_image` brings it to the file's own).

    Attributes:
        classes: (k, j, i) uint8: 0 no lesion, 1 ground glass, 2 consolidation.
        anomaly: (k, j, i) float32 score of the method, 0 outside the lungs.
        healthy_hu, agreement: of methods that give them; see `Prediction`.
    """

    scan: Scan
    lungs: LungMask
    classes: np.ndarray
    anomaly: np.ndarray
    measurements: Measurements
    run: Run
    healthy_hu: np.ndarray | None = None
    agreement: np.ndarray | None = None


def segment(
    scan: Scan,
    method: str = base.DEFAULT,
    lungs: str | Path | LungMask = "lungnet",
    device_name: str = "auto",
    precision: str = "auto",
    progress: Progress = silent,
) -> Result:
    """Outline the COVID-19 lesions of one scan.

    Args:
        scan: from `read.read` or `Scan.from_image`.
        method: a name of `methods.base.REGISTRY`, or several joined by "+": their consensus.
        lungs: as for `lungs.find_lungs`, or the mask itself.
        device_name: one of `device.DEVICES`. Out of CUDA memory, the network is run again on the CPU, and the result
            says so.
        precision: one of `device.PRECISIONS`.

    Raises:
        LungError, WeightsError, CancelledError, LabelFreeCovidSegError: see the steps.
    """
    clock = _Clock()
    compute = device.choose(device_name, precision)
    model = base.load(method)
    if why := unfit(model.card, model.weights):
        raise LabelFreeCovidSegError(why)
    clock.lap("start")
    lung_mask = lungs if isinstance(lungs, LungMask) else find_lungs(scan, lungs, part(progress, 0.0, 0.4))
    clock.lap("lungs")
    prediction, compute, retried = predict(model, scan, lung_mask, compute, part(progress, 0.4, 0.9))
    clock.lap("lesions")
    progress(0.9, "Measuring")
    classes, band = prediction.classes, None
    if classes is None:
        band = quantify.Band()
        classes = quantify.classify(scan, prediction.lesion, band)
    measurements = quantify.measure(classes, lung_mask, scan.grid.voxel_ml, band)
    clock.lap("measures")
    run = Run(
        card=model.card,
        weights=model.weights,
        compute=compute,
        seconds=clock.seconds,
        versions=versions(),
        warnings=lung_mask.warnings + prediction.warnings + retried,
    )
    progress(1.0, "Measuring")
    return Result(
        scan, lung_mask, classes, prediction.score, measurements, run, prediction.healthy_hu, prediction.agreement
    )


def unfit(card: Card, weights: str) -> str:
    """Why a method can't work on a CT; empty if it can."""
    for member, its_weights in card.each(weights):
        if member.domain == base.CLAHE256:
            return (
                f"The weights {its_weights} were trained on locally equalised pictures, not on Hounsfield units. Take "
                "them for such pictures (`segment --slices FOLDER --equalised`), or choose another method."
            )
    return ""


def predict(
    model: base.Method, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress
) -> tuple[Prediction, Compute, tuple[str, ...]]:
    """Let a method outline the lesions, on the CPU if the graphics card's memory does not suffice.

    Returns:
        What it found, what it was computed on in the end, and what a reader should know about that.
    """
    import torch

    try:
        return model.predict(scan, lungs, compute, progress), compute, ()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
    fallback = dataclasses.replace(compute, device="cpu", precision=device.choose("cpu").precision)
    note = "The graphics card ran out of memory, so the network was run again on the CPU."
    return model.predict(scan, lungs, fallback, progress), fallback, (note,)


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    import platform

    import scipy
    import SimpleITK as sitk
    import torch

    return {
        "LabelFreeCovidSeg": __version__,
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "SimpleITK": sitk.Version.VersionString(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
