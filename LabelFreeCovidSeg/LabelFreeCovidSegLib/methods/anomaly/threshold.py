"""Whatever is dense in the lungs, vessels included: what any anomaly detector has to beat, without any weights."""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import ANY, Card, Prediction
from LabelFreeCovidSegLib.progress import Progress
from LabelFreeCovidSegLib.scan import Scan

CARD = Card(
    name="threshold",
    title="HU threshold",
    summary="Marks lung at and above -500 HU.",
    citation="The threshold is that between dark and bright voxels in Yao et al., IEEE TMI 2021.",
    picture_mm=0.0,
    domain=ANY,
)
WINDOW_HU = (-800.0, 100.0)
"""The window of Yao et al.; the score runs from 0 to 1 over it."""
TAU = 1 / 3
"""-500 HU in that window."""


class Threshold:
    """A method without anything learnt."""

    card = CARD
    weights = "none"

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline what is dense."""
        progress(0.0, "Thresholding")
        low, high = WINDOW_HU
        lung = lungs.labels > 0
        score = np.clip((scan.hu - np.float32(low)) / np.float32(high - low), 0.0, 1.0) * lung
        return Prediction(lesion=((score >= np.float32(TAU)) & lung).astype(np.uint8), score=score)


def load() -> Threshold:
    """The method; there are no weights that could be missing."""
    return Threshold()
