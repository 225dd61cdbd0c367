"""All scans of a folder, one after another in one process, each into a result folder of its own.

A run goes on where an earlier one stopped, however that ended: what is finished is known by a fingerprint of all that
it was made of, and a table says how every scan stands.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from LabelFreeCovidSegLib import __version__, device, lungs, output, search, segment_file, store
from LabelFreeCovidSegLib.errors import CancelledError, LabelFreeCovidSegError, OutputError, ScanError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import Progress, part, titled
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session

TABLE = "batch.csv"
FINISHED = ".batch.json"
"""Path of each finished scan -> its fingerprint."""
LOCK = ".batch.lock"
"""Locked by the batch that is at work, and let go by the system however that ends; the file stays."""

WAITING, DONE, FAILED, LABELS = "waiting", "done", "failed", "label image"
"""States of a scan; the last is that of a file which turned out to be none."""

REGIONS = ("both", "right", "left")
QUANTITIES = ("lung_ml", "ground_glass_ml", "consolidation_ml", "lesion_percent")
COLUMNS = (
    "path", "state", "error", *(f"{region}_{quantity}" for region in REGIONS for quantity in QUANTITIES),
    "warnings", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """How one scan stands.

    Attributes:
        path: of the scan, from the folder that was searched.
        error: why it failed; empty otherwise.
        numbers: the further `COLUMNS` of a scan that is done.
    """

    path: str
    state: str
    error: str = ""
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A scan, its path in the table, and the folder for its results, which has the same path."""

    ct: Path
    path: str
    out: Path

    @classmethod
    def of(cls, ct: Path, folder: Path, out: Path) -> _Job:
        path = ct.relative_to(folder).as_posix() if ct != folder else folder.name
        return cls(ct, path, out / path)

    def fingerprint(self, made_with: Sequence[str]) -> str:
        """Of what the result is made with, and of names, sizes and times of the scan's files.

        Raises:
            ScanError: a file is gone, or a link leads nowhere.
        """
        if self.ct.is_dir():
            files = sorted(file for file in self.ct.rglob("[!.]*") if file.is_file())
        elif self.ct.suffix.lower() in (".mhd", ".nhdr"):  # its voxels lie in a file of the same name
            files = sorted(self.ct.parent.glob(f"{glob.escape(self.ct.stem)}.*"))
        else:
            files = [self.ct]
        try:
            stats = [(file.name, file.stat()) for file in files]
        except OSError as error:
            raise ScanError(f"{self.path}: can't be opened ({error.strerror}). Check where it leads to.") from error
        facts = [*made_with, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]
        return store.sha256(json.dumps(facts).encode())


def run(folder: Path, out: Path, choices: Choices, session: Session) -> list[Row]:
    """Segment every scan below `folder` (see `search.scans`) that is not finished, and keep `out`/batch.csv up to date.

    A scan that fails does not end the run. A finished one is done again if its files, the method, its weights, the way
    to find lungs or this program's version have changed.

    Args:
        out: results of the scan `folder`/a/ct.nii.gz go to `out`/a/ct.nii.gz/.

    Returns:
        A row for each scan, as in the table.

    Raises:
        ScanError: there is no scan. OutputError: nothing, or at the end the table, can't be written to `out`, or
            another batch is at work there.
        WeightsError, LabelFreeCovidSegError: the method or the device is not there.
        CancelledError: as `Session` or its reporter wants it; finished scans stay.
    """
    folder, out = Path(os.path.abspath(folder)), Path(os.path.abspath(out))
    progress = session.reporter.progress
    progress(0.0, "Looking for scans")
    output.check_folder(out)
    jobs = [_Job.of(ct, folder, out) for ct in search.scans(folder, out)]
    if out == folder or any(job.ct in out.parents for job in jobs):
        raise OutputError(f"{out}: results would lie among the scans. Name another folder for them.")
    if not jobs:
        raise ScanError(
            f"{folder}: no scan in it: no DICOM series of CT slices, and no NIfTI, NRRD or MetaImage file with more "
            "than 8 bits a voxel. Give the folder that holds the scans."
        )
    device.choose(choices.device, choices.precision)
    made_with = _made_with(choices)
    with _alone(out):
        return _run(jobs, out, choices, made_with, session)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"{out}: another batch is at work there. Wait for its end, or name another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run(jobs: Sequence[_Job], out: Path, choices: Choices, made_with: Sequence[str], session: Session) -> list[Row]:
    progress = session.reporter.progress
    finished = _Finished(out, made_with)
    rows = {job.path: Row(job.path, WAITING) for job in jobs}
    rows |= {job.path: _done(job) for job in jobs if finished.holds(job)}
    waiting = [job for job in jobs if rows[job.path].state == WAITING]
    for number, job in enumerate(waiting):
        _write_table_if_possible(out, rows.values())
        title = f"Scan {len(jobs) - len(waiting) + number + 1} of {len(jobs)}"
        its_part = part(titled(progress, title), number / len(waiting), (number + 1) / len(waiting))
        rows[job.path] = _try(job, choices, finished, session, its_part)
    with session.last_step():
        write_table(out, rows.values())
    return list(rows.values())


