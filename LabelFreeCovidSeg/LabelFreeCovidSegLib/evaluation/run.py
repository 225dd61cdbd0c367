"""Every method on every case of every data set, measured by every protocol.

A case's result is one file, written when it is complete. A run goes on where an earlier one stopped, however that
ended, and comes to the same tables.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib import __version__, device, lungs, output, picture_pipeline, store
from LabelFreeCovidSegLib.errors import CancelledError, DataSetError, LabelFreeCovidSegError, OutputError
from LabelFreeCovidSegLib.evaluation import judge, overlay, page, tables
from LabelFreeCovidSegLib.evaluation.datasets import Case, DataSet
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS, Protocol, Unit
from LabelFreeCovidSegLib.evaluation.tables import Row, Table
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import Progress, part, titled
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session

CASES = "cases"
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

    def file(self, out: Path) -> Path:
        """Where its result lies."""
        return out / CASES / self.data.name / self.method / f"{self.case.name}.json"

    def wanted(self, protocols: Sequence[str]) -> list[str]:
        """Those of `protocols` that count this case."""
        return [name for name in protocols if not left_out(self.case, PROTOCOLS[name])]


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
    device.choose(plan.choices.device, plan.choices.precision)
    cards, weights = {}, {}
    for method in plan.methods:
        model = base.load(method)
        cards[method], weights[method] = model.card, model.weights
    tasks, unfit = [], {}
    for task in _tasks(plan):
        if why := judge.unfit(cards[task.method], weights[task.method], task.case):
            unfit[task.data.name, task.method] = why
        else:
            tasks.append(task)
    finished: list[Finished] = []
    failed: dict[str, str] = {}
    for number, task in enumerate(tasks):
        share = part(progress, 0.98 * number / len(tasks), 0.98 * (number + 1) / len(tasks))
        name = f"{task.data.name}/{task.method}/{task.case.name}"
        try:
            measured = _measured(task, plan, weights[task.method], out, session, titled(share, name))
            finished.append(Finished(task, measured))
        except (CancelledError, OutputError):
            raise
        except LabelFreeCovidSegError as error:
            failed[name] = str(error)
        except Exception as error:  # a fault of the program in one case must not keep the others from being done
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
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
    with session.last_step():
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


def _measured(task: Task, plan: Plan, weights: str, out: Path, session: Session, progress: Progress) -> Measured:
    """The case's result, from its file as far as that has it."""
    file = task.file(out)
    finder = lungs.label(plan.choices.lungs, picture=not task.case.hu)
    facts: list[Any] = [__version__, task.method, weights, finder, task.case.index]
    if not task.case.hu:
        facts.append((task.case.orientation, task.case.equalised))
    facts += [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in task.case.files]
    fingerprint = store.sha256(json.dumps(facts).encode())
    there = _read(file)
    if there is None or there.fingerprint != fingerprint:
        there = Measured(fingerprint)
    missing = [name for name in task.wanted(plan.protocols) if name not in there.protocols]
    if not missing:
        return there
    judged = judge.judge(task.case, replace(plan.choices, method=task.method), part(progress, 0.0, 0.8))
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
    notes += [f"Left out: {method}. {why}" for (name, method), why in unfit.items() if name == data.name]
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
        if not left_out(one.task.case, protocol):
            measured.setdefault(one.task.method, {})[one.task.case.name] = one.measured.protocols[protocol.name]
    selected = {method: protocol.select(cases) for method, cases in measured.items()}
    rows, series = [], []
    for method, cases in selected.items():
        rows.append(Row(method, protocol.kind or base.card(method).kind, protocol.summarise(cases)))
        rows += tables.published(method, data.name, protocol.name)
        pictures = {one.task.case.name: one.measured.picture for one in its if one.task.method == method}
        series.append(page.series(method, protocol.primary, cases, pictures))
    present = {one.task.case.name: one.task.case for one in its}
    reasons = {name: why for name, case in present.items() if (why := left_out(case, protocol))}
    notes = [protocol.caveat, *more]
    notes += [f"Left out: {name} ({why})." for name, why in reasons.items()]
    notes += [f"Failed: {name}: {error}" for name, error in failed.items() if name.startswith(f"{data.name}/")]
    notes += tables.compared(protocol, selected)
    table = Table((data.name, data.title), protocol, len(present) - len(reasons), rows, notes)
    return table, page.Plot(protocol.primary, [one for one in series if one.values])


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
