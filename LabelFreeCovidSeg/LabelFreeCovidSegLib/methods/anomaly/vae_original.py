"""VAE Original: it sees what lies around the lungs, too."""

from __future__ import annotations

import numpy as np

from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.methods.normnet import window


class VAEOriginal(VAE):
    """A VAE of the CT in the lungs' box.

    Its score counts in the lungs alone, as everything does here; Yao et al.'s numbers look as if it had counted beyond
    them, too.
    """

    card = Card(
        name="vae-original",
        title="VAE Original",
        summary="A variational autoencoder that sees heart and chest wall, too. What it rebuilds darker is lesion.",
        citation="Kingma DP, Welling M. Auto-Encoding Variational Bayes. ICLR 2014. arXiv:1312.6114",
        networks=("vae-original",),
        picture_mm=0.0,
    )

    def shown(self, hu: np.ndarray, lung: np.ndarray) -> np.ndarray:
        """All that there is."""
        return window(hu)


DETECTOR = VAEOriginal()
CARD, load = DETECTOR.card, DETECTOR.load
