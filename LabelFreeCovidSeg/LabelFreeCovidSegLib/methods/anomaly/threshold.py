"""Whatever is dense in the lungs, vessels included: what any anomaly detector has to beat, without any weights.

The score is the intensity in the window of Yao et al. (see `methods.normnet`).
"""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import ANY, Card, Prediction
from LabelFreeCovidSegLib.methods.normnet import TAU, window
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


class Threshold:
    """A method without anything learnt."""

    card = CARD
    weights = "none"

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline what is dense."""
        progress(0.0, "Thresholding")
        lung = lungs.labels > 0
        score = window(scan.hu) * lung
        return Prediction(lesion=((score >= TAU) & lung).astype(np.uint8), score=score)


def load() -> Threshold:
    """The method; there are no weights that could be missing."""
    return Threshold()
