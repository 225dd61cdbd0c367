"""What a lung mask is, and the choice between the ways to get one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Scan

RIGHT, LEFT = 1, 2


@dataclass(frozen=True, eq=False)
class LungMask:
    """Both lungs of a scan.

    Attributes:
        labels: (k, j, i) uint8 on the scan's LPS grid: 0 elsewhere, 1 right lung, 2 left lung.
        source: how it was found ("classical", "lungnet", "given: lungs.nrrd", "lungmask R231").
        warnings: what looks implausible about it, one sentence each; empty if nothing does.
        certainty: (k, j, i) float32, probability that a voxel of the lungs is lung; None if the finder does not say.
    """

    labels: np.ndarray
    source: str
    warnings: tuple[str, ...] = ()
    certainty: np.ndarray | None = None


def lung_labels(names: Sequence[str]) -> list[int]:
    """The label that each segment of a segmentation has in a lung mask, by the segments' names.

    Lung is what is called lung or lobe: 2 if it is called left, too, else 1; the rest is 0. If nothing is called so,
    all is lung, and each segment has a label of its own.
    """
    lung = [re.search(r"lung|lobe", name, re.IGNORECASE) for name in names]
    if not any(lung):
        return list(range(1, len(names) + 1))
    return [(LEFT if "left" in name.lower() else RIGHT) if one else 0 for name, one in zip(names, lung, strict=True)]


def find_lungs(scan: Scan, lungs: str | Path = "lungnet", progress: Progress = silent) -> LungMask:
    """Find the lungs of `scan`.

    Args:
        lungs: "lungnet" (this project's network), "classical" (its finder by air and geometry alone), "lungmask" (that
            package, if installed) or a mask's file.

    Raises:
        LungError: nothing that could be lungs, or a given mask that does not fit the scan.
        WeightsError: the network's weights are missing or damaged.
    """
    if lungs == "lungnet":
        from LabelFreeCovidSegLib.lungs import lungnet

        return lungnet.find(scan, progress)
    if lungs == "classical":
        from LabelFreeCovidSegLib.lungs import classical

        return classical.find(scan, progress)
    from LabelFreeCovidSegLib.lungs.external import given, lungmask

    return lungmask(scan, progress) if lungs == "lungmask" else given(scan, Path(lungs))


def label(finder: str, picture: bool = False) -> str:
    """A way to find lungs, with the weights that it uses: what of the lungs decides a result.

    Args:
        finder: see `find_lungs`; any other text stands for itself.
        picture: whether it is asked to look at pictures, where "lungnet" means `find_in_picture`.
    """
    stored = store.find("picturenet" if picture and finder == "lungnet" else finder)
    return stored.entry.label if stored else finder


def find_in_picture(grey: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the lungs in an upright picture of an axial slice.

    Args:
        grey: (j, i), any unit in which air is darker than tissue.

    Returns:
        (j, i) float32, the probability of lung in the lungs and 0 elsewhere, and everywhere where there is nothing like
        lungs; and what to doubt about it, a sentence each.

    Raises:
        WeightsError: the network's weights are missing or damaged.
    """
    from LabelFreeCovidSegLib.lungs import picturenet

    return picturenet.find(grey)
