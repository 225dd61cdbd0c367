"""The model store: weight files beside a manifest that describes and identifies them.

A file is read only after its SHA-256 agrees with the manifest, and only as safetensors: plain arrays. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from LabelFreeCovidSegLib import resources
from LabelFreeCovidSegLib.errors import WeightsError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one method's weights.

    Attributes:
        name: of the method.
        files: file name -> SHA-256, one a network.
        recipe: how it was trained: preset, iterations, precision, seeds.
        scans: the training scans: name, collection, licence of each.
        licence: of the weights.
        licence_confirmed: whether a person has read the licence page of every collection in `scans`.
        expects: what the input must be, for a reader.
    """

    name: str
    version: str
    files: dict[str, str]
    recipe: dict[str, Any]
    scans: list[dict[str, Any]]
    licence: str
    licence_confirmed: bool
    citation: str
    expects: str

    @property
    def label(self) -> str:
        """How results name these weights."""
        return f"{self.name} {self.version} ({', '.join(sha[:8] for sha in self.files.values())})"


def folder() -> Path:
    """Where the weights that ship lie."""
    return resources.path("Models")


def load(name: str, store: Path | None = None) -> tuple[Entry, list[dict[str, Tensor]]]:
    """The manifest's entry of a method, and the float32 tensors of each of its networks.

    Raises:
        WeightsError: no such entry, a missing file, or one that is not what the manifest describes.
    """
    store = store or folder()
    manifest = read_manifest(store)
    if name not in manifest:
        raise WeightsError(f"{store / MANIFEST}: no weights for '{name}'. Install them into that folder.")
    entry = manifest[name]
    return entry, [_read(store / file, sha) for file, sha in entry.files.items()]


def read_manifest(store: Path) -> dict[str, Entry]:
    """All entries by name; empty if the folder has no manifest."""
    path = store / MANIFEST
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["weights"]
        return {row["name"]: Entry(**row) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a manifest of weights ({error}). Install the extension again.") from error


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: this weight file is missing. Install the extension or the weights again.")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
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


def fill(network: nn.Module, state: Mapping[str, Tensor], entry: Entry) -> nn.Module:
    """Put `state` into `network`, which must have the same tensors.

    Raises:
        WeightsError: names or shapes differ.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items() if not _is_counter(name)}
    given = {name: tensor.shape for name, tensor in state.items()}
    if wanted != given:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise WeightsError(
            f"The weights {entry.label} are of another network: {len(odd)} tensors differ, for example '{odd[0]}'. "
            "Install the weights that belong to this version."
        )
    network.load_state_dict(dict(state), strict=False)
    return network


def _is_counter(name: str) -> bool:
    """Batch norm counts its training steps; inference needs no such thing."""
    return name.endswith("num_batches_tracked")


def store_entry(entry: Entry, states: Mapping[str, Mapping[str, Tensor]], store: Path) -> Entry:
    """Write float16 weights and their manifest entry, each file atomically, the manifest last.

    Args:
        entry: its `files` is replaced by what is written.
        states: file name -> tensors.

    Returns:
        The entry with file names and hashes.
    """
    store.mkdir(parents=True, exist_ok=True)
    files = {}
    for file, state in states.items():
        halved = {
            name: tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
            if not _is_counter(name)
        }
        data = write_safetensors(halved)
        write_atomically(store / file, data)
        files[file] = hashlib.sha256(data).hexdigest()
    written = Entry(**{**asdict(entry), "files": files})
    manifest = {**read_manifest(store), entry.name: written}
    text = json.dumps({"weights": [asdict(row) for _, row in sorted(manifest.items())]}, indent=2, ensure_ascii=False)
    write_atomically(store / MANIFEST, (text + "\n").encode())
    return written


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
