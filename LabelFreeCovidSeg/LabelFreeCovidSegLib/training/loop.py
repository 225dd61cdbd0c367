"""The training loop: devices and precision by Lightning Fabric, batches by seed, checkpoints that survive a kill.

Each sample is drawn from (seed, iteration, place in the batch) and from no running generator, so that a run that was
cut off goes on exactly as it would have: in float32 on a CPU to the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
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
from LabelFreeCovidSegLib.store import write_atomically
from LabelFreeCovidSegLib.training.log import CurveLog

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
VALIDATION = "validation"
"""The score's name in the log."""
FABRIC_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}


Update = Callable[[str, Tensor], None]
"""Lower a loss by one step of the optimizer of that name, which alone gets the gradients."""


class Trainee(Protocol):
    """What a recipe gives the loop.

    Attributes:
        networks: by name, all that a run needs to go on. What is no network but must be kept too, such as a history
            of images, is a module with buffers.
    """

    networks: Mapping[str, nn.Module]

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """New optimizers by name, each of the parameters of one network or of several."""
        ...

    def learning_rates(self, share: float) -> Mapping[str, float]:
        """The learning rate of each optimizer when `share` of the iterations is done."""
        ...

    def sample(self, seed: np.random.SeedSequence, share: float) -> Mapping[str, np.ndarray]:
        """One training sample, decided by `seed` and by the phase of the recipe that `share` lies in."""
        ...

    def step(self, batch: Mapping[str, Tensor], share: float, update: Update) -> Mapping[str, Tensor]:
        """One iteration: any number of updates, in any order. Scalars for the log, the most telling one first.

        Where it needs chance, the batch must hold what decides it.
        """
        ...

    def validate(self) -> float:
        """How good the networks, in evaluation mode on the device they train on, are; higher is better.

        The same networks must always get the same score: nothing here may depend on the run or on what was drawn.
        """
        ...


@dataclass(frozen=True)
class Settings:
    """How a run goes; all but `device`, `devices` and `workers` decide the weights, `every` only those of the best.

    Attributes:
        batch: samples an iteration, over all devices.
        every: iterations between checkpoints, and between validations.
        choose: validate, and keep the best network beside the last one.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them.
        workers: processes that draw samples; 0 draws them in this one (the only way inside Slicer).
    """

    seed: int = 0
    iterations: int = 2000
    batch: int = 4
    precision: str = "float32"
    every: int = 100
    choose: bool = False
    device: str = "auto"
    devices: int = 1
    workers: int = 0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file of a run: what it was trained with, how far, and its tensors.

    Attributes:
        best: the highest score of a validation until then; None before the first.
        tensors: `NETWORK/...`, and `optimizer/NAME/...` in what a run goes on from.
    """

    recipe: dict[str, Any]
    iteration: int
    best: float | None
    tensors: dict[str, Tensor]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix` and a slash, without those."""
        prefix += "/"
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def fit(
    trainee: Trainee,
    settings: Settings,
    recipe: dict[str, Any],
    folder: Path,
    resume: bool = False,
    progress: Progress = silent,
) -> Path:
    """Train, or go on training, and return the path of the networks to use: the best ones, or the last.

    Args:
        recipe: what the checkpoint must have been trained with to be gone on with; kept in it.
        folder: where checkpoint, best networks, `curves.csv` and TensorBoard's files go.
        resume: go on from the folder's checkpoint if there is one.

    Raises:
        TrainingError: a checkpoint that is in the way, or of another recipe; a loss or a score that is not finite.
    """
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{checkpoint}: there is a run already. Pass --resume to go on, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    fabric = _fabric(settings)
    for network in trainee.networks.values():
        fabric.to_device(network).train()
    optimizers = trainee.optimizers()
    start, best = (
        load_checkpoint(checkpoint, recipe, trainee.networks, optimizers) if checkpoint.exists() else (0, None)
    )
    progress(start / settings.iterations, f"Going on after iteration {start}" if start else "Starting")
    update = _updates(fabric, optimizers)
    with CurveLog(folder, start, active=fabric.is_global_zero) as log:
        for iteration, batch in _batches(trainee, settings, fabric, start):
            share = (iteration - 1) / settings.iterations
            for name, rate in trainee.learning_rates(share).items():
                for group in optimizers[name].param_groups:
                    group["lr"] = rate
            with fabric.autocast():
                scalars = trainee.step(batch, share, update)
            values = {name: _finite(name, scalar.item(), iteration) for name, scalar in scalars.items()}
            due = fabric.is_global_zero and (iteration % settings.every == 0 or iteration == settings.iterations)
            score = _validate(trainee, fabric, iteration) if due and settings.choose else None
            log.row(iteration, {**values, VALIDATION: score} if settings.choose else values)
            if score is not None and (best is None or score > best):
                best = score
                save_checkpoint(folder / BEST, Checkpoint(recipe, iteration, best, _tensors(trainee.networks, {})))
            if due:
                tensors = _tensors(trainee.networks, optimizers)
                save_checkpoint(checkpoint, Checkpoint(recipe, iteration, best, tensors))
            name, value = next(iter(values.items()))
            progress(iteration / settings.iterations, f"Iteration {iteration}, {name} {value:.3f}")
    return folder / (BEST if settings.choose else CHECKPOINT)


