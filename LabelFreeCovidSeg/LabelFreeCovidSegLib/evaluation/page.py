"""The results as one HTML page that needs nothing beside it: tables, box plots, and the best, median and worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LabelFreeCovidSegLib import report
from LabelFreeCovidSegLib.evaluation import overlay, tables
from LabelFreeCovidSegLib.evaluation.protocols import Cases
from LabelFreeCovidSegLib.evaluation.tables import Table


@dataclass(frozen=True)
class Box:
    """A box plot: quartiles, and whiskers to the outermost values within 1.5 interquartile ranges."""

    low: float
    first: float
    median: float
    third: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Box:
        """Of at least one value."""
        numbers = np.asarray(values, dtype=float)
        first, median, third = np.percentile(numbers, (25, 50, 75))
        reach = 1.5 * (third - first)
        within = numbers[(numbers >= first - reach) & (numbers <= third + reach)]
        return cls(*map(float, (within.min(), first, median, third, within.max())))


@dataclass(frozen=True)
class Shown:
    """A case in a picture."""

    which: str
    case: str
    value: float
    picture: str


@dataclass(frozen=True)
class Series:
    """A method in a plot.

    Attributes:
        values: of the counted units.
        shown: its best, median and worst case.
    """

    method: str
    values: Sequence[float]
    shown: Sequence[Shown]

    @property
    def box(self) -> Box:
        """Its box plot."""
        return Box.of(self.values)


@dataclass(frozen=True)
class Plot:
    """Methods side by side in one number, a share."""

    metric: str
    series: Sequence[Series]


def series(method: str, metric: str, cases: Cases, pictures: Mapping[str, str]) -> Series:
    """What is shown of a method: values of `metric`, and pictures of its best, median and worst case."""
    values = {
        name: [
            unit.values[metric]
            for unit in units
            if unit.counts and metric in unit.values and np.isfinite(unit.values[metric])
        ]
        for name, units in cases.items()
    }
    ranked = sorted((-float(np.mean(its)), name) for name, its in values.items() if its)
    places = {0: "only"} if len(ranked) == 1 else {0: "best", len(ranked) - 1: "worst"}
    if len(ranked) > 2:
        places = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
    shown = [Shown(which, ranked[n][1], -ranked[n][0], pictures[ranked[n][1]]) for n, which in places.items() if ranked]
    return Series(method, [value for its in values.values() for value in its], shown)


def render(parts: Sequence[tuple[Table, Plot]]) -> str:
    """The page."""
    return report.template(Path(__file__).with_name("evaluation.html.j2")).render(
        parts=parts,
        cell=tables.cell,
        header=tables.header,
        how_to_read=tables.HOW_TO_READ.replace("*", ""),
        truth_rgb=overlay.TRUTH_RGB,
        found_rgb=overlay.FOUND_RGB,
    )
