"""The training loop: devices and precision by Lightning Fabric, batches by seed, checkpoints that survive a kill.

Each sample is drawn from (seed, iteration, place in the batch) and from no running generator, so that a run that was
cut off goes on exactly as it would have: in float32 on a CPU to the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.training.log import CurveLog
from LabelFreeCovidSegLib.weights import write_atomically

CHECKPOINT = "checkpoint.safetensors"
FABRIC_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class Trainee(Protocol):
    """What a recipe gives the loop."""

    network: nn.Module

    def optimizer(self) -> torch.optim.Optimizer:
        """A new optimizer of the network's parameters."""
        ...

    def learning_rate(self, share: float) -> float:
        """The learning rate when `share` of the iterations is done."""
        ...

    def sample(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """One training sample, decided by `seed` alone."""
        ...

    def losses(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss` to minimise, and further scalars for the log."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a run goes; all but `every`, `device`, `devices` and `workers` decide the weights.

    Attributes:
        batch: samples an iteration, over all devices.
        every: iterations between checkpoints.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them.
        workers: processes that draw samples; 0 draws them in this one (the only way inside Slicer).
    """

    seed: int = 0
    iterations: int = 2000
    batch: int = 4
    precision: str = "float32"
    every: int = 100
    device: str = "auto"
    devices: int = 1
    workers: int = 0


def fit(
    trainee: Trainee,
    settings: Settings,
    recipe: dict[str, Any],
    folder: Path,
    resume: bool = False,
    progress: Progress = silent,
) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    Args:
        recipe: what the checkpoint must have been trained with to be gone on with; kept in it.
        folder: where checkpoint, `curves.csv` and TensorBoard's files go.
        resume: go on from the folder's checkpoint if there is one.

    Raises:
        TrainingError: a checkpoint that is in the way, or of another recipe; a loss that is not finite.
    """
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{checkpoint}: there is a run already. Pass --resume to go on, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(settings.device == "cpu")
    accelerator = {"cuda": "gpu"}.get(settings.device, settings.device)
    fabric = Fabric(
        accelerator=accelerator,
        devices=settings.devices,
        precision=FABRIC_PRECISION[settings.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    if settings.batch % fabric.world_size:
        raise TrainingError(f"A batch of {settings.batch} can't be shared by {fabric.world_size} devices evenly.")
    optimizer = trainee.optimizer()
    network, stepper = fabric.setup(trainee.network, optimizer)
    start = load_checkpoint(checkpoint, recipe, trainee.network, optimizer) if checkpoint.exists() else 0
    network.train()
    with CurveLog(folder, start, active=fabric.is_global_zero) as log:
        for iteration, batch in _batches(trainee, settings, fabric, start):
            for group in optimizer.param_groups:
                group["lr"] = trainee.learning_rate((iteration - 1) / settings.iterations)
            losses = trainee.losses(network, batch)
            fabric.backward(losses["loss"])
            stepper.step()
            stepper.zero_grad()
            values = {name: value.detach().item() for name, value in losses.items()}
            if not math.isfinite(values["loss"]):
                raise TrainingError(f"The loss is {values['loss']} at iteration {iteration}. Lower the learning rate.")
            log.row(iteration, values)
            if fabric.is_global_zero and (iteration % settings.every == 0 or iteration == settings.iterations):
                save_checkpoint(checkpoint, iteration, recipe, trainee.network, optimizer)
            progress(iteration / settings.iterations, f"Iteration {iteration}, loss {values['loss']:.3f}")
    return checkpoint


def _batches(
    trainee: Trainee, settings: Settings, fabric: Fabric, start: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(iteration, batch on the device), iterations counted from 1, for what is left to do."""
    share = settings.batch // fabric.world_size
    loader = DataLoader(
        _Draws(trainee, settings, start, share, fabric.global_rank * share),
        batch_size=share,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
    )
    for offset, batch in enumerate(loader):
        yield start + 1 + offset, fabric.to_device(batch)


class _Draws(Dataset):
    """The samples of one device, in the order they are used."""

    def __init__(self, trainee: Trainee, settings: Settings, start: int, share: int, first: int) -> None:
        self.trainee, self.settings, self.start, self.share, self.first = trainee, settings, start, share, first

    def __len__(self) -> int:
        return (self.settings.iterations - self.start) * self.share

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        iteration, place = divmod(index, self.share)
        key = (self.start + iteration, self.first + place)
        return self.trainee.sample(np.random.SeedSequence(self.settings.seed, spawn_key=key))


def save_checkpoint(
    path: Path, iteration: int, recipe: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Everything a run needs to go on, as plain arrays; the file is replaced in one step."""
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    # One key: safetensors writes several in random order, and the same run shall give the same bytes.
    header = {"run": json.dumps({"iteration": iteration, "recipe": recipe}, sort_keys=True)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, write_safetensors(plain, metadata=header))


def load_checkpoint(path: Path, recipe: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a checkpoint into `network` and `optimizer`, and return its iteration.

    Raises:
        TrainingError: it is of another recipe.
    """
    found, iteration, tensors = read_checkpoint(path)
    if found != recipe:
        odd = sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key))
        raise TrainingError(
            f"{path}: this run differs in {', '.join(odd)}. Go on with the same, or choose another folder."
        )
    network.load_state_dict(_below("network", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return iteration


def read_checkpoint(path: Path) -> tuple[dict[str, Any], int, dict[str, Tensor]]:
    """Recipe, iteration and tensors of a checkpoint. Raises `TrainingError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            run = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return run["recipe"], run["iteration"], tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of a training run ({error}).") from error


def network_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors of a checkpoint, for export."""
    return _below("network", tensors)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "/"): t for name, t in tensors.items() if name.startswith(prefix + "/")}
