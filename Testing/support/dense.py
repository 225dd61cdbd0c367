"""A method in one file, as somebody would add it: lung denser than what its weights say is lesion."""

import numpy as np
from LabelFreeCovidSegLib.methods.base import Card, Prediction

CARD = Card(
    name="dense",
    title="Density",
    summary="Lung that is denser than a number of Hounsfield units.",
    citation="Nobody. Nowhere <2026>.",
    networks=("dense",),
)


class Dense:
    """Marks the lung above `hu`, and shows the scan without what it marked."""

    card = CARD

    def __init__(self, hu, weights):
        self.hu = hu
        self.weights = weights

    def predict(self, scan, lungs, compute, progress):
        """Outline the lesions of one scan."""
        progress(0.5, "Comparing")
        lesion = (scan.hu > self.hu) & (lungs.labels > 0)
        healthy = np.where(lesion, np.float32(-850.0), scan.hu)
        return Prediction(lesion.astype(np.uint8), lesion.astype(np.float32), healthy_hu=healthy)


def load():
    """The method with its weights; `WeightsError` without."""
    from LabelFreeCovidSegLib import weights

    entry, (state,) = weights.load(CARD.name)
    return Dense(float(state["hu"]), entry.label)
