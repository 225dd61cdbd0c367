"""An anomaly detector in training: healthy slices, and the losses that it says it lowers (`methods.anomaly`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods.anomaly.detector import Detector, Preset, repeatable
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.lung_slices import SliceDomains
from LabelFreeCovidSegLib.training.recipes import Arrays

BETAS = (0.5, 0.999)
VIEWS = 32
VIEW_SEED = 20_210_305
"""Of the healthy slices that choose the checkpoint."""


class DetectorTrainee:
    """One detector in training.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan.

    Raises:
        TrainingError: no near-healthy scan to train on or to judge by, or no held-out scan.
    """

    def __init__(
        self, detector: Detector, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]
    ) -> None:
        if not judge:
            raise TrainingError(
                "An anomaly detector needs a scan that sets its threshold. Hold one out: `--hold-out NAME`."
            )
        self.detector = detector
        self.preset = preset
        self.domains = slices_of(preset, train)
        self.network: Any = detector.build(preset)
        self.networks: dict[str, nn.Module] = {"network": self.network}
        self.views = healthy(detector, preset, judge, VIEWS)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with the reference implementation's momentum."""
        return {"network": torch.optim.Adam(self.network.parameters(), betas=BETAS)}

    def learning_rates(self, share: float) -> dict[str, float]:
        """The same throughout."""
        return {"network": self.preset.learning_rate}

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """`image`, (1, j, i) float32 or several slices, and `key`, which decides all that `step` draws."""
        return {"image": self.slices(seed, share), "key": np.array(seed.generate_state(1)[0], np.int64)}

    def slices(self, seed: np.random.SeedSequence, share: float) -> np.ndarray:
        """A healthy slice as the detector sees it, (1, j, i) float32."""
        slab = self.domains.healthy(seed)
        return self.detector.shown(slab.hu, slab.lung)

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """Lower the sum of the detector's losses."""
        torch.manual_seed(int(batch["key"][0]))
        terms = self.detector.losses(self.network, batch["image"])
        loss = torch.stack(list(terms.values())).sum()
        update("network", loss)
        return {"loss": loss, **terms}

    def validate(self) -> float:
        """How like healthy slices of the held-out scan their reconstructions are: minus the mean difference."""
        x = self.views.to(next(self.network.parameters()).device)
        with repeatable():
            return -float((x - self.detector.reconstruct(self.network, x)).abs().mean())


def slices_of(preset: Preset, scans: Sequence[Sequence[Arrays]]) -> SliceDomains:
    """What healthy slices are drawn from, one at a time. Raises `TrainingError` as `SliceDomains` does."""
    return SliceDomains(preset, scans, slab_mm=preset.spacing_mm[0])


def healthy(detector: Detector, preset: Preset, judge: Sequence[Arrays], count: int) -> Tensor:
    """Healthy slices of the held-out scan as the detector sees them, (count, 1, j, i), always the same ones."""
    domains = slices_of(preset, [judge])
    slabs = [domains.healthy(np.random.SeedSequence([VIEW_SEED, number])) for number in range(count)]
    return torch.from_numpy(np.stack([detector.shown(slab.hu, slab.lung) for slab in slabs]))