def _fabric(settings: Settings) -> Fabric:
    """What brings networks and batches to the devices."""
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=settings.devices,
        precision=FABRIC_PRECISION[settings.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    torch.use_deterministic_algorithms(fabric.device.type == "cpu")
    if settings.batch % fabric.world_size:
        raise TrainingError(f"A batch of {settings.batch} can't be shared by {fabric.world_size} devices evenly.")
    return fabric


def _updates(fabric: Fabric, optimizers: Mapping[str, torch.optim.Optimizer]) -> Update:
    """What `Trainee.step` updates with.

    The networks are not those that Fabric would wrap: its gradients are ready after one pass through one network, but
    adversaries learn from several passes through each other.
    """

    def update(name: str, loss: Tensor) -> None:
        optimizer = optimizers[name]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        if fabric.world_size > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the weights as they were

    return update


def _validate(trainee: Trainee, fabric: Fabric, iteration: int) -> float:
    """The score of the networks as they are, which stay in training mode."""
    for network in trainee.networks.values():
        network.eval()
    with torch.inference_mode(), fabric.autocast():
        score = trainee.validate()
    for network in trainee.networks.values():
        network.train()
    return _finite("validation", score, iteration)


def _finite(name: str, value: float, iteration: int) -> float:
    if not math.isfinite(value):
        raise TrainingError(f"The {name} is {value} at iteration {iteration}. Lower the learning rate.")
    return value


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
        seed = np.random.SeedSequence(self.settings.seed, spawn_key=key)
        return dict(self.trainee.sample(seed, key[0] / self.settings.iterations))


def _tensors(networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    tensors = {
        f"{name}/{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()
    }
    for name, optimizer in optimizers.items():
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{number}/{key}": tensor for key, tensor in state.items()}
    return tensors


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write plain arrays and their description; the file is replaced in one step."""
    run = {"iteration": checkpoint.iteration, "recipe": checkpoint.recipe, "best": checkpoint.best}
    # One key: safetensors writes several in random order, and the same run shall give the same bytes.
    header = {"run": json.dumps(run, sort_keys=True)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(path, write_safetensors(plain, metadata=header))


def load_checkpoint(
    path: Path,
    recipe: dict[str, Any],
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, float | None]:
    """Put a checkpoint into `networks` and `optimizers`; its iteration and the best score until then.

    Raises:
        TrainingError: it is of another recipe.
    """
    found = read_checkpoint(path)
    refuse_other(path, found.recipe, recipe)
    for name, network in networks.items():
        network.load_state_dict(found.below(name))
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for place, tensor in found.below(f"optimizer/{name}").items():
            number, _, key = place.partition("/")
            state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return found.iteration, found.best


def refuse_other(path: Path, found: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Raises `TrainingError` with the difference if the run at `path` was trained with another recipe."""
    odd = sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key))
    if odd:
        raise TrainingError(
            f"{path}: this run differs in {', '.join(odd)}. Go on with the same, or choose another folder."
        )


def read_checkpoint(path: Path) -> Checkpoint:
    """What `save_checkpoint` wrote. Raises `TrainingError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            run = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return Checkpoint(run["recipe"], run["iteration"], run["best"], tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of a training run ({error}).") from error
