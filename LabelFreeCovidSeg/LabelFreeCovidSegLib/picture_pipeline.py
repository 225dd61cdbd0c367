"""From a slice that is a picture to its lesions: lungs, Hounsfield units, the picture as often as a method needs it.

The counterpart of `pipeline` for what has neither Hounsfield units nor neighbours. What had to be guessed is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from LabelFreeCovidSegLib import anchors, pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, ScanError
from LabelFreeCovidSegLib.lungs import LungMask, find_in_picture
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Prediction
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Scan

DONE, WITHOUT_LUNGS, NOT_CALIBRATED = "done", "no lungs", "not calibrated"
"""States of a picture."""
SLICE_MM = 1.5
"""Distance of the slices of a stack."""


@dataclass(frozen=True, eq=False)
class Outlined:
    """What one upright picture came to; all arrays are (1, j, i).

    Attributes:
        scan: the picture in Hounsfield units, with pixels of the size that was given or guessed. Where there are no
            such units, in those that equalised pictures are handed on in.
        lungs: uint8, 1 right, 2 left.
        found: the method's; None unless `state` is `DONE`.
        guessed: what was found out about the picture, by name.
    """

    state: str
    scan: Scan
    lungs: np.ndarray
    found: Prediction | None = None
    guessed: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def unfit(card: base.Card, weights: str, equalised: bool) -> str:
    """Why a method can't work on single pictures of this kind; empty if it can."""
    if card.picture_mm is None:
        able = ", ".join(name for name in base.REGISTRY | base.PICTURES if base.card(name).picture_mm is not None)
        members = map(base.card, base.members(card.name))
        unable = next((member for member in members if member.picture_mm is None), card)
        return f"{unable.title} looks at neighbouring slices, which single pictures do not have. Choose one of: {able}."
    if equalised and card.domain == base.HU:
        return (
            f"The weights {weights} were trained on Hounsfield units. Locally equalised pictures have none and "
            "can't be given any; weights that were trained on such pictures are needed. Or give the pictures as they "
            "were before, or the CT."
        )
    if not equalised and card.domain == base.CLAHE256:
        return (
            f"The weights {weights} were trained on locally equalised pictures. Say so if yours are (--equalised, or "
            "`equalised = true` in the description of a data set), or choose another method."
        )
    return ""


def load(method: str, equalised: bool) -> base.Method:
    """A method that can work on single pictures of this kind.

    Raises:
        LabelFreeCovidSegError: it needs neighbouring slices, or its weights were trained on the other kind.
        WeightsError: weights are missing or damaged.
    """
    if base.card(method).picture_mm is None:
        raise LabelFreeCovidSegError(unfit(base.card(method), "", equalised))
    model = base.load(method)
    if why := unfit(model.card, model.weights, equalised):
        raise LabelFreeCovidSegError(why)
    return model


def repeats(card: base.Card) -> str:
    """What to know of a method that is shown stacks; empty if it looks at each slice by itself."""
    if not card.picture_mm:
        return ""
    return (
        f"{card.title} learned from whole scans and saw each picture as a stack of itself, so vessels looked like "
        "sheets to it. Prefer the CT where there is one."
    )


def outline(
    upright: Scan,
    model: base.Method,
    compute: Compute,
    lungs: np.ndarray | None = None,
    pixel_mm: float | None = None,
    equalised: bool = False,
    progress: Progress = silent,
) -> tuple[Outlined, Compute]:
    """Outline the lesions in one picture.

    Args:
        upright: one slice in LPS, with greys (0 to 255) in the place of HU; see `pictures.Picture.upright`.
        model: from `load`.
        lungs: (j, i) bool; None to find them.
        pixel_mm: None to guess it.

    Returns:
        What was found, and what it was computed on.

    Raises:
        CancelledError: as `progress` wants it.
    """
    source = "found in the picture" if lungs is None else "given"
    lungs, doubts = find_in_picture(upright.hu[0]) if lungs is None else (lungs, ())
    guessed: dict[str, Any] = {"lungs": source}
    shown = replace(upright, hu=anchors.of_equalised(upright.hu))
    if not lungs.any():
        why = "No lungs are seen; give masks with --lungs if there are any, as in a picture of lungs cut out on black."
        nothing = np.zeros(upright.hu.shape, np.uint8)
        return Outlined(WITHOUT_LUNGS, shown, nothing, None, guessed, (*doubts, why)), compute
    pixel_mm = round(pixel_mm or anchors.pixel_mm(lungs), 3)
    guessed["pixel_mm"] = pixel_mm
    shown = replace(shown, grid=replace(upright.grid, spacing=(pixel_mm, pixel_mm, SLICE_MM)))
    sides = _sides(lungs)
    warnings = doubts
    if not equalised:
        try:
            line = anchors.calibrate(upright.hu[0], lungs, upright.name)
        except ScanError as error:
            return Outlined(NOT_CALIBRATED, shown, sides, None, guessed, (*doubts, str(error))), compute
        shown, warnings = replace(shown, hu=line.hu(upright.hu)), doubts + line.warnings
        low, high = (round(end) for end in line.window_hu)
        guessed |= {
            "dark_anchor": line.dark, "dark_grey": round(line.dark_grey, 1), "tissue_grey": round(line.tissue_grey, 1),
            "window_low_hu": low, "window_high_hu": high, "tissue_spread": round(line.spread, 3),
        }  # fmt: skip
    stack, mask = _stack(shown, LungMask(sides, source), model.card.picture_mm or 0.0)
    found, compute, retried = pipeline.predict(model, stack, mask, compute, progress)
    warnings += found.warnings + retried
    return Outlined(DONE, shown, sides, _middle(found), guessed, warnings), compute


def _sides(lungs: np.ndarray) -> np.ndarray:
    """(1, j, i) uint8: 1 right, 2 left of the middle of the lungs, which is all that methods need to know here."""
    columns = np.flatnonzero(lungs.any(axis=0))
    right = np.arange(lungs.shape[1]) < (columns[0] + columns[-1] + 1) / 2
    return np.where(lungs, np.where(right, RIGHT, LEFT), 0).astype(np.uint8)[None]


def _stack(slice_: Scan, lungs: LungMask, thickness_mm: float) -> tuple[Scan, LungMask]:
    """A slice and its lungs, repeated to a stack of a thickness, at least once."""
    count = max(1, round(thickness_mm / SLICE_MM))
    grid = replace(slice_.grid, size=(*slice_.grid.size[:2], count))
    scan = Scan(np.repeat(slice_.hu, count, axis=0), grid, grid, slice_.name)
    return scan, replace(lungs, labels=np.repeat(lungs.labels, count, axis=0))


def _middle(found: Prediction) -> Prediction:
    """What was found in the middle slice of a stack."""
    k = len(found.lesion) // 2
    maps: dict[str, Any] = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    return replace(found, **{name: array[k : k + 1] for name, array in maps.items()})
