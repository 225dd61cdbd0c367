"""The recipe of the 3-D GAN and its slice network: one run, two phases (Shabani et al., see `methods.gan3d`).

First generator and discriminator learn against each other, and the generator to mend healthy lungs with Perlin noise.
Then the generator, or the running mean of its weights, is frozen, what it takes away from a pool of ill slabs becomes
their pseudo masks, and the slice network learns those, after a contrastive step each time. The pool is drawn from a
seed of its own and made anew when a run resumes, so that checkpoints need not hold it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.methods import gan3d
from LabelFreeCovidSegLib.methods.gan3d import Preset, still
from LabelFreeCovidSegLib.networks.bcdu_net import BCDUNet, Projection
from LabelFreeCovidSegLib.networks.dense_unet3d import DenseUNet3D, Discriminator3D, latent_shape
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.training.calibrate import best_threshold, mean_dice, restored, scores
from LabelFreeCovidSegLib.training.contrast import supervised_contrast, varied
from LabelFreeCovidSegLib.training.loop import Update
from LabelFreeCovidSegLib.training.perlin import blotched
from LabelFreeCovidSegLib.training.pseudo import PseudoSlices, pseudo_slices
from LabelFreeCovidSegLib.training.recipes import Arrays
from LabelFreeCovidSegLib.training.running_mean import follow, inertia
from LabelFreeCovidSegLib.training.scanlist import ListedScan
from LabelFreeCovidSegLib.training.seeds import children
from LabelFreeCovidSegLib.training.slabs import Slab, SlabDomains, slab_blocks

PRESETS = {"small": gan3d.PRESETS["small"], **gan3d.PRESETS}
CITATION = gan3d.CARD.citation
EXPECTS = "Chest CT in Hounsfield units, whole lungs, any slice thickness up to 10 mm; lungs found beforehand."
SHIPS = ("generator", "segmenter")
MADE, REAL = range(2)
"""Classes of the discriminator."""
POOL_SEED, VIEW_SEED, FIT_SEED = 20_220_801, 20_220_802, 20_220_803
"""Of the pool, of the views that choose the checkpoint, and of those that set the threshold."""
VIEWS = 24
HEALTHY_EVERY = 3
"""Of views, every so manieth has no lesion."""
DECAY = 0.9


class Gan3DTrainee:
    """All networks of a preset in training: the generator is the running mean of the contender, which competes.

    Args:
        train: the blocks of each scan.
        judge: those of the held-out scan; empty where `validate` is not needed.

    Raises:
        TrainingError: no near-healthy scan to train on or to judge by.
    """

    def __init__(self, preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays] = ()) -> None:
        self.preset = preset
        self.domains = SlabDomains(preset, train)
        if not self.domains.healthy_scans:
            raise TrainingError("There is no near-healthy scan to learn from. List one without `covid = true`.")
        self.views = views(preset, judge, VIEW_SEED) if judge else []
        self.contender = DenseUNet3D(preset.base)
        self.generator = copy.deepcopy(self.contender)
        self.discriminator = Discriminator3D(preset.critic_channels, preset.critic_dropout)
        self.segmenter = BCDUNet(preset.slice_base)
        self.projection = Projection(preset.slice_base)
        self.networks: dict[str, nn.Module] = {
            "generator": self.generator, "contender": self.contender, "discriminator": self.discriminator,
        }  # fmt: skip
        if preset.segmenter:
            self.networks |= {"segmenter": self.segmenter, "projection": self.projection}
        self.slices: PseudoSlices | None = None

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with its default settings; mending and deceiving share the generator's, as in the released program."""
        made = {"generator": _adam(self.contender), "discriminator": _adam(self.discriminator)}
        if self.preset.segmenter:
            made |= {"segmenter": _adam(self.segmenter), "contrast": _adam(self.segmenter.encoder, self.projection)}
        return made

    def learning_rates(self, share: float) -> dict[str, float]:
        """The rates when `share` of the iterations is done."""
        preset = self.preset
        rates = {"generator": preset.generator_rate, "discriminator": preset.critic_rate}
        if preset.segmenter:
            done = max(share - preset.gan_share, 0.0) / (1.0 - preset.gan_share)
            rates |= {"segmenter": preset.slice_rate * DECAY ** int(done * preset.decays)}
            rates |= {"contrast": preset.contrast_rate}
        return rates

    def sample(self, seed: np.random.SeedSequence, share: float) -> dict[str, np.ndarray]:
        """What one sample is made of: `key`, which decides all that `step` draws, and in the first phase slabs.

        `healthy`, `noisy` and `ill` are (1, k, j, i) float32, `lungs` (2, k, j, i) bool, the healthy one's and the ill
        one's, and `z` (2, channels, k / 16, j / 16, i / 16).
        """
        rest, well, sick = children(seed, 3)
        rng = np.random.default_rng(rest)
        sample = {"key": np.array(rng.integers(2**62))}
        if share >= self.preset.gan_share:
            return sample
        healthy, ill = self.domains.healthy(well), self.domains.ill(sick)
        latent = (2, *latent_shape(self.preset.canvas))
        return sample | {
            "healthy": healthy.image[None],
            "noisy": blotched(healthy.image, healthy.lung, rng)[None],
            "ill": ill.image[None],
            "lungs": np.stack((healthy.lung, ill.lung)),
            "z": rng.uniform(-0.5, 0.5, latent).astype(np.float32),
        }

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> dict[str, Tensor]:
        """One iteration of the phase that `share` lies in."""
        key = batch["key"].tolist()
        torch.manual_seed(key[0])  # dropout
        if share < self.preset.gan_share:
            losses = self.compete(batch, update)
            kept = inertia(round(share * self.preset.iterations) + 1, self.preset.inertia)
            follow(self.generator, self.contender, kept)
            return losses
        return self.segment(batch["key"].device, np.random.default_rng(key), update)

    def compete(self, batch: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
        """Update the generator to mend, the discriminator, and the generator to deceive it.

        Only lungs count. Beyond them, which is most of a canvas, everything is 0.
        """
        generator, discriminator = self.contender, self.discriminator
        lung, ill_lung = batch["lungs"].split(1, dim=1)
        mended = generator(batch["noisy"], batch["z"][:, 0]).float()
        mending = functional.mse_loss(mended[lung], batch["healthy"][lung])
        update("generator", mending)
        made = generator(batch["ill"], batch["z"][:, 1]).float() * ill_lung
        scores = discriminator(torch.cat((batch["healthy"], made.detach())))
        telling = (taken_for(scores[: len(made)], REAL) + taken_for(scores[len(made) :], MADE)) / 2
        update("discriminator", telling)
        deceiving = taken_for(discriminator(made), REAL)
        update("generator", deceiving)
        taken = (batch["ill"] - made.detach()).clamp_min(0.0).mean()
        return {"mending": mending, "telling": telling, "deceiving": deceiving, "taken_away": taken}

    def segment(self, device: torch.device, rng: np.random.Generator, update: Update) -> dict[str, Tensor]:
        """Update encoder and head by contrast, then the slice network by the pseudo masks."""
        if self.slices is None:
            self.slices = pseudo_slices(self.generator, self.pool(), device)
        losses = {}
        if self.preset.contrast and self.slices.high.size:
            pairs, labels = self.slices.draw_pairs(self.preset.slices, rng)
            features = self.projection(self.segmenter.encoder(varied(pairs, rng)))
            losses["contrast"] = supervised_contrast(features, labels)
            update("contrast", losses["contrast"])
        images, masks = self.slices.draw(self.preset.slices, rng)
        losses["segmentation"] = functional.mse_loss(self.segmenter(images).float(), masks)
        update("segmenter", losses["segmentation"])
        return losses

    def pool(self) -> list[Slab]:
        """The ill slabs that the slice network learns from, always the same ones."""
        return [self.domains.ill(np.random.SeedSequence([POOL_SEED, number])) for number in range(self.preset.pool)]

    def validate(self) -> float:
        """Mean Dice of the lesions in views of the held-out scan at the threshold that outlines them best.

        It is -1 while the slice network has not begun.
        """
        if self.preset.segmenter and self.slices is None:
            return -1.0
        found = scores(self.score, self.views, silent)
        return mean_dice(found, best_threshold(found))

    def score(self, slab: Slab) -> np.ndarray:
        """What the networks as they are make of a slab, (k, j, i) float32."""
        return scored(self.networks, slab)


def scored(networks: Mapping[str, nn.Module], slab: Slab) -> np.ndarray:
    """The score of a slab, (k, j, i) float32: by the slice network or, where there is none, by the generator."""
    image = slab.image
    device = next(networks["generator"].parameters()).device
    given = torch.from_numpy(image).to(device)
    if "segmenter" in networks:
        found = networks["segmenter"](given[:, None])[:, 0].float().clamp_min(0.0).cpu().numpy()
    else:
        made = networks["generator"](given[None, None], still(1, image.shape, device))[0, 0].float()
        found = gan3d.removed(image, made.cpu().numpy())
    return found * slab.lung


def taken_for(scores: Tensor, kind: int) -> Tensor:
    """Mean squared difference of the discriminator's softmax (batch, 2) and the certainty of one class."""
    certain = torch.zeros_like(scores, dtype=torch.float32)
    certain[:, kind] = 1.0
    return functional.mse_loss(scores.float().softmax(dim=1), certain)


def views(preset: Preset, judge: Sequence[Arrays], seed: int) -> list[Slab]:
    """Slabs of the held-out scan to judge networks by, always the same ones; every third is healthy.

    Their lesions are not of the generator that the networks have learned from.
    """
    domains = SlabDomains(preset, [judge])
    if not domains.healthy_scans:
        raise TrainingError("A patient's scan can't judge, as its lesions are not known. Hold out a near-healthy scan.")
    seeds = [np.random.SeedSequence([seed, number]) for number in range(VIEWS)]
    return [
        domains.foreign(one) if number % HEALTHY_EVERY else domains.healthy(one) for number, one in enumerate(seeds)
    ]


def trainee(preset: Preset, train: Sequence[Sequence[Arrays]], judge: Sequence[Arrays]) -> Gan3DTrainee:
    """New networks and everything the loop needs to train them.

    Raises:
        TrainingError: no near-healthy scan to train on or to judge by.
    """
    return Gan3DTrainee(preset, train, judge)


def blocks(listed: ListedScan, preset: Preset) -> list[dict[str, np.ndarray]]:
    """The lungs, stretched to the preset's canvas, or whole slices for equalised pictures."""
    return slab_blocks(listed, preset)


def calibrate(
    preset: Preset, states: Sequence[Mapping[str, Tensor]], judge: Sequence[Arrays], progress: Progress
) -> dict[str, Any]:
    """The `threshold` that outlines synthetic lesions best, unless the preset has one."""
    if preset.threshold:
        return {}
    (networks,) = restored(lambda: gan3d.build(preset), states)
    with torch.inference_mode():
        found = scores(
            lambda slab: scored(dict(networks.named_children()), slab), views(preset, judge, FIT_SEED), progress
        )
    return {"threshold": best_threshold(found)}


def _adam(*networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for network in networks for p in network.parameters()])
