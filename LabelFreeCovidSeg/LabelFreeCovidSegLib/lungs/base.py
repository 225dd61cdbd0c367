"""What a lung mask is, and the choice between the ways to get one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Scan

RIGHT, LEFT = 1, 2


@dataclass(frozen=True, eq=False)
class LungMask:
    """Both lungs of a scan.

    Attributes:
        labels: (k, j, i) uint8 on the scan's LPS grid: 0 elsewhere, 1 right lung, 2 left lung.
        source: how it was found ("classical", "given: lungs.nrrd", "lungmask R231").
        warnings: what looks implausible about it, one sentence each; empty if nothing does.
    """

    labels: np.ndarray
    source: str
    warnings: tuple[str, ...] = ()


def find_lungs(scan: Scan, lungs: str | Path = "classical", progress: Progress = silent) -> LungMask:
    """Find the lungs of `scan`.

    Args:
        lungs: "classical" (this project's own finder), "lungmask" (that package, if installed) or a mask's file.

    Raises:
        LungError: nothing that could be lungs, or a given mask that does not fit the scan.
    """
    if lungs == "classical":
        from LabelFreeCovidSegLib.lungs.classical import find

        return find(scan, progress)
    from LabelFreeCovidSegLib.lungs.external import given, lungmask

    return lungmask(scan, progress) if lungs == "lungmask" else given(scan, Path(lungs))
