"""Results as files: segmentations, the anomaly map, the report and the numbers, all on the scan's own grid.

They appear together, once all are complete: they are staged in a hidden folder on the same disk and then renamed.
Files that are not this program's, or that someone has changed since it wrote them, are never replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import report, terminology
from LabelFreeCovidSegLib.errors import OutputError
from LabelFreeCovidSegLib.pipeline import Result
from LabelFreeCovidSegLib.progress import Progress, silent
from LabelFreeCovidSegLib.scan import Scan, bounding_box

MEASUREMENTS = "measurements.json"
FILES = {
    "lesions.seg.nrrd": "segmentation for 3D Slicer",
    "lesions.nii.gz": "1 ground glass, 2 consolidation",
    "lungs.nii.gz": "1 right lung, 2 left lung",
    "anomaly.nii.gz": "anomaly map",
    "report.html": "pictures and numbers, for any browser",
    MEASUREMENTS: "the numbers, for programs",
}
"""What every result consists of: file name -> what it holds."""
MAPS = {
    "healthy.nii.gz": "the CT as it would be without disease",
    "agreement.nii.gz": "share of the methods that mark each place",
}
"""What results of some methods have besides."""
NAMES = FILES | MAPS

SCHEMA = "labelfreecovidseg.measurements/1"
IMAGES = (".nii.gz", ".nrrd")
"""Endings of what `write_image` writes."""
NEEDED_BYTES = 200_000_000
"""Free space that is asked for before computing: several times the largest results."""

_KINDS = {"scan": dict, "files": dict, "regions": list, "warnings": list, "seconds": dict}
"""What is read of `MEASUREMENTS` later on."""
_EARLIER = "earlier"
_COMPRESSION_LEVEL = 1  # files grow by a quarter, writing takes a third of the time


def write(result: Result, folder: Path, progress: Progress = silent) -> dict[str, Path]:
    """Write all files of a result into `folder`, which is made if it is not there.

    Returns:
        Name of each file -> its path.

    Raises:
        OutputError: nothing was written; an earlier result in `folder` is as it was.
    """
    check_folder(folder)
    return publish(stage(result, folder, progress), folder, result.scan)


def check_folder(folder: Path) -> None:
    """Find out before computing whether results can be written into `folder`; leaves no trace.

    Raises:
        OutputError: it is a file, nothing can be written there, or the disk is nearly full.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OutputError(f"{there} is a file, so no results can be written into it. Name a folder.")
    with explained(there):
        tempfile.TemporaryDirectory(dir=there).cleanup()
        free = shutil.disk_usage(there).free
    if free < NEEDED_BYTES:
        raise OutputError(
            f"{folder}: the disk has {free / 1e6:.0f} MB left, and results may need {NEEDED_BYTES / 1e6:.0f} MB. "
            "Free some space, or name a folder on another disk."
        )


def check_replaceable(folder: Path, scan: Scan | None) -> None:
    """Make sure that nothing but an unchanged earlier result of the same scan would be replaced.

    Args:
        scan: None where the folder belongs to a path, as in `batch`, whatever scan lies there now.

    Raises:
        OutputError: `folder` holds another scan's result, or a file of the same name that is someone else's work.
    """
    present = _there(folder, NAMES)
    if not present:
        return
    there = earlier(folder)
    if there and scan and there["scan"] != _scan(scan):
        raise OutputError(
            f"{folder} holds the results of another scan, '{there['scan'].get('name')}'. Name another folder."
        )
    ours = there.get("files", {})
    for name in present:
        path = folder / name
        known = bool(there) if name == MEASUREMENTS else path.is_file() and ours.get(name) == file_sha256(path)
        if not known:
            raise OutputError(
                f"{path} was not written by this program, or was changed since. Move it away, or name another folder."
            )


def staging(folder: Path) -> Path:
    """Where this process collects the files for `folder`: on the same disk, so that renaming them takes no time."""
    folder = folder.absolute()
    name = f".{folder.name}.unfinished-{os.getpid()}"
    return folder / name if folder.is_dir() else folder.parent / name


def stage(result: Result, folder: Path, progress: Progress = silent) -> Path:
    """Write all files of a result into `staging(folder)`, and make sure that they are complete.

    Raises:
        OutputError: they can't be written; nothing is left.
    """
    staged = staging(folder)
    try:
        with explained(folder):
            staged.mkdir(parents=True)
            _write_all(result, staged, progress)
    except BaseException:
        discard(staged)
        raise
    return staged


