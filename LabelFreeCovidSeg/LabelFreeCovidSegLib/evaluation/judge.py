"""Let a method loose on a case, and put what it finds beside what the expert drew."""

from __future__ import annotations

from LabelFreeCovidSegLib import pipeline
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.evaluation import expert
from LabelFreeCovidSegLib.evaluation.datasets import Case
from LabelFreeCovidSegLib.evaluation.expert import Expert, Picture
from LabelFreeCovidSegLib.evaluation.judged import Judged
from LabelFreeCovidSegLib.pipeline import Result
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.segment_file import Choices


def judge(case: Case, choices: Choices, progress: Progress) -> Judged:
    """Segment one case. The method sees the image alone.

    Raises:
        DataSetError: a mask can't be used; nothing was computed.
        ScanError, LungError, WeightsError, CancelledError: see `pipeline.segment`.
    """
    progress(0.0, "Reading the case")
    if not case.hu:
        picture, drawn = expert.of_picture(case)
        return _judged(in_picture(picture, choices, part(progress, 0.1, 1.0)), drawn, case.mm)
    scan = read(case.image)
    drawn = expert.of_scan(case, scan)
    result = pipeline.segment(
        scan, choices.method, choices.lungs, choices.device, choices.precision, part(progress, 0.1, 1.0)
    )
    return _judged(result, drawn, case.mm)


def in_picture(picture: Picture, choices: Choices, progress: Progress) -> Result:
    """Segment what has no HU; the result lies on the picture's grid.

    Raises:
        ScanError: always, as long as grey values can't be brought to HU.
    """
    raise ScanError(
        f"{picture.name}: a picture without HU, which methods can't segment. Take the CT in HU if there is one."
    )


def _judged(result: Result, drawn: Expert, in_mm: bool) -> Judged:
    return Judged(
        found=result.classes > 0,
        score=result.anomaly,
        truth=drawn.lesions > 0,
        lungs=result.lungs.labels,
        hu=result.scan.hu,
        grid=result.scan.grid,
        in_mm=in_mm,
        found_classes=result.classes,
        true_classes=drawn.classes,
        true_lungs=None if drawn.lungs is None else drawn.lungs > 0,
    )
