"""What a radiologist would notice about a lung mask at a glance."""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.scan import Grid

SMALLEST_ML, LARGEST_ML = 1000.0, 10000.0
"""Adult lungs hold 2 to 3 L at the end of a breath and 4 to 8 L when it is held; beyond these figures a mask is wrong,
a scan is cut, or the patient is a child."""
SMALLER_SHARE = 0.25
"""The left lung has about 45 % of the volume; a quarter of the other side means collapse, surgery or a mistake."""
CUT_MM2 = 100.0


def warnings(labels: np.ndarray, grid: Grid) -> tuple[str, ...]:
    """One sentence for each thing that looks wrong with `labels` (k, j, i; 1 right, 2 left)."""
    right, left = (float(np.count_nonzero(labels == side)) * grid.voxel_ml for side in (RIGHT, LEFT))
    return tuple(volume_warnings(right, left) + cut_warnings(labels, grid))


def volume_warnings(right_ml: float, left_ml: float) -> list[str]:
    """Whole volume, and one side against the other."""
    found = []
    whole = right_ml + left_ml
    if whole < SMALLEST_ML:
        found.append(f"The lungs measure only {whole:.0f} mL; part of them may be missing from the mask or the scan.")
    if whole > LARGEST_ML:
        found.append(f"The lungs measure {whole:.0f} mL, more than an adult's hold; check the mask.")
    for name, own, other in (("right", right_ml, left_ml), ("left", left_ml, right_ml)):
        if own == 0.0:
            found.append(f"No {name} lung was found; check whether it is collapsed, removed or out of view.")
        elif own < SMALLER_SHARE * other:
            found.append(f"The {name} lung measures {own:.0f} mL, less than a quarter of the other ({other:.0f} mL).")
    return found


def cut_warnings(labels: np.ndarray, grid: Grid) -> list[str]:
    """Lung on the scan's first or last slice."""
    pixel_mm2 = grid.spacing[0] * grid.spacing[1]
    ends = (("lowest", labels[0], "bases"), ("highest", labels[-1], "apices"))
    return [
        f"The lungs reach the scan's {slice_name} slice, so their {part} may be cut off and volumes too small."
        for slice_name, section, part in ends
        if np.count_nonzero(section) * pixel_mm2 > CUT_MM2
    ]
