"""Weights of the model store as tensors: read, put into a network, written.

A file is read only after its SHA-256 agrees with the manifest, and only as safetensors: plain arrays. Nothing is ever
unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from LabelFreeCovidSegLib import store as stores
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.store import Entry, Stored

Preset = TypeVar("Preset")


def load(name: str, store: Path | None = None) -> tuple[Entry, list[dict[str, Tensor]]]:
    """The manifest's entry of a method, and the float32 tensors of each of its networks.

    Args:
        store: the folder of one store; without it, the user's goes before the one that ships.

    Raises:
        WeightsError: no such entry, a missing file, or one that is not what the manifest describes.
    """
    stored = stores.find(name) if store is None else _in(store, name)
    if stored is None:
        raise WeightsError(
            f"{(store or stores.folder()) / stores.MANIFEST}: no weights for '{name}'. Install them: "
            "labelfreecovidseg models install FILE."
        )
    return stored.entry, [_read(stored.folder / file, sha) for file, sha in stored.entry.files.items()]


def _in(store: Path, name: str) -> Stored | None:
    entry = stores.read_manifest(store).get(name)
    return None if entry is None else Stored(entry, store)


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: this weight file is missing. Install the extension or the weights again.")
    data = path.read_bytes()
    found = stores.sha256(data)
    if found != sha256:
        raise WeightsError(
            f"{path}: this is not the file that the manifest describes (SHA-256 {found[:12]}… instead of "
            f"{sha256[:12]}…). It is damaged or from elsewhere; install the weights again."
        )
    try:
        return {name: _widen(tensor) for name, tensor in read_safetensors(data).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}). Install the weights again.") from error


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _narrow(tensor: Tensor) -> Tensor:
    """As float16, unless that can't hold it: the variances of batch normalisation may be above 65,504.

    With an infinite variance a channel says the same of every voxel, and nothing else would tell.
    """
    half = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
    return half if half.isfinite().all() else tensor.float()


def preset(entry: Entry, presets: Mapping[str, Preset]) -> Preset:
    """The one of a method's `presets` by which these weights were trained.

    Raises:
        WeightsError: this version has none of that name.
    """
    name = str(entry.recipe.get("preset"))
    if name not in presets:
        raise WeightsError(
            f"The weights {entry.label} are of the preset '{name}', which is none of this version's "
            f"({', '.join(presets)}). Install the weights that belong to it."
        )
    return presets[name]


def fill(network: nn.Module, state: Mapping[str, Tensor], entry: Entry) -> nn.Module:
    """Put `state` into `network`, which must have the same tensors.

    Raises:
        WeightsError: names or shapes differ, or numbers are not finite.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items() if not _is_counter(name)}
    given = {name: tensor.shape for name, tensor in state.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise WeightsError(
            f"The weights {entry.label} are of another network: {len(odd)} tensors differ, for example '{odd[0]}'. "
            "Install the weights that belong to this version."
        )
    if lost := sorted(name for name, tensor in state.items() if not tensor.isfinite().all()):
        raise WeightsError(
            f"The weights {entry.label} hold numbers that are not finite, in {len(lost)} tensors, for example "
            f"'{lost[0]}'. Export them again from the run that they come from."
        )
    network.load_state_dict(dict(state), strict=False)
    return network


def _is_counter(name: str) -> bool:
    """Batch norm counts its training steps; inference needs no such thing."""
    return name.endswith("num_batches_tracked")


def store_entry(entry: Entry, states: Mapping[str, Mapping[str, Tensor]], store: Path) -> Entry:
    """Write weights, in float16 where it holds them, and their manifest entry; see `store.put`.

    Args:
        entry: its `files` is replaced by what is written.
        states: file name -> tensors.

    Returns:
        The entry with file names and hashes.

    Raises:
        WeightsError: a tensor is not finite; nothing is written.
    """
    data = {}
    for file, state in states.items():
        broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
        if broken:
            raise WeightsError(f"{file}: {broken[0]} is not finite, so training has gone astray. Train again.")
        data[file] = write_safetensors(
            {name: _narrow(tensor).contiguous() for name, tensor in state.items() if not _is_counter(name)}
        )
    made = replace(entry, files={file: stores.sha256(content) for file, content in data.items()})
    (stored,) = stores.put({entry.name: made}, data, store)
    return stored.entry
