"""How the papers measured, and how we do: eight ways from judged cases to a line of a table.

A protocol measures each case by itself, so that results can be kept, and summarises all cases at the end. Each one
carries what a reader has to know when comparing its numbers with another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from LabelFreeCovidSegLib.evaluation.judged import Judged, resized
from LabelFreeCovidSegLib.evaluation.metrics import (
    NAN,
    Counts,
    Detection,
    SurfaceDistances,
    areas_under_curves,
    twelve_regions,
)
from LabelFreeCovidSegLib.evaluation.statistics import Summary, bootstrap, normal_summary, summary
from LabelFreeCovidSegLib.scan import bounding_box

ORACLE = "oracle"
"""The kind of a row into which labels of the test enter; see `methods.base.Card.kind` for the others."""

LESION_NSD_MM, LUNG_NSD_MM = 3.0, 1.0
"""Tolerances of the COVID-19-CT-Seg benchmark (Ma et al. 2021)."""
A_SPACING_MM, C_SPACING_MM = (1.0, 1.0, 1.0), (1.0, 0.8, 0.8)
B_SHAPE = (32, 128, 128)
B_LEAST_PIXELS, B_RELATIVE = 163, 0.2
"""More pixels than this are more than 1 % of any lung in 128 x 128, the other condition of the released evaluation."""
BRIGHT_HU = -500.0
P_HEALTHY = 0.95
D_SIDE = 512
REGION_LEAST_ML = 0.01
THRESHOLDS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Unit:
    """What is counted once: a case, or a slice or region of one.

    Attributes:
        values: name of a number -> the number, NaN if it is not defined.
        counts: False if it does not enter means, because there was nothing to find and nothing was found.
    """

    name: str
    values: Mapping[str, float]
    counts: bool = True


NOT_SHARES = frozenset({"false lesions", "HD95 (mm)", "volume error (mL)", "threshold (score)"})
"""Numbers that are not printed in percent."""

Cases = Mapping[str, Sequence[Unit]]
"""Name of a case -> its units."""


def means(cases: Cases) -> dict[str, Summary]:
    """Mean ± sd of each number over all units, with a bootstrap interval."""
    return _each(cases, summary)


def normal_means(cases: Cases) -> dict[str, Summary]:
    """Mean of each number over all units, with the normal interval."""
    return _each(cases, normal_summary)


def _each(cases: Cases, of: Callable[[Sequence[float]], Summary]) -> dict[str, Summary]:
    columns: dict[str, list[float]] = {}
    for units in cases.values():
        for unit in units:
            for name, value in unit.values.items():
                columns.setdefault(name, []).append(value if unit.counts else NAN)
    return {name: of(values) for name, values in columns.items()}


def _as_they_are(cases: Cases) -> Cases:
    return cases


@dataclass(frozen=True)
class Protocol:
    """A way to measure.

    Attributes:
        unit, grid, threshold: what is counted once, on which voxels, and how a score becomes a mask.
        caveat: what a reader of its table has to know.
        primary: the number by which methods and cases are compared.
        measure: one case.
        select: what needs all cases before any can be summarised, such as a threshold chosen on them.
        summarise: all cases.
        needs_mm, needs_hu: whether pictures can't be measured.
        needs_health: whether only methods can that say how probably a voxel is healthy.
        kind: `ORACLE` if labels of the test enter the result, else the method's.
    """

    name: str
    unit: str
    grid: str
    threshold: str
    caveat: str
    primary: str
    measure: Callable[[Judged], list[Unit]]
    select: Callable[[Cases], Cases] = field(default=_as_they_are)
    summarise: Callable[[Cases], dict[str, Summary]] = field(default=means)
    needs_mm: bool = False
    needs_hu: bool = False
    needs_health: bool = False
    kind: str = ""


def _overlap(counts: Counts, prefix: str = "") -> dict[str, float]:
    return {f"{prefix}DSC": counts.dsc, f"{prefix}PSC": counts.psc, f"{prefix}SEN": counts.sen}


def _volume(case: Judged) -> list[Unit]:
    counts, lung = Counts.of(case.found, case.truth), case.lung
    auc, average_precision = areas_under_curves(case.score[lung], case.truth[lung])
    overlap, detection = _overlap(counts), Detection.of(case.found, case.truth)
    marks = {
        "SPC in lung": Counts.of(case.found[lung], case.truth[lung]).spc,
        "SPC whole image": counts.spc,
        "AUC": auc,
        "AP": average_precision,
        "lesions detected": detection.sen,
        "false lesions": detection.false,
    }
    if case.in_mm:
        surfaces = SurfaceDistances.between(case.found, case.truth, case.grid.spacing_mm)
        overlap |= {"NSD 3 mm": surfaces.nsd(LESION_NSD_MM), "HD95 (mm)": surfaces.hd95_mm}
        marks["volume error (mL)"] = (counts.fp - counts.fn) * case.grid.voxel_ml
    return [Unit("lesions", overlap, not counts.empty), Unit("marks", marks), *_lungs(case)]


def _lungs(case: Judged) -> list[Unit]:
    if case.true_lungs is None:
        return []
    lungs = case.lungs > 0
    values = {"lung DSC": Counts.of(lungs, case.true_lungs).dsc}
    if case.in_mm:
        surfaces = SurfaceDistances.between(lungs, case.true_lungs, case.grid.spacing_mm)
        values["lung NSD 1 mm"] = surfaces.nsd(LUNG_NSD_MM)
    return [Unit("lungs", values)]


def _at(spacing_mm: tuple[float, float, float]) -> Callable[[Judged], list[Unit]]:
    def measure(case: Judged) -> list[Unit]:
        anything = case.found | case.truth | (case.lungs > 0)
        if not anything.any():
            return [Unit("case", _overlap(Counts(0, 0, 0, 0)), counts=False)]
        box = bounding_box(anything, (1, 1, 1))
        counts = Counts.of(*case.masks_on(case.grid.covering(box, spacing_mm), case.found, case.truth))
        return [Unit("case", _overlap(counts), not counts.empty)]

    return measure


def _b_slices(case: Judged) -> list[Unit]:
    if not case.lungs.any():
        return []
    depth = min(B_SHAPE[0], case.grid.shape[0])
    grid = resized(case.grid, bounding_box(case.lungs > 0), (depth, *B_SHAPE[1:]))
    masks = case.masks_on(grid, case.truth, case.found, case.lungs)
    units = []
    for k, (score, truth, found, lungs) in enumerate(zip(case.score_on(grid), *masks, strict=True)):
        if np.count_nonzero(truth) <= B_LEAST_PIXELS:
            continue
        relative = Counts.of((score > B_RELATIVE * score.max()) & lungs, truth)
        values = {"DSC": relative.dsc, "SPC whole image": relative.spc, "SEN": relative.sen}
        units.append(Unit(f"slice {k}", values | {"DSC of its own mask": Counts.of(found, truth).dsc}))
    return units


def _c_bright(case: Judged) -> list[Unit]:
    if case.health is None:
        raise ValueError(f"{case.grid}: no probability of health")
    bright = (case.lungs > 0) & (case.hu >= BRIGHT_HU)
    healthy, p = ~case.truth[bright], case.health[bright]
    counts = Counts.of(p > P_HEALTHY, healthy)
    auc, _ = areas_under_curves(p, healthy)
    return [Unit("case", {"PSC": counts.psc, "SEN": counts.sen, "SPC": counts.spc, "AUC": auc}, not counts.empty)]


def _d_slices(case: Judged) -> list[Unit]:
    classes = {"infection": (case.found, case.truth)}
    if case.found_classes is not None and case.true_classes is not None:
        for label, name in ((1, "ground glass"), (2, "consolidation")):
            classes[name] = case.found_classes == label, case.true_classes == label
    if case.true_lungs is not None:
        classes["lung"] = case.lungs > 0, case.true_lungs
    k, *sides = case.grid.shape
    grid = resized(case.grid, (slice(0, k), *(slice(0, side) for side in sides)), (k, D_SIDE, D_SIDE))
    units = []
    for name, pair in classes.items():
        for number, (found, truth) in enumerate(zip(*case.masks_on(grid, *pair), strict=True)):
            counts = Counts.of(found, truth)
            values = {f"{name} DSC": counts.dsc, f"{name} SEN": counts.sen, f"{name} SPC": counts.spc}
            units.append(Unit(f"slice {number} {name}", values, not counts.empty))
    return units


def _regions(case: Judged) -> list[Unit]:
    regions = twelve_regions(case.lungs)
    voxels = [np.bincount(regions[mask], minlength=13) * case.grid.voxel_ml for mask in (case.truth, case.found)]
    truth, found = (volumes >= REGION_LEAST_ML - 1e-9 for volumes in voxels)
    return [
        Unit(f"region {n}", {name: float(getattr(Counts.of(found[n], truth[n]), name)) for name in _FOURS})
        for n in np.unique(regions[regions > 0])
    ]


_FOURS = ("tp", "fp", "fn", "tn")


def _pooled(cases: Cases) -> dict[str, Summary]:
    """ACC, PSC and SEN of all regions of all cases together; the interval resamples cases."""
    sums = [np.array([sum(unit.values[name] for unit in units) for units in cases.values()]) for name in _FOURS]
    formulas: dict[str, Callable[..., np.ndarray]] = {
        "ACC": lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn),
        "PSC": lambda tp, fp, fn, tn: tp / (tp + fp),
        "SEN": lambda tp, fp, fn, tn: tp / (tp + fn),
    }

    def summarised(formula: Callable[..., np.ndarray]) -> Summary:
        def statistic(*counts: np.ndarray, axis: int = -1) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                return formula(*(np.sum(count, axis=axis, dtype=float) for count in counts))

        return Summary(float(statistic(*sums)), NAN, *bootstrap(sums, statistic), sums[0].size)

    return {name: summarised(formula) for name, formula in formulas.items()}


def _every_threshold(case: Judged) -> list[Unit]:
    """tp and fp of `score >= t` in the lungs for each of `THRESHOLDS`, and all that there is to find."""
    lung = case.lungs > 0
    steps = np.searchsorted(THRESHOLDS.astype(np.float32), case.score[lung], side="right")
    values = {"lesion voxels": float(np.count_nonzero(case.truth))}
    for name, of in (("tp", case.truth[lung]), ("fp", ~case.truth[lung])):
        at_least = np.bincount(steps[of], minlength=THRESHOLDS.size + 1)[::-1].cumsum()[::-1][1:]
        values |= {f"{name} at {t:.2f}": float(count) for t, count in zip(THRESHOLDS, at_least, strict=True)}
    return [Unit("case", values)]


def _best_threshold(cases: Cases) -> Cases:
    """DSC, PSC and SEN of each case at the threshold with the best mean DSC over all cases; the lowest of equals."""

    def at(threshold: float, unit: Unit) -> Unit:
        tp, fp = (int(unit.values[f"{name} at {threshold:.2f}"]) for name in ("tp", "fp"))
        counts = Counts(tp, fp, int(unit.values["lesion voxels"]) - tp, 0)
        return Unit(unit.name, _overlap(counts) | {"threshold (score)": threshold}, not counts.empty)

    def mean_dsc(threshold: float) -> float:
        units = [at(threshold, unit) for units in cases.values() for unit in units]
        return float(np.mean([unit.values["DSC"] for unit in units if unit.counts] or [0.0]))

    best = max((float(t) for t in THRESHOLDS), key=mean_dsc)
    return {name: [at(best, unit) for unit in units] for name, units in cases.items()}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "volume", "case", "the CT's own", "frozen before the test",
            "Every case counts once, healthy slices included. Cases without lesion in which none was found are left "
            "out of the means. HD95 has no value where nothing was found: it is the mean of the other cases.",
            "DSC", _volume,
        ),
        Protocol(
            "A", "case", "1 x 1 x 1 mm", "the method's own (k-means in the cycle-GAN paper)",
            "Measured on the working grid of the cycle-GAN paper, not on the CT's.",
            "DSC", _at(A_SPACING_MM), needs_mm=True,
        ),
        Protocol(
            "B_slice", "slice with more than 163 lesion pixels of 128 x 128 and more than 1 % of the lung",
            "the lungs' box in 32 x 128 x 128", "0.2 of the highest score in the slice",
            "Healthy and lightly infected slices are left out, so false marks there cost nothing and DSC and SEN come "
            "out too high. SPC counts the background around the lungs. Slices of one case are not independent, so the "
            "intervals are too narrow. Only the 3-D GAN's score was made for this threshold: see the last column for "
            "others.",
            "DSC", _b_slices,
        ),
        Protocol(
            "C", "case", "0.8 x 0.8 x 1.0 mm (presumably)", "fixed post-processing",
            "Cases that NormNet's authors left out are left out.",
            "DSC", _at(C_SPACING_MM), needs_mm=True,
        ),
        Protocol(
            "C_bright", "case", "the CT's own", "probability of health above 0.95",
            "Counts only lung at and above -500 HU, and healthy voxels are the positive class: PSC and SEN are those "
            "of health. Of several networks the median counts, as in their vote.",
            "AUC", _c_bright, needs_mm=True, needs_hu=True, needs_health=True,
        ),
        Protocol(
            "D_slice", "slice and class", "512 x 512", "the method's own",
            "Each class against the rest, over slices: SPC counts the whole slice, and the interval is "
            "mean ± 1.96 sd / √n as in Chen et al., too narrow because slices of one case are not independent. Slices "
            "without a class in which none was found are left out of its means. Which slices the paper tested is not "
            "known. Ground glass and consolidation are told apart by density for methods that do not. Lungs are "
            "those that the method was given to look in, lesions included, and not a class of its network: no "
            "published number stands beside them.",
            "infection DSC", _d_slices, summarise=normal_means,
        ),
        Protocol(
            "A_12region", "region: each lung in 3 x 2", "the CT's own", "10 mm³ of lesion in the region",
            "Says whether a region has lesion, not where. The paper does not define its regions beyond 'equal'.",
            "ACC", _regions, summarise=_pooled, needs_mm=True,
        ),
        Protocol(
            "oracle_threshold", "case", "the CT's own", "best mean DSC on these very cases, in steps of 0.01",
            "ORACLE: the threshold was chosen with the labels of the test. An upper bound, and never saved.",
            "DSC", _every_threshold, select=_best_threshold, kind=ORACLE,
        ),
    )
}  # fmt: skip
