"""Every method on every case of every data set, measured by every protocol.

A case's result is one file, written when it is complete. A run goes on where an earlier one stopped, however that
ended, and comes to the same tables. Several runs into one folder share the cases.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from LabelFreeCovidSegLib import device, lungs, output, picture_pipeline, store
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, DataSetError, LabelFreeCovidSegError, OutputError
from LabelFreeCovidSegLib.evaluation import judge, nnunet, overlay, page, tables
from LabelFreeCovidSegLib.evaluation.datasets import Case, DataSet
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS, Protocol, Unit
from LabelFreeCovidSegLib.evaluation.tables import Row, Table
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.progress import Progress, part, titled
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session

CASES = "cases"
LOCKS = ".locks"
"""Of the cases that are at work; the system lets go of them however a run ends, and the files stay."""
FOREVER = -1.0
FILES = {
    "table.md": "the tables, to read",
    "table.csv": "one number a line",
    "table.tex": "the tables for LaTeX",
    "cases.csv": "every case",
    "evaluation.html": "tables, box plots and pictures",
}


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Attributes:
        methods: names in `base.everything()`; the others are compared with the first.
        data: data sets with the folders that hold them.
        protocols: names in `PROTOCOLS`.
        choices: how to segment; the method is that of the row.
    """

    methods: Sequence[str]
    data: Sequence[tuple[DataSet, Path]]
    protocols: Sequence[str]
    choices: Choices = field(default_factory=Choices)


@dataclass(frozen=True)
class Task:
    """One method on one case."""

    data: DataSet
    case: Case
    method: str

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{self.data.name}/{self.method}/{self.case.name}"

    def file(self, out: Path) -> Path:
        """Where its result lies."""
        return out / CASES / self.data.name / self.method / f"{self.case.name}.json"

    def wanted(self, protocols: Sequence[str]) -> list[str]:
        """Those of `protocols` that count this case."""
        card = base.card(self.method)
        return [
            name for name in protocols if not (unable(card, PROTOCOLS[name]) or left_out(self.case, PROTOCOLS[name]))
        ]


@dataclass(frozen=True)
class Measured:
    """What a case's file holds.

    Attributes:
        fingerprint: of all that it was made of.
        protocols: name -> units.
        picture: a PNG data URI; see `overlay.picture`.
        empty: see `Judged.empty`.
    """

    fingerprint: str
    protocols: dict[str, list[Unit]] = field(default_factory=dict)
    picture: str = ""
    empty: Sequence[str] = ()


@dataclass(frozen=True)
class Finished:
    """A task and its result."""

    task: Task
    measured: Measured


def left_out(case: Case, protocol: Protocol) -> str:
    """Why a protocol does not count a case; empty if it does."""
    if protocol.needs_hu and not case.hu:
        return "no HU"
    if protocol.needs_mm and not case.mm:
        return "no pixel size"
    return case.left_out.get(protocol.name, "")


def unable(card: Card, protocol: Protocol) -> str:
    """Why a protocol does not measure a method; empty if it does."""
    if protocol.needs_health and not card.knows_health:
        return "It does not say how probably a voxel is healthy."
    return ""


