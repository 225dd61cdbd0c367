"""The recipes of all anomaly detectors (`methods.anomaly`): one cache, one way of training, one choice of threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from LabelFreeCovidSegLib import device
from LabelFreeCovidSegLib.methods.anomaly import (
    ae,
    bayesian_vae,
    constrained_vae,
    context_vae,
    f_anogan,
    gmvae,
    kl_grad,
    vae,
    vae_original,
    vae_restoration,
    vae_spatial,
)
from LabelFreeCovidSegLib.methods.anomaly.detector import PRESETS, Detector, Preset, filtered, on_canvas, scored
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.training import lung_slices
from LabelFreeCovidSegLib.training.calibrate import best_threshold
from LabelFreeCovidSegLib.training.detector import DetectorTrainee, healthy
from LabelFreeCovidSegLib.training.f_anogan import FAnoGANTrainee
from LabelFreeCovidSegLib.training.lung_slices import SliceDomains
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.scanlist import ListedScan, refuse_patient

VIEWS = 12
VIEW_SEED = 20_210_306
"""Of the slabs with lesions that set the threshold."""
TUNING_SLICES = 8
"""Healthy ones, for what else depends on the network."""


class DetectorRecipe:
    """How a detector is trained; see `recipes.Recipe`."""

    PRESETS: ClassVar = {"small": PRESETS["small"], **PRESETS}
    EXPECTS = "Chest CT in Hounsfield units, whole lungs, any slice thickness; lungs found beforehand."
    SHIPS = ("network",)

    def __init__(self, detector: Detector, trainee: Callable[..., DetectorTrainee] = DetectorTrainee) -> None:
        self.CITATION = detector.card.citation
        self.detector = detector
        self._trainee = trainee

    def blocks(self, listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
        """The lungs on a canvas, slice by slice."""
        refuse_patient(listed)
        return lung_slices.blocks(listed, lambda scan, lungs: on_canvas(scan, lungs, preset))

    def trainee(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> DetectorTrainee:
        """A new network and everything the loop needs to train it. Raises `TrainingError` as `DetectorTrainee`."""
        return self._trainee(self.detector, preset, train, judge)

    def calibrate(
        self, preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
    ) -> dict[str, Any]:
        """What the detector is `tuned` to, and the `threshold` that outlines synthetic lesions best."""
        (state,) = states
        network = self.detector.build(preset)
        network.load_state_dict(state)
        network.eval()
        compute = device.choose()
        network.to(compute.device)
        progress(0.0, "Tuning")
        tuned = self.detector.tuned(network, healthy(self.detector, preset, judge, TUNING_SLICES).to(compute.device))
        domains = SliceDomains(preset, [judge])
        pieces = []
        for number in range(VIEWS):
            slab = domains.planted_slab(np.random.SeedSequence([VIEW_SEED, number]))
            image = tuned.shown(slab.hu, slab.lung)
            found = scored(tuned, network, image, compute, part(progress, number / VIEWS, (number + 1) / VIEWS))
            pieces.append((filtered(found, slab.lung, preset.spacing_mm)[slab.lung], slab.lesion[slab.lung]))
        return {"tuned": asdict(tuned), "threshold": best_threshold(pieces)}


AE = DetectorRecipe(ae.DETECTOR)
VAE = DetectorRecipe(vae.DETECTOR)
VAE_SPATIAL = DetectorRecipe(vae_spatial.DETECTOR)
VAE_ORIGINAL = DetectorRecipe(vae_original.DETECTOR)
CONTEXT_VAE = DetectorRecipe(context_vae.DETECTOR)
CONSTRAINED_VAE = DetectorRecipe(constrained_vae.DETECTOR)
GMVAE = DetectorRecipe(gmvae.DETECTOR)
BAYESIAN_VAE = DetectorRecipe(bayesian_vae.DETECTOR)
KL_GRAD = DetectorRecipe(kl_grad.DETECTOR)
VAE_RESTORATION = DetectorRecipe(vae_restoration.DETECTOR)
F_ANOGAN = DetectorRecipe(f_anogan.DETECTOR, FAnoGANTrainee)
