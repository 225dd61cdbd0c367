"""Let a method loose on a case, and put what it finds beside what the expert drew."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from LabelFreeCovidSegLib import device, picture_pipeline, pipeline, quantify
from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation import expert
from LabelFreeCovidSegLib.evaluation.datasets import Case
from LabelFreeCovidSegLib.evaluation.expert import Expert, Picture
from LabelFreeCovidSegLib.evaluation.judged import Judged
from LabelFreeCovidSegLib.lungs import LungMask, external
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card, KnowsHealth
from LabelFreeCovidSegLib.picture_pipeline import DONE, Outlined
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.segment_file import Choices

GIVEN = "given"
"""Among the ways to get lungs: those that the expert drew."""


def unfit(card: Card, weights: str, case: Case) -> str:
    """Why a method can't work on a case; empty if it can."""
    return pipeline.unfit(card, weights) if case.hu else picture_pipeline.unfit(card, weights, case.equalised)


def judge(case: Case, choices: Choices, progress: Progress, health: bool = False) -> Judged:
    """Segment one case. The method sees the image alone and, where `GIVEN` is chosen, the expert's lungs.

    Args:
        health: whether a method that knows is asked for the probability of health, too.

    Raises:
        DataSetError: a mask can't be used, or lungs that were asked for are not there; nothing was computed.
        ScanError, LungError, WeightsError, CancelledError, LabelFreeCovidSegError: see `pipeline.segment` and
            `picture_pipeline.load`.
    """
    progress(0.0, "Reading the case")
    if not case.hu:
        return in_pictures(case, choices, part(progress, 0.1, 1.0))
    scan = read(case.image)
    drawn = expert.of_scan(case, scan)
    lungs: str | Path | LungMask = choices.lungs
    if choices.lungs == GIVEN:
        lungs = external.of_array(_lungs_of(case, drawn), scan, f"the expert's lungs of {case.name}")
    result = pipeline.segment(scan, choices.method, lungs, choices.device, choices.precision, part(progress, 0.1, 1.0))
    return Judged(
        found=result.classes > 0,
        score=result.anomaly,
        truth=drawn.lesions > 0,
        lungs=result.lungs.labels,
        hu=result.scan.hu,
        grid=result.scan.grid,
        in_mm=case.mm,
        found_classes=result.classes,
        true_classes=drawn.classes,
        true_lungs=_bool(drawn.lungs),
        health=_health(result, choices.method) if health else None,
    )


def _health(result: pipeline.Result, method: str) -> np.ndarray | None:
    model = base.load(method)
    if not model.card.knows_health:
        return None
    return cast(KnowsHealth, model).health(result.scan, result.lungs, result.run.compute, silent)


def in_pictures(case: Case, choices: Choices, progress: Progress) -> Judged:
    """Segment what has no HU, slice by slice, with the lungs that are found in each or that the expert drew.

    Raises:
        DataSetError, WeightsError, CancelledError, LabelFreeCovidSegError: as `judge`.
    """
    picture, drawn = expert.of_picture(case)
    lungs = _lungs_of(case, drawn) > 0 if choices.lungs == GIVEN else None
    outlined = _outlined(case, picture, lungs, choices, progress)
    return Judged(
        found=np.concatenate([_of(one, "lesion", np.uint8) for one in outlined]) > 0,
        score=np.concatenate([_of(one, "score", np.float32) for one in outlined]),
        truth=drawn.lesions > 0,
        lungs=np.concatenate([one.lungs for one in outlined]),
        hu=np.concatenate([one.scan.hu for one in outlined]),
        grid=picture.grid,
        in_mm=case.mm,
        found_classes=expert.stacked([_classes(one, case.equalised) for one in outlined]),
        true_classes=drawn.classes,
        true_lungs=_bool(drawn.lungs),
        empty=tuple(f"{one.scan.name} ({one.state})" for one in outlined if one.state != DONE),
    )


def _outlined(
    case: Case, picture: Picture, lungs: np.ndarray | None, choices: Choices, progress: Progress
) -> list[Outlined]:
    model = picture_pipeline.load(choices.method, case.equalised)
    compute = device.choose(choices.device, choices.precision)
    pixel_mm = picture.grid.spacing[0] if case.mm else None
    outlined, _ = picture_pipeline.outline(
        list(picture.slices()), model, compute, lungs, pixel_mm, case.equalised, progress
    )
    return outlined


def _of(one: Outlined, name: str, dtype: type) -> np.ndarray:
    """A map (1, j, i) of what was found; empty where nothing could be looked for."""
    return np.zeros(one.lungs.shape, dtype) if one.found is None else getattr(one.found, name)


def _classes(one: Outlined, equalised: bool) -> np.ndarray | None:
    """(1, j, i) uint8 by the method, else by density; None where neither can tell."""
    if one.found is None:
        return np.zeros(one.lungs.shape, np.uint8)
    if one.found.classes is not None or equalised:
        return one.found.classes
    return quantify.classify(one.scan, one.found.lesion, quantify.Band())


def _lungs_of(case: Case, drawn: Expert) -> np.ndarray:
    if drawn.lungs is None:
        raise DataSetError(
            f"{case.name}: no expert has drawn its lungs. Leave `--lungs {GIVEN}` out to have them found."
        )
    return drawn.lungs


def _bool(mask: np.ndarray | None) -> np.ndarray | None:
    return None if mask is None else mask > 0