def run(plan: Plan, out: Path, session: Session) -> tuple[list[Table], dict[str, str]]:
    """Measure what is not measured yet, and write the tables.

    Returns:
        The tables; and "data/method/case" -> error of the cases that failed, which the same call tries again.

    Raises:
        DataSetError: a data set is not as it should be, or two have the same name. OutputError: `out` can't be written.
        WeightsError, LabelFreeCovidSegError: a method or the device is not there.
        CancelledError: as the session's reporter wants it; finished cases stay.
    """
    out = Path(os.path.abspath(out))
    progress = session.reporter.progress
    progress(0.0, "Looking at the data")
    output.check_folder(out)
    session.when_cancelled(nnunet.stop)
    compute = device.choose(plan.choices.device, plan.choices.precision)
    cards, weights = {}, {}
    for method in plan.methods:
        model = base.load(method)
        cards[method], weights[method] = model.card, (model.weights, store.fingerprint(model.card.networks))
    tasks, unfit = [], {}
    for task in _tasks(plan):
        if why := judge.unfit(cards[task.method], weights[task.method][0], task.case):
            unfit[task.data.name, task.method] = why
        else:
            tasks.append(task)
    measured: dict[str, Measured] = {}
    failed: dict[str, str] = {}
    waiting, patience = tasks, 0.0
    while waiting:
        busy = []
        for task in waiting:
            done = len(measured) + len(failed)
            share = titled(part(progress, 0.98 * done / len(tasks), 0.98 * (done + 1) / len(tasks)), task.name)
            share(0.0, "Waiting for another run" if patience else "Reading the case")
            try:
                with _alone(out, f"{task.name}.lock", patience):
                    made_of = _fingerprint(task, plan, weights[task.method], compute)
                    measured[task.name] = _measured(task, plan, made_of, out, session, share)
            except Timeout:
                busy.append(task)
            except (CancelledError, OutputError):
                raise
            except LabelFreeCovidSegError as error:
                failed[task.name] = str(error)
            except Exception as error:  # a fault of the program in one case must not keep the others from being done
                traceback.print_exc()
                failed[task.name] = f"{type(error).__name__}: {error}"
        waiting, patience = busy, 1.0
    finished = [Finished(task, measured[task.name]) for task in tasks if task.name in measured]
    progress(0.99, "Writing the tables")
    notes = {data.name: _notes(data, plan, finished, unfit) for data, _ in plan.data}
    parts = [
        _part(data, PROTOCOLS[name], finished, failed, notes[data.name])
        for data, _ in plan.data
        for name in plan.protocols
    ]
    made = [table for table, _ in parts]
    texts = {
        "table.md": tables.markdown(made),
        "table.csv": tables.as_csv(made),
        "table.tex": tables.latex(made),
        "cases.csv": _cases(finished, plan.protocols),
        "evaluation.html": page.render(parts),
    }
    with _alone(out, "tables.lock", FOREVER), session.last_step():
        for name, text in texts.items():
            _write(out / name, text)
    return made, failed


def _tasks(plan: Plan) -> Iterator[Task]:
    names = [data.name for data, _ in plan.data]
    if len(set(names)) < len(names):
        raise DataSetError(f"Two data sets have the same name ({', '.join(names)}). Rename a folder.")
    for data, folder in plan.data:
        if not data.judged:
            raise DataSetError(
                f"{data.title} has no lesion masks, so there is nothing to measure. Segment it with `batch`."
            )
        cases = data.open(folder)
        yield from (Task(data, case, method) for method in plan.methods for case in cases)


@contextlib.contextmanager
def _alone(out: Path, name: str, seconds: float) -> Iterator[None]:
    """No other run is inside at the same time. Raises `Timeout` if one is for so long, OutputError if none can know."""
    path = out / LOCKS / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=seconds)
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({error.strerror or error}). Choose another folder.") from error
    try:
        yield
    finally:
        lock.release()


def _fingerprint(task: Task, plan: Plan, weights: tuple[str, str], compute: Compute) -> str:
    """Of all that the numbers of a case depend on."""
    finder = lungs.label(plan.choices.lungs, picture=not task.case.hu)
    facts: list[Any] = [_program(), task.method, weights, asdict(compute), finder, task.case.index]
    if not task.case.hu:
        facts.append((task.case.orientation, task.case.equalised))
    facts += [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in task.case.files]
    return store.sha256(json.dumps(facts).encode())


@functools.cache
def _program() -> str:
    """SHA-256 of this program's source."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return store.sha256(b"".join(source.read_bytes() for source in sources))


def _measured(task: Task, plan: Plan, fingerprint: str, out: Path, session: Session, progress: Progress) -> Measured:
    """The case's result, from its file as far as that has it."""
    file = task.file(out)
    there = _read(file)
    if there is None or there.fingerprint != fingerprint:
        there = Measured(fingerprint)
    missing = [name for name in task.wanted(plan.protocols) if name not in there.protocols]
    if not missing:
        return there
    health = any(PROTOCOLS[name].needs_health for name in missing)
    judged = judge.judge(task.case, replace(plan.choices, method=task.method), part(progress, 0.0, 0.8), health)
    units = {}
    for number, name in enumerate(missing):
        progress(0.8 + 0.2 * number / len(missing), f"Measuring by {name}")
        units[name] = PROTOCOLS[name].measure(judged)
    there = Measured(fingerprint, there.protocols | units, overlay.picture(judged), judged.empty)
    with session.undivided():
        _write(file, json.dumps(asdict(there)))
    return there