def publish(staged: Path, folder: Path, scan: Scan | None) -> dict[str, Path]:
    """Move what `stage` wrote to its place, in the place of an earlier result.

    Args:
        scan: see `check_replaceable`.

    Raises:
        OutputError: an earlier result can't be replaced; it is as it was, and what was staged is gone.
    """
    try:
        check_replaceable(folder, scan)
        return put(staged, folder, NAMES)
    except BaseException:
        discard(staged)
        raise


def put(staged: Path, folder: Path, names: Collection[str]) -> dict[str, Path]:
    """Move what lies in `staging(folder)` to its place, and what has one of its names there out of the way.

    Args:
        names: what files and folders a result may consist of; every result has the first.

    Returns:
        Name -> path of what was moved.

    Raises:
        OutputError: an earlier result can't be replaced; it is as it was.
    """
    made = _there(staged, names)
    with explained(folder):
        if folder.is_dir():
            _exchange(staged, folder, names)
            shutil.rmtree(staged, ignore_errors=True)  # what is published stays so
        else:
            os.replace(staged, folder)
        _sync_folder(folder)
    return {name: folder / name for name in made}


def discard(staged: Path) -> None:
    """Remove what `stage` has written so far, even while another thread is still writing."""
    gone = staged.with_name(f"{staged.name}.gone")
    with contextlib.suppress(FileNotFoundError):
        os.replace(staged, gone)  # from here on that thread finds no folder to open files in
    shutil.rmtree(gone, ignore_errors=True)


def earlier(folder: Path) -> dict[str, Any]:
    """The numbers of the result that lies in `folder`; empty if there is none of this program's."""
    return numbers(folder / MEASUREMENTS, SCHEMA, _KINDS)


