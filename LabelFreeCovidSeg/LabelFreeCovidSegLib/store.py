"""The model store: which weights are on this computer, and whether they are what their manifest describes.

A store is a folder of weight files beside a manifest. One ships with the program; another is the user's, and an entry
there goes before the shipped one of the same name. Needs no torch: the panel asks it in Slicer's own process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_origin, get_type_hints

from LabelFreeCovidSegLib import resources
from LabelFreeCovidSegLib.errors import WeightsError

MANIFEST = "manifest.json"
VARIABLE = "LABELFREECOVIDSEG_MODELS"
"""Environment variable that names the user's store."""

State = Literal["verified", "damaged", "missing"]

_FILE_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.IGNORECASE)
_LARGEST = 1 << 30
"""Bytes of a file that is installed; a zip can claim far more than it weighs."""


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

    @property
    def commercial_use(self) -> bool:
        """Whether every licence is stated, of the weights and of the training scans, and none is non-commercial."""
        licences = [self.licence, *(str(scan.get("licence", "")) for scan in self.scans)]
        return all(licence and not is_non_commercial(licence) for licence in licences)


def is_non_commercial(licence: str) -> bool:
    """Whether a licence, as a list of scans or a manifest names it, forbids commercial use."""
    return bool(_NON_COMMERCIAL.search(licence))


@dataclass(frozen=True)
class Stored:
    """An entry and the store that holds it."""

    entry: Entry
    folder: Path

    @cached_property
    def state(self) -> State:
        """Whether all files are there and have the SHA-256 that the manifest says; they are hashed once, when asked."""
        paths = {self.folder / name: sha for name, sha in self.entry.files.items()}
        if not all(path.is_file() for path in paths):
            return "missing"
        return "verified" if all(_has_hash(path, sha) for path, sha in paths.items()) else "damaged"


def folder() -> Path:
    """Where the weights that ship lie."""
    return resources.path("Models")


def user_folder() -> Path:
    """Where the user's weights lie: what `VARIABLE` names, else the platform's place for a program's data."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "LabelFreeCovidSeg" / "Models"


def entries() -> list[Stored]:
    """All weights on this computer, the user's first; of two with the same name, the first is the one used.

    Raises:
        WeightsError: a manifest can't be read.
    """
    return [Stored(entry, place) for place in (user_folder(), folder()) for entry in read_manifest(place).values()]


def find(name: str) -> Stored | None:
    """The weights that a method runs on; None if there are none. Raises `WeightsError` as `entries` does."""
    return next((stored for stored in entries() if stored.entry.name == name), None)


def fingerprint(names: Iterable[str]) -> str:
    """SHA-256 of all that manifests say of these networks: their files, and the recipe with its thresholds.

    A network that is in no store has no part in it. Raises `WeightsError` as `entries` does.
    """
    found = [asdict(stored.entry) for name in names if (stored := find(name))]
    return sha256(json.dumps(found, sort_keys=True).encode())


def read_manifest(store: Path) -> dict[str, Entry]:
    """All entries by name; empty if the folder has no manifest.

    Raises:
        WeightsError: it can't be read, or is no manifest.
    """
    path = store / MANIFEST
    try:
        return _entries(path.read_bytes(), path)
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise WeightsError(f"{store}: not a folder. If {VARIABLE} names it, let it name a folder.") from error
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror}). Ask for the right to read it.") from error


def write_manifest(store: Path, manifest: Mapping[str, Entry]) -> None:
    """Replace the manifest of a store in one step."""
    text = json.dumps({"weights": [asdict(row) for _, row in sorted(manifest.items())]}, indent=2, ensure_ascii=False)
    write_atomically(store / MANIFEST, (text + "\n").encode())


def sha256(data: bytes) -> str:
    """The hash by which a manifest knows a file."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def install(path: str | Path) -> list[Stored]:
    """Put the weights of another store into the user's.

    All files are verified before the first is written. They get names of their own, by content, and count from the
    moment that the manifest is replaced: what is cut short leaves the store as it was.

    Args:
        path: a store: a folder with a manifest and the files it describes, or a .zip of such a folder.

    Returns:
        What was installed.

    Raises:
        WeightsError: the source is no store, holds what its manifest does not describe, lacks or has damaged what it
            does; or the user's store can't be written. Nothing was installed.
    """
    path = Path(path)
    try:
        package = _zipped(path) if path.is_file() else _plain(path)
        offered, data = _verified(package, path)
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        # RuntimeError: a password, or a compression that Python does not know.
        raise WeightsError(f"{path}: can't be read ({error}). Download or copy it again.") from error
    store = user_folder()
    try:
        return put(offered, data, store)
    except OSError as error:
        raise WeightsError(
            f"{store}: weights can't be written there ({error.strerror or error}). Free some space, or name another "
            f"folder in the environment variable {VARIABLE}."
        ) from error


