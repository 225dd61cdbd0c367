"""Tables of results as Markdown, CSV and LaTeX, the published numbers beside ours."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from LabelFreeCovidSegLib.evaluation.protocols import NOT_SHARES, Cases, Protocol
from LabelFreeCovidSegLib.evaluation.statistics import Difference, Summary, paired

NAN = float("nan")
OURS = "this run"
_PUBLISHED = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class Row:
    """One line: a method, and what it came to.

    Attributes:
        kind: "label-free", "supervised", "oracle", both of these, or "published".
        numbers: name -> summary, shares as fractions.
        source: `OURS`, or where the numbers were published.
    """

    method: str
    kind: str
    numbers: Mapping[str, Summary]
    source: str = OURS


@dataclass(frozen=True)
class Table:
    """Everything about one data set measured by one protocol.

    Attributes:
        data: the name and the title of the data set.
        cases: how many cases were measured.
        notes: what a reader has to know, one sentence each; the protocol's caveat is the first.
    """

    data: tuple[str, str]
    protocol: Protocol
    cases: int
    rows: Sequence[Row]
    notes: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """The numbers that any of our rows has, in their order."""
        return list(dict.fromkeys(name for row in self.rows if row.source == OURS for name in row.numbers))

    def counted(self, row: Row) -> str:
        """Over how many units a row's primary number goes; empty if that is not known."""
        number = row.numbers.get(self.protocol.primary)
        return str(number.n) if number and number.n else ""

    @property
    def title(self) -> str:
        """What is measured, and how."""
        return f"{self.data[1]}, protocol {self.protocol.name}"

    @property
    def how(self) -> str:
        """Unit, grid and threshold in a sentence."""
        protocol = self.protocol
        return f"{self.cases} cases. Unit: {protocol.unit}. Grid: {protocol.grid}. Threshold: {protocol.threshold}."


def published(method: str, data: str, protocol: str) -> list[Row]:
    """What was published of a method on a data set by a protocol: a row a source, if anything was."""
    sources: dict[str, dict[str, Summary]] = {}
    for line in _lines():
        if (line["method"], line["data"], line["protocol"]) == (method, data, protocol):
            mean, sd, half = (float(line[name] or NAN) / 100 for name in ("mean", "sd", "half_interval"))
            sources.setdefault(line["source"], {})[line["metric"]] = Summary(mean, sd, mean - half, mean + half, 0)
    return [Row(method, "published", numbers, source) for source, numbers in sources.items()]


@cache
def _lines() -> tuple[dict[str, str], ...]:
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def compared(protocol: Protocol, by_method: Mapping[str, Cases]) -> list[str]:
    """Sentences that compare each method with the first, over the cases that both have.

    A case counts once, by the mean of its units: slices of one case are not independent, which the test wants.

    Args:
        by_method: method -> its selected units.
    """
    first = next(iter(by_method), "")
    return [
        _sentence(protocol.primary, first, method, paired(*_together(protocol.primary, by_method[first], cases)))
        for method, cases in by_method.items()
        if method != first and any(protocol.primary in unit.values for units in cases.values() for unit in units)
    ]


def _together(metric: str, one: Cases, other: Cases) -> tuple[list[float], list[float]]:
    means: list[tuple[float, float]] = []
    for case in one:
        values = [
            {unit.name: unit.values[metric] for unit in cases.get(case, ()) if metric in unit.values and unit.counts}
            for cases in (one, other)
        ]
        pairs = [(values[0][name], values[1][name]) for name in values[0] if name in values[1]]
        if pairs:
            means.append(tuple(np.mean(pairs, axis=0).tolist()))
    return [ours for ours, _ in means], [theirs for _, theirs in means]


def _sentence(metric: str, one: str, other: str, difference: Difference) -> str:
    interval = "" if math.isnan(difference.low) else f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    return (
        f"{metric}: {one} - {other} = {100 * difference.mean:+.1f}{interval} points over the {difference.n} cases "
        f"that both have (Wilcoxon signed-rank p = {difference.p:.2g}, not corrected for the number of comparisons)."
    )


def cell(name: str, number: Summary | None) -> str:
    """A number as text: percent with one decimal unless it is no share; mean ± sd [95 % interval]."""
    if number is None or math.isnan(number.mean):
        return ""
    scale, digits = (1, 2) if name in NOT_SHARES else (100, 1)
    text = f"{scale * number.mean:.{digits}f}"
    if not math.isnan(number.sd):
        text += f" ± {scale * number.sd:.{digits}f}"
    if not math.isnan(number.low):
        text += f" [{scale * number.low:.{digits}f}, {scale * number.high:.{digits}f}]"
    return text


def header(name: str) -> str:
    """A column's title with its unit."""
    return name if name in NOT_SHARES else f"{name} (%)"


def markdown(tables: Sequence[Table]) -> str:
    """All tables, each with what has to be known of it."""
    return "\n".join(["# Evaluation", "", HOW_TO_READ, "", *(_markdown(table) for table in tables)])


HOW_TO_READ = (
    "Mean ± standard deviation (ddof 0) [95 % confidence interval by bootstrap, unless the protocol says otherwise]. "
    "Rows of the kind *supervised* learnt from lesion labels; of *oracle*, labels of the test chose a threshold."
)


def _markdown(table: Table) -> str:
    columns = table.columns
    lines = [
        f"## {table.title}", "", table.how, "",
        "| " + " | ".join(["method", "kind", "n", *map(header, columns), "source"]) + " |",
        "|" + "---|" * (len(columns) + 4),
    ]  # fmt: skip
    for row in table.rows:
        cells = [
            row.method,
            row.kind,
            table.counted(row),
            *(cell(name, row.numbers.get(name)) for name in columns),
            row.source,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes), ""])


COLUMNS = ("data", "protocol", "method", "kind", "metric", "mean", "sd", "low", "high", "n", "source")


def as_csv(tables: Sequence[Table]) -> str:
    """One line a number, shares as fractions; what is not defined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for row in table.rows:
            for name, number in row.numbers.items():
                values = [_plain(value) for value in (number.mean, number.sd, number.low, number.high)]
                start = [table.data[0], table.protocol.name, row.method, row.kind, name]
                writer.writerow([*start, *values, number.n or "", row.source])
    return text.getvalue()


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def latex(tables: Sequence[Table]) -> str:
    """Each table as a `table` environment (packages booktabs and graphicx)."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    columns = table.columns
    heads = [_tex(head) for head in ["method", "kind", "n", *map(header, columns), "source"]]
    lines = [
        r"\begin{table}", r"\centering",
        rf"\caption{{{_tex(' '.join([table.title + '.', table.how, *table.notes]))}}}",
        r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{'l' * (len(columns) + 4)}}}", r"\toprule",
        " & ".join(heads) + r" \\", r"\midrule",
    ]  # fmt: skip
    for row in table.rows:
        numbers = [_tex(cell(name, row.numbers.get(name))) for name in columns]
        lines.append(
            " & ".join([_tex(row.method), _tex(row.kind), table.counted(row), *numbers, _tex(row.source)]) + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "³": r"$^3$", "√": r"$\surd$",
    }
)  # fmt: skip


def _tex(text: str) -> str:
    return text.translate(_TEX)
