"""From a slice that is a picture to its lesions: lungs, Hounsfield units, the picture as often as a method needs it.

The counterpart of `pipeline` for what has neither Hounsfield units nor neighbours. What had to be guessed is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib import anchors, pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, ScanError
from LabelFreeCovidSegLib.lungs import LungMask, find_in_picture
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Prediction
from LabelFreeCovidSegLib.postprocess import NEIGHBOURS
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.scan import Scan

DONE, WITHOUT_LUNGS, NOT_CALIBRATED = "done", "no lungs", "not calibrated"
"""States of a picture."""
FOUND = "found in the picture"
"""Where lungs come from unless they were given; only then can they be uncertain."""
SLICE_MM = 1.5
"""Distance of the slices when a picture is shown as a stack of itself."""
APART_MM = 3.0
"""Distance that neighbouring slices are taken to have, which pictures do not say."""


@dataclass(frozen=True, eq=False)
class Outlined:
    """What one upright picture came to; all arrays are (1, j, i).

    Attributes:
        scan: the picture in Hounsfield units, with pixels of the size that was given or guessed. Where there are no
            such units, in those that equalised pictures are handed on in.
        lungs: uint8, 1 right, 2 left.
        certainty: float32, probability that a pixel of the lungs is lung; 1 where they were given.
        found: the method's; None unless `state` is `DONE`.
        guessed: what was found out about the picture, by name.
    """

    state: str
    scan: Scan
    lungs: np.ndarray
    certainty: np.ndarray
    found: Prediction | None = None
    guessed: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def unfit(card: base.Card, weights: str, equalised: bool) -> str:
    """Why a method can't work on single pictures of this kind; empty if it can."""
    for member, its_weights in card.each(weights):
        if member.picture_mm is None:
            return (
                f"{member.title} looks at neighbouring slices, which single pictures do not have. "
                f"Choose one of: {', '.join(base.able_in_pictures())}."
            )
        if equalised and member.domain == base.HU:
            return (
                f"The weights {its_weights} were trained on Hounsfield units. Locally equalised pictures have none and "
                "can't be given any; weights that were trained on such pictures are needed. Or give the pictures as "
                "they were before, or the CT."
            )
        if not equalised and member.domain == base.CLAHE256:
            return (
                f"The weights {its_weights} were trained on locally equalised pictures. Say so if yours are "
                "(--equalised, or `equalised = true` in the description of a data set), or choose another method."
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
    uprights: Sequence[Scan],
    model: base.Method,
    compute: Compute,
    lungs: np.ndarray | None = None,
    pixel_mm: float | None = None,
    equalised: bool = False,
    progress: Progress = silent,
) -> tuple[list[Outlined], Compute]:
    """Outline the lesions in one picture, or in pictures of neighbouring slices of a scan.

    A method that takes single pictures is shown neighbours together. One that learned from whole scans is shown each as
    a stack of itself, because how far the slices are apart is not known.

    Args:
        uprights: slices of one size in LPS, in their order from the feet or from the head, with greys (0 to 255) in the
            place of HU; see `pictures.Picture.upright`.
        model: from `load`.
        lungs: (k, j, i) bool; None to find them.
        pixel_mm: None to guess it.

    Returns:
        What was found in each, and what it was computed on.

    Raises:
        CancelledError: as `progress` wants it.
    """
    seen = []
    for k, upright in enumerate(uprights):
        progress(0.3 * k / len(uprights), "Finding the lungs")
        seen.append(_look(upright, None if lungs is None else lungs[k], pixel_mm, equalised))
    seen = _of_one_size(seen)
    places = [k for k, one in enumerate(seen) if one.state == DONE]
    repeated = round((model.card.picture_mm or 0.0) / SLICE_MM)
    together = [[k] for k in places] if repeated else [places] if places else []
    for number, group in enumerate(together):
        stack = _stacked([seen[k] for k in group] * max(repeated, 1), SLICE_MM if len(group) == 1 else APART_MM)
        its_part = part(progress, 0.3 + 0.7 * number / len(together), 0.3 + 0.7 * (number + 1) / len(together))
        found, compute, retried = pipeline.predict(model, *stack, compute, its_part)
        for place, k in enumerate(group, start=repeated // 2):
            seen[k] = _finished(seen[k], found, place, retried)
    return seen, compute


def _look(upright: Scan, lungs: np.ndarray | None, pixel_mm: float | None, equalised: bool) -> Outlined:
    """All that precedes a method; `found` is still missing where the state is `DONE`."""
    given = lungs is not None
    found, doubts = find_in_picture(upright.hu[0]) if lungs is None else (lungs.astype(np.float32), ())
    certainty, lungs = found[None], found > 0
    guessed: dict[str, Any] = {"lungs": "given" if given else FOUND}
    shown = replace(upright, hu=anchors.of_equalised(upright.hu))
    if not lungs.any():
        if not given:
            why = "No lungs are seen; give masks with --lungs if there are any, as where lungs were cut out on black."
            doubts = (*doubts, why)
        return Outlined(WITHOUT_LUNGS, shown, np.zeros(upright.hu.shape, np.uint8), certainty, None, guessed, doubts)
    unsized = Outlined(DONE, shown, _sides(lungs), certainty, None, guessed, doubts)
    seen = _sized(unsized, pixel_mm or anchors.pixel_mm(lungs))
    if equalised:
        return seen
    try:
        line = anchors.calibrate(upright.hu[0], lungs, upright.name)
    except ScanError as error:
        return replace(seen, state=NOT_CALIBRATED, warnings=(*doubts, str(error)))
    low, high = (round(end) for end in line.window_hu)
    known = {
        "dark_anchor": line.dark, "dark_grey": round(line.dark_grey, 1), "tissue_grey": round(line.tissue_grey, 1),
        "window_low_hu": low, "window_high_hu": high, "tissue_spread": round(line.spread, 3),
    }  # fmt: skip
    in_hu = replace(seen.scan, hu=line.hu(upright.hu))
    return replace(seen, scan=in_hu, guessed={**seen.guessed, **known}, warnings=doubts + line.warnings)


def _sized(seen: Outlined, pixel_mm: float) -> Outlined:
    """A picture whose pixels are known to be of a size."""
    pixel_mm = round(pixel_mm, 3)
    grid = replace(seen.scan.grid, spacing=(pixel_mm, pixel_mm, SLICE_MM))
    return replace(seen, scan=replace(seen.scan, grid=grid), guessed={**seen.guessed, "pixel_mm": pixel_mm})


def _of_one_size(every: Sequence[Outlined]) -> list[Outlined]:
    """The pictures with pixels of one size: as in that with most lung, where the lungs are as wide as is assumed."""
    widest = max(every, key=lambda one: np.count_nonzero(one.lungs))
    return [_sized(one, widest.guessed["pixel_mm"]) if "pixel_mm" in one.guessed else one for one in every]


def _stacked(seen: Sequence[Outlined], apart_mm: float) -> tuple[Scan, LungMask]:
    """Pictures of one size and their lungs, one upon another; how certain lung is, neighbours have a say in."""
    first = seen[0]
    its = first.scan.grid
    grid = replace(its, size=(*its.size[:2], len(seen)), spacing=(*its.spacing[:2], apart_mm))
    scan = Scan(np.concatenate([one.scan.hu for one in seen]), grid, grid, first.scan.name)
    lungs, certainty = (np.concatenate([getattr(one, name) for one in seen]) for name in ("lungs", "certainty"))
    if first.guessed["lungs"] == FOUND:
        certainty = ndimage.correlate1d(certainty, NEIGHBOURS, axis=0, mode="nearest") * (lungs > 0)
    return scan, LungMask(lungs, first.guessed["lungs"], certainty=certainty)


def _finished(seen: Outlined, found: Prediction, k: int, retried: tuple[str, ...]) -> Outlined:
    """A picture with what was found in slice `k` of the stack that the method was shown."""
    maps: dict[str, Any] = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    its = replace(found, **{name: array[k : k + 1] for name, array in maps.items()})
    return replace(seen, found=its, warnings=seen.warnings + found.warnings + retried)


def _sides(lungs: np.ndarray) -> np.ndarray:
    """(1, j, i) uint8: 1 right, 2 left of the middle of the lungs, which is all that methods need to know here."""
    columns = np.flatnonzero(lungs.any(axis=0))
    right = np.arange(lungs.shape[1]) < (columns[0] + columns[-1] + 1) / 2
    return np.where(lungs, np.where(right, RIGHT, LEFT), 0).astype(np.uint8)[None]
