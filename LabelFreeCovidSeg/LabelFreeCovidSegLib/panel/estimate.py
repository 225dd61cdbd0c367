"""How long a run will take: by what earlier runs took on this computer, else by what was measured for the method."""

from __future__ import annotations

from typing import Any

import slicer

_KEY = "LabelFreeCovidSeg/SecondsPerMegavoxel/{}/{}"
START_SECONDS = 5.0
"""Until a child process has torch and the networks in memory, whatever the size of the CT."""


def megavoxels(ct: Any) -> float:
    """Size of a volume node in millions of voxels; 0 without an image."""
    image = ct.GetImageData()
    return image.GetNumberOfPoints() / 1e6 if image else 0.0


def expected(ct: Any, method: str, device: str, usual: float) -> tuple[float, bool]:
    """Seconds for this CT, and whether that rests on a run on this computer.

    Args:
        usual: seconds a megavoxel where nothing was run yet (`Card.seconds_per_megavoxel`).
    """
    known = slicer.app.userSettings().value(_KEY.format(method, device))
    seen_here = known is not None
    return START_SECONDS + megavoxels(ct) * float(known if seen_here else usual), seen_here


def remember(ct: Any, method: str, device: str, seconds: float) -> None:
    """Keep what a run took, in the user's settings."""
    if megavoxels(ct):
        own = max(seconds - START_SECONDS, 0.0)
        slicer.app.userSettings().setValue(_KEY.format(method, device), own / megavoxels(ct))


def words(seconds: float) -> str:
    """A duration as people say it: "20 s", "3 min"."""
    return f"{max(round(seconds / 5) * 5, 5)} s" if seconds < 90 else f"{round(seconds / 60)} min"