def write_table(out: Path, rows: Iterable[Row]) -> None:
    """Replace the table in one step.

    Raises:
        OutputError: it can't be written; the one before is as it was.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"path": row.path, "state": row.state, "error": row.error, **row.numbers} for row in rows)
    _write(out / TABLE, text.getvalue())


def _write_table_if_possible(out: Path, rows: Iterable[Row]) -> None:
    with contextlib.suppress(OutputError):  # Excel keeps others from writing what it shows; the next time may do
        write_table(out, rows)


class _Finished:
    """The fingerprints of the scans that are finished, kept in `out`/.batch.json.

    Args:
        made_with: what results are made with now.
    """

    def __init__(self, out: Path, made_with: Sequence[str]) -> None:
        self._path = out / FINISHED
        self._made_with = made_with
        self._fingerprints: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # then all is done again
            self._fingerprints = dict(json.loads(self._path.read_text(encoding="utf-8")))

    def fingerprint(self, job: _Job) -> str:
        return job.fingerprint(self._made_with)

    def holds(self, job: _Job) -> bool:
        """Whether the scan is finished and its results are still there."""
        files = output.earlier(job.out).get("files")
        if not files or not all((job.out / name).is_file() for name in files):
            return False
        try:
            return self._fingerprints.get(job.path) == self.fingerprint(job)
        except ScanError:
            return False

    def add(self, job: _Job, fingerprint: str) -> None:
        self._fingerprints[job.path] = fingerprint
        self._save()

    def drop(self, job: _Job) -> None:
        if self._fingerprints.pop(job.path, None):
            self._save()

    def _save(self) -> None:
        _write(self._path, json.dumps(self._fingerprints, indent=0, sort_keys=True))


def _made_with(choices: Choices) -> tuple[str, ...]:
    return __version__, choices.method, base.load(choices.method).weights, lungs.label(choices.lungs)


def _try(job: _Job, choices: Choices, finished: _Finished, session: Session, progress: Progress) -> Row:
    """Segment one scan, whatever may be wrong with it."""
    try:
        _segment(job, choices, finished, session, progress)
    except CancelledError:
        raise
    except LabelFreeCovidSegError as error:
        if isinstance(error, ScanError) and search.is_label_image(job.ct):
            return Row(job.path, LABELS)
        return Row(job.path, FAILED, str(error))
    except Exception as error:  # a fault of the program in one scan must not keep the others from being done
        traceback.print_exc()
        return Row(job.path, FAILED, f"{type(error).__name__}: {error}")
    return _done(job)


def _segment(job: _Job, choices: Choices, finished: _Finished, session: Session, progress: Progress) -> None:
    output.recover(job.out)
    fingerprint = finished.fingerprint(job)
    _, staged = segment_file.stage(job.ct, job.out, choices, session, progress, of_path=True)
    with session.undivided():
        finished.drop(job)  # a run that is killed between the next two lines must not be taken for the earlier one
        output.publish(staged, job.out, None)
        finished.add(job, fingerprint)


def _done(job: _Job) -> Row:
    """The row of a scan whose results lie in their place."""
    measured = output.earlier(job.out)
    regions = {region["name"]: region for region in measured["regions"]}
    numbers = {f"{name}_{column}": f"{regions[name][column]:.2f}" for name in REGIONS for column in QUANTITIES}
    numbers |= {"warnings": str(len(measured["warnings"])), "seconds": f"{sum(measured['seconds'].values()):.1f}"}
    return Row(job.path, DONE, numbers=numbers)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomically(path, text.encode())
    except OSError as error:
        raise OutputError(
            f"{path}: can't be written ({error.strerror or error}). Close programs that show it, or free some space."
        ) from error
