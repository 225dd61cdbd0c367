"""A picture of a judged case: one slice with the outlines of the expert and of the method."""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.evaluation.judged import Judged
from LabelFreeCovidSegLib.report import WINDOW_HU, border, png
from LabelFreeCovidSegLib.scan import bounding_box, resample, windowed

TRUTH_RGB, FOUND_RGB = (0, 158, 115), (213, 94, 0)
"""Green and vermillion of the Okabe-Ito palette."""
BOTH_RGB = (255, 255, 255)
PIXEL_MM, MARGIN_MM = 1.0, 8.0


def picture(case: Judged) -> str:
    """The axial slice with most lesion, true or found, around the lungs, as a PNG data URI."""
    either = case.truth | case.found
    shown = either | (case.lungs > 0)
    if not shown.any():
        shown = np.ones_like(shown)
    area = np.count_nonzero(either if either.any() else shown, axis=(1, 2))
    k = int(area.argmax())
    margin = round(MARGIN_MM / case.grid.spacing_mm[1]) if case.in_mm else 0
    box = (slice(k, k + 1), *bounding_box(shown, (0, margin, margin))[1:])
    grid = case.grid.covering(box, (case.grid.spacing_mm[0], PIXEL_MM, PIXEL_MM))
    hu = resample(case.hu, case.grid, grid, outside=float(case.hu.min()))[0]
    truth, found = (
        border(resample(mask.astype(np.uint8), case.grid, grid, nearest=True)[0] > 0)
        for mask in (case.truth, case.found)
    )
    grey = windowed(hu, WINDOW_HU, (0.0, 255.0)).round().astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    rgb[truth], rgb[found], rgb[truth & found] = TRUTH_RGB, FOUND_RGB, BOTH_RGB
    return png(rgb)
