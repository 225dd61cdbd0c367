"""Domain adaptation through the training loop, and on a toy in which the source domain alone teaches nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib.errors import CancelledError
from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.training import loop, runs
from LabelFreeCovidSegLib.training import uda as recipe
from LabelFreeCovidSegLib.training.loop import CHECKPOINT, Settings
from LabelFreeCovidSegLib.training.uda import Adapted, SourceOnly
from torch import nn

CANVAS = (32, 32)
TINY = replace(
    uda.PRESETS["small"], spacing_mm=(6.0, 6.0, 6.0), canvas=CANVAS, channels=(2, 3, 4, 5), critic_width=2, batch=2
)


def chest(healthy):
    hu = np.full((6, *CANVAS), 40, np.int16)
    hu[:, 6:26, 4:28] = -860
    return {"hu": hu, "labels": (hu < 0).astype(np.uint8)} if healthy else {"hu": hu}


def train(folder, kind=Adapted, progress=lambda *_: None, **settings):
    torch.manual_seed(0)
    trainee = kind(TINY, [[chest(True)], [chest(False)]], [chest(True)])
    given = Settings(iterations=4, batch=2, every=2, device="cpu", choose=True)
    loop.fit(trainee, given, {"method": "uda"}, folder, progress=progress, **settings)
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def test_a_run_that_was_cut_off_resumes_to_the_same_bytes(tmp_path):
    def stop(fraction, phase):
        if phase.startswith("Iteration 3,"):
            raise CancelledError(phase)

    unbroken = train(tmp_path / "unbroken")
    with pytest.raises(CancelledError):
        train(tmp_path / "cut", progress=stop)
    assert loop.read_checkpoint(tmp_path / "cut" / CHECKPOINT).iteration == 2
    assert train(tmp_path / "cut", resume=True) == unbroken


def test_what_ships_of_a_run_fits_the_network_that_segments(tmp_path):
    train(tmp_path)
    state = runs.shipped(loop.read_checkpoint(tmp_path / CHECKPOINT), recipe.SHIPS)
    network = uda.build(TINY)
    network.load_state_dict(state)
    assert set(state) == set(network.state_dict())


# A toy: discs on a dark ground, of which the target domain shows a dark, flat picture


def discs(rng, gain=1.0, offset=0.0):
    """Slices (8, 1, j, i) and masks of discs, through an affine change of intensity and noise."""
    j, i = np.ogrid[: CANVAS[0], : CANVAS[1]]
    centres, radii = rng.uniform(9, 23, (8, 2, 1, 1)), rng.uniform(5, 9, (8, 1, 1))
    masks = (j - centres[:, 0]) ** 2 + (i - centres[:, 1]) ** 2 <= radii**2
    grey = gain * np.where(masks, 0.6, -0.8) + offset + 0.05 * rng.standard_normal(masks.shape)
    return torch.from_numpy(grey.astype(np.float32))[:, None], torch.from_numpy(masks)


def target_discs(rng):
    return discs(rng, gain=0.4, offset=-0.5)


def pixelwise():
    """Networks that see a pixel at a time, but for the discriminator, which sees patches: nothing adapts by itself."""
    return {
        "extractor": nn.Sequential(nn.Conv2d(1, 16, 1), nn.Tanh(), nn.Conv2d(16, 8, 1), nn.Tanh()),
        "classifier": nn.Conv2d(8, 4, 1),
        "generator": nn.Sequential(nn.Conv2d(8, 16, 1), nn.Tanh(), nn.Conv2d(16, 1, 1), nn.Tanh()),
        "discriminator": nn.Sequential(nn.Conv2d(1, 32, 8, stride=8), nn.LeakyReLU(0.2), nn.Conv2d(32, 4, 1)),
    }


def target_dice(kind, iterations=400):
    trainee = kind(replace(TINY, learning_rate=1e-2, critic_rate=1e-2, alpha=6.4), [[chest(True)], [chest(False)]])
    torch.manual_seed(0)
    networks = pixelwise()
    trainee.networks = {name: networks[name] for name in trainee.networks}
    optimizers = trainee.optimizers()
    for name, rate in trainee.learning_rates(0.0).items():
        optimizers[name].param_groups[0]["lr"] = rate

    def update(name, loss):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    for number in range(iterations):
        source, masks = discs(np.random.default_rng([number, 0]))
        target, _ = target_discs(np.random.default_rng([number, 1]))
        trainee.step({"source": source, "labels": masks.to(torch.uint8), "target": target}, 0.0, update)
    slices, masks = target_discs(np.random.default_rng(0))
    with torch.inference_mode():
        found = networks["classifier"](networks["extractor"](slices)).argmax(dim=1) == 1
    return 2 * (found & masks).sum().item() / (found.sum() + masks.sum()).item()


def test_on_a_toy_adaptation_finds_what_the_source_domain_alone_does_not_teach():
    assert target_dice(SourceOnly) < 0.2
    assert target_dice(Adapted) > 0.9