def _read(file: Path) -> Measured | None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        protocols = {name: [Unit(**unit) for unit in units] for name, units in stored["protocols"].items()}
        return Measured(stored["fingerprint"], protocols, stored["picture"], stored.get("empty", ()))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # then it is measured again
        return None


def _notes(data: DataSet, plan: Plan, finished: Sequence[Finished], unfit: Mapping[tuple[str, str], str]) -> list[str]:
    """What a reader has to know of all tables of a data set."""
    its = [one for one in finished if one.task.data is data]
    notes = list(data.notes)
    if plan.choices.lungs == judge.GIVEN:
        notes.append("The methods were given the experts' lungs: errors of finding them cost nothing here.")
    notes += [f"Left out: {method}. {_line(why)}" for (name, method), why in unfit.items() if name == data.name]
    in_pictures = dict.fromkeys(one.task.method for one in its if not one.task.case.hu)
    notes += [note for method in in_pictures if (note := picture_pipeline.repeats(base.card(method)))]
    empty = dict.fromkeys(each for one in its for each in one.measured.empty)
    return [*notes, f"Nothing could be looked for in: {', '.join(empty)}."] if empty else notes


def _part(
    data: DataSet, protocol: Protocol, finished: Sequence[Finished], failed: dict[str, str], more: Sequence[str]
) -> tuple[Table, page.Plot]:
    """The table of one data set by one protocol with `more` notes, and what is shown beside it."""
    its = [one for one in finished if one.task.data is data]
    measured: dict[str, dict[str, Sequence[Unit]]] = {}
    for one in its:
        if protocol.name in one.task.wanted([protocol.name]):
            measured.setdefault(one.task.method, {})[one.task.case.name] = one.measured.protocols[protocol.name]
    selected = {method: protocol.select(cases) for method, cases in measured.items()}
    rows, series = [], []
    for method, cases in selected.items():
        kind = base.card(method).kind
        if protocol.kind:
            kind = protocol.kind if kind == base.LABEL_FREE else f"{kind}, {protocol.kind}"
        rows.append(Row(method, kind, protocol.summarise(cases)))
        rows += tables.published(method, data.name, protocol.name)
        pictures = {one.task.case.name: one.measured.picture for one in its if one.task.method == method}
        series.append(page.series(method, protocol.primary, cases, pictures))
    present = {one.task.case.name: one.task.case for one in its}
    reasons = {name: why for name, case in present.items() if (why := left_out(case, protocol))}
    notes = [protocol.caveat, *more]
    there = dict.fromkeys(one.task.method for one in its)
    notes += [f"Left out: {method}. {why}" for method in there if (why := unable(base.card(method), protocol))]
    notes += [f"Left out: {name} ({why})." for name, why in reasons.items()]
    notes += [f"Failed: {name}: {_line(error)}" for name, error in failed.items() if name.startswith(f"{data.name}/")]
    notes += tables.compared(protocol, selected)
    table = Table((data.name, data.title), protocol, len(present) - len(reasons), rows, notes)
    return table, page.Plot(protocol.primary, [one for one in series if one.values])


def _line(text: str) -> str:
    """A message in one line, as a note of a table has to be."""
    return " ".join(text.split())


def _cases(finished: Sequence[Finished], protocols: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("data", "protocol", "method", "case", "unit", "counts", "metric", "value"))
    for one in finished:
        task = one.task
        for protocol in task.wanted(protocols):
            for unit in one.measured.protocols[protocol]:
                start = (task.data.name, protocol, task.method, task.case.name, unit.name, int(unit.counts))
                writer.writerows((*start, name, f"{value:.6g}") for name, value in unit.values.items())
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_atomically(path, text.encode())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.with_name(path.name + ".part").unlink(missing_ok=True)
        raise OutputError(
            f"{path}: can't be written ({error.strerror or error}). Close programs that show it, or free some space."
        ) from error