def _has_hash(path: Path, expected: str) -> bool:
    try:
        return sha256(path.read_bytes()) == expected
    except OSError:
        return False


def _entries(manifest: bytes, path: Path) -> dict[str, Entry]:
    try:
        rows = json.loads(manifest)["weights"]
        found = {row["name"]: _entry(row) for row in rows}
        files = [pair for entry in found.values() for pair in entry.files.items()]
        odd = [name for name, sha in files if not (_FILE_NAME.fullmatch(name) and _SHA256.fullmatch(sha))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a manifest of weights ({error}). Move it away and install the weights again."
        ) from error
    if odd:
        raise WeightsError(
            f"{path}: '{odd[0]}' is not the name of a .safetensors file, or has no SHA-256. Get the weights elsewhere."
        )
    return found


def _entry(row: dict[str, Any]) -> Entry:
    """A row of a manifest. Raises `TypeError` if it lacks a field, or one is of another kind than `Entry` says."""
    entry = Entry(**row)
    for name, kind in get_type_hints(Entry).items():
        if not isinstance(row[name], get_origin(kind) or kind):
            raise TypeError(f"'{name}' of {entry.name} is {json.dumps(row[name])}")
    if not all(isinstance(scan, dict) for scan in entry.scans):
        raise TypeError(f"'scans' of {entry.name} are not described")
    return entry


_Package = Mapping[str, Callable[[], bytes]]
"""Name of each file of a store that is to be installed -> what reads it."""


def _plain(source: Path) -> _Package:
    return {file.name: file.read_bytes for file in source.iterdir() if not file.name.startswith(".")}


def _zipped(source: Path) -> _Package:
    """The files of a zip, or of the one folder in it. Their names are compared, never used as paths."""
    with zipfile.ZipFile(source) as archive:
        members = [member for member in archive.infolist() if not member.is_dir() and not _is_debris(member.filename)]
    tops = {member.filename.rpartition("/")[0] for member in members if PurePosixPath(member.filename).name == MANIFEST}
    top = f"{tops.pop()}/" if len(tops) == 1 and tops != {""} else ""

    def reader(member: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            if member.file_size > _LARGEST:
                raise WeightsError(f"{source}: {member.filename} is larger than 1 GiB. Get the weights elsewhere.")
            with zipfile.ZipFile(source) as archive:
                return archive.read(member)

        return read

    return {member.filename.removeprefix(top): reader(member) for member in members}


def _is_debris(name: str) -> bool:
    """What macOS adds to a zip."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or parts[-1] == ".DS_Store"


def _verified(package: _Package, source: Path) -> tuple[dict[str, Entry], dict[str, bytes]]:
    """The entries of a package and the content of their files, if all is as its manifest says."""
    if MANIFEST not in package:
        raise WeightsError(f"{source}: holds no {MANIFEST}, so it is no store of weights. Give its .zip or its folder.")
    offered = _entries(package[MANIFEST](), source / MANIFEST)
    described = {name: sha for entry in offered.values() for name, sha in entry.files.items()}
    if odd := sorted(package.keys() - described.keys() - {MANIFEST}):
        raise WeightsError(f"{source}: its manifest does not describe '{odd[0]}'. Take it out, or get the file again.")
    if lacking := sorted(described.keys() - package.keys()):
        raise WeightsError(f"{source}: {lacking[0]} is missing. Download or copy the whole again.")
    data = {name: package[name]() for name in described}
    for name, sha in described.items():
        if sha256(data[name]) != sha:
            raise WeightsError(
                f"{source}: {name} is not the file that the manifest describes. Download or copy the whole again."
            )
    return offered, data


def put(offered: Mapping[str, Entry], data: Mapping[str, bytes], store: Path) -> list[Stored]:
    """Write the files, then the manifest, then remove files that no entry needs any more.

    Files are named by their content, too, so that those of another version stay whole until the manifest has changed.

    Args:
        offered: by the name of the method; `files` are names in `data`.

    Raises:
        OSError: the store can't be written; what it held before is whole.
    """
    store.mkdir(parents=True, exist_ok=True)
    before = read_manifest(store)
    installed = {}
    for entry in offered.values():
        files = {_name_by_content(name, sha): (name, sha) for name, sha in entry.files.items()}
        for own, (name, _) in files.items():
            write_atomically(store / own, data[name])
        installed[entry.name] = replace(entry, files={own: sha for own, (_, sha) in files.items()})
    after = {**before, **installed}
    write_manifest(store, after)
    kept = {name for entry in after.values() for name in entry.files}
    for name in {name for entry in before.values() for name in entry.files} - kept:
        with contextlib.suppress(OSError):  # on Windows, while another process reads it
            (store / name).unlink()
    return [Stored(entry, store) for entry in installed.values()]


def _name_by_content(name: str, sha: str) -> str:
    stem = name.removesuffix(".safetensors")
    return name if stem.endswith(sha[:8]) else f"{stem}-{sha[:8]}.safetensors"