def numbers(path: Path, schema: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """What this program wrote into a JSON file; empty if it did not, by `schema` and the `kinds` of some values."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(there, dict) and there.get("schema") == schema
    return there if ours and all(isinstance(there.get(key), kind) for key, kind in kinds.items()) else {}


def recover(folder: Path, names: Collection[str] = tuple(NAMES)) -> None:
    """Undo or complete what a process that was killed had begun to write into `folder`.

    No other process may be writing there: it would lose what it has staged.

    Args:
        names: as for `put`.
    """
    folder = folder.absolute()
    leftovers = f".{glob.escape(folder.name)}.unfinished-*"
    for staged in [*folder.glob(leftovers), *folder.parent.glob(leftovers)]:
        exchanged = staged / _EARLIER
        if exchanged.is_dir():
            waiting = _there(staged, names)
            if waiting:  # cut off while files were exchanged
                # The first of all files comes in when the last of the earlier ones is out.
                came_in = next(iter(names)) not in waiting
                moved = [name for name in _there(folder, names) if came_in and name not in waiting]
                moves = [(folder / name, staged / name) for name in moved]
                moves += [(path, folder / path.name) for path in exchanged.iterdir()]
                for source, target in moves:
                    os.replace(source, target)
                exchanged.rmdir()  # first: without it there is nothing to undo, should this be killed too
        shutil.rmtree(staged)


def _there(folder: Path, names: Collection[str]) -> list[str]:
    return [name for name in names if (folder / name).exists()]


def _exchange(staged: Path, folder: Path, names: Collection[str]) -> None:
    """Rename the staged files into `folder`, the earlier ones out of it; if one fails, all go back."""
    replaced = staged / _EARLIER
    replaced.mkdir()
    moves = [(folder / name, replaced / name) for name in _there(folder, names)]
    moves += [(staged / name, folder / name) for name in _there(staged, names)]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _write_all(result: Result, folder: Path, progress: Progress) -> None:
    scan = result.scan
    progress(0.0, "Writing segmentations")
    lesions = scan.native_image(result.classes)
    _write_nifti(lesions, folder / "lesions.nii.gz")
    _write_nifti(scan.native_image(result.lungs.labels), folder / "lungs.nii.gz")
    describe_segments(lesions, terminology.LESIONS)
    _write_image(lesions, folder / "lesions.seg.nrrd")
    progress(0.3, "Writing the anomaly map")
    _write_nifti(scan.native_image(_rounded(result.anomaly)), folder / "anomaly.nii.gz")
    if result.healthy_hu is not None:
        _write_nifti(scan.native_image(result.healthy_hu.round().astype(np.int16)), folder / "healthy.nii.gz")
    if result.agreement is not None:
        _write_nifti(scan.native_image(_rounded(result.agreement)), folder / "agreement.nii.gz")
    progress(0.7, "Writing the report")
    (folder / "report.html").write_text(report.render(result), encoding="utf-8")
    hashes = {name: file_sha256(folder / name) for name in _there(folder, NAMES)}
    numbers = json.dumps(_measurements(result, hashes), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MEASUREMENTS).write_text(numbers + "\n", encoding="utf-8")
    sync(folder)
    progress(1.0, "Written")


def check_new_image(path: Path) -> None:
    """Find out before computing whether an image can be written as this file.

    Raises:
        OutputError: its name has another ending than `IMAGES`, or something of this name is there.
    """
    if not path.name.endswith(IMAGES):
        raise OutputError(f"{path}: the name of an image ends in {', '.join(IMAGES)}. Name it so.")
    if path.exists():
        raise OutputError(f"{path} is there already, and is not replaced. Name another file.")
    check_folder(path.parent)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write one image on its own, whole or not at all.

    Raises:
        OutputError: as `check_new_image`, or it can't be written.
    """
    check_new_image(path)
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            (_write_nifti if path.name.endswith(".nii.gz") else _write_image)(image, unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def describe_segments(labels: sitk.Image, segments: tuple[terminology.Segment, ...]) -> None:
    """Give a label image the header fields by which Slicer knows its segments.

    https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html, "Segmentation NRRD file format"
    """
    fields = {
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # the same, as Slicer before 5.2 called it
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    array = sitk.GetArrayViewFromImage(labels)
    for number, segment in enumerate(segments):
        fields |= {
            f"Segment{number}_ID": segment.id,
            f"Segment{number}_Name": segment.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_Color": " ".join(f"{value:.6f}" for value in segment.color),
            f"Segment{number}_ColorAutoGenerated": "0",
            f"Segment{number}_Layer": "0",
            f"Segment{number}_LabelValue": str(segment.label),
            f"Segment{number}_Extent": _extent(array == segment.label),
            f"Segment{number}_Tags": f"TerminologyEntry:{segment.entry}|",
        }
    for key, value in fields.items():
        labels.SetMetaData(key, value)


def _extent(mask: np.ndarray) -> str:
    """First and last index along i, j and k, as VTK gives an extent; that of nothing ends before it starts."""
    if not mask.any():
        return "0 -1 0 -1 0 -1"
    return " ".join(f"{axis.start} {axis.stop - 1}" for axis in reversed(bounding_box(mask)))


def _rounded(score: np.ndarray) -> np.ndarray:
    """`score` in steps of 1/256 of its range (up to the next power of two), which lets it compress to a tenth."""
    peak = float(np.abs(score).max(initial=0.0))
    step = np.float32(2.0 ** np.ceil(np.log2(peak)) / 256) if peak else np.float32(1)
    return np.round(score / step) * step


def _write_image(image: sitk.Image, path: Path) -> None:
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=_COMPRESSION_LEVEL)
    except RuntimeError as error:
        raise OSError(f"{path.name} could not be written completely") from error


def _write_nifti(image: sitk.Image, path: Path) -> None:
    """Write a .nii.gz and read it through: on a full disk ITK leaves a truncated file and reports nothing."""
    _write_image(image, path)
    try:
        with gzip.open(path) as file:
            while file.read(1 << 22):
                pass
    except (EOFError, gzip.BadGzipFile) as error:
        raise OSError(f"{path.name} could not be written completely") from error


def _measurements(result: Result, hashes: dict[str, str]) -> dict[str, Any]:
    numbers, run = result.measurements, result.run
    return {
        "schema": SCHEMA,
        "scan": _scan(result.scan),
        "notes": list(result.scan.notes),
        "lungs": result.lungs.source,
        "method": dataclasses.asdict(run.card),
        "weights": run.weights,
        "compute": dataclasses.asdict(run.compute),
        "versions": run.versions,
        "seconds": run.seconds,
        "warnings": list(run.warnings),
        "band": dataclasses.asdict(numbers.band) if numbers.band else None,
        "regions": [
            dataclasses.asdict(region) | {"lesion_ml": region.lesion_ml, "lesion_percent": region.lesion_percent}
            for region in numbers.regions
        ],
        "files": hashes,
    }


def _scan(scan: Scan) -> dict[str, Any]:
    grid = {key: list(value) for key, value in dataclasses.asdict(scan.native).items()}
    # Scans of two patients may well have the same name and grid; every fourth line and column tells them apart.
    content = zlib.crc32(scan.hu[:, ::4, ::4].tobytes())
    return {"name": scan.name, "grid_lps_mm": grid, "content_crc32": content}


def file_sha256(path: Path) -> str:
    """Of its content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(folder: Path) -> None:
    """Make all files below `folder` survive a power cut."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the renaming survive a power cut, where the system lets a folder be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what the system says while results are written for `folder` into an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder}: results can't be written there ({error.strerror or error}). Nothing was left there. "
            "Free some space, close programs that hold these files, or name another folder."
        ) from error
