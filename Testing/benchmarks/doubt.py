"""The harness of doubt: lesions of foreign make in scans that no network has learned from, found by each method.

    python Testing/benchmarks/doubt.py LIST --root DATA --scans NAME ... [--methods normnet opacitynet]
        [--store opacitynet=FOLDER] [--plantings 2] [--first 0] [--set opacitynet.LESION_PROBABILITY=0.3]
        [--networks opacitynet=1] [--equal 0.5 1.0 2.0]

LIST is a list of scans as for training; NAMES are those that the methods have not seen. Prints the Dice of each kind
and size of the phantom's lesions, what is marked in the untouched scans, and how often voxels of a score are lesion.
The lungs are those of the untouched scan, so that what is measured is the method alone. `--set` gives a constant of a
method's file another value, and `--networks` lets some of its networks vote alone: that is how ablations are made.
`--equal` compares methods that differ in how much they mark: each at the threshold of its score that marks this share
(in %) of the untouched scan.
"""

import argparse
import importlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from LabelFreeCovidSegLib import device, read
from LabelFreeCovidSegLib.evaluation import planted, planting
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training import scanlist
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan

BINS = np.linspace(0.0, 1.0, 6)


class Row:
    """What one method came to."""

    def __init__(self, model: base.Method, shares: Sequence[float]) -> None:
        self.model = model
        self.equal: dict[float, list[planted.PlantedScore]] = {share: [] for share in shares}
        self.lesions: list[planted.PlantedScore] = []
        self.untouched: dict[str, float] = {}
        self.scores: list[np.ndarray] = []
        self.truths: list[np.ndarray] = []


def load(name: str, stores: dict[str, Path]) -> base.Method:
    """A method with the weights of a folder, or with those that are installed."""
    if name not in stores:
        return base.load(name)
    return importlib.import_module(f"LabelFreeCovidSegLib.methods.{name}").load(stores[name])


def judge(listed: ListedScan, rows: list[Row], plantings: range) -> None:
    """Let every method look at one scan, untouched and with lesions."""
    scan, compute = read.read(listed.path), device.choose()
    labels = find_lungs(scan, "classical").labels
    lungs = LungMask(labels * np.isin(labels, SIDES[listed.lungs]), "classical")
    inside = lungs.labels > 0
    free = np.ones(len(labels), dtype=bool)
    for first, last in listed.exclude:
        free[first : last + 1] = False
    healthy = inside & free[:, None, None]
    thresholds: list[np.ndarray] = []
    for row in rows:
        found = row.model.predict(scan, lungs, compute, silent)
        row.untouched[listed.name] = 100 * float(((found.lesion > 0) & healthy).sum() / healthy.sum())
        thresholds.append(np.quantile(found.score[healthy], [1 - share / 100 for share in row.equal]))
    for seed in plantings:
        known = planting.plant(scan, lungs.labels, free, seed)
        for row, limits in zip(rows, thresholds, strict=True):
            found = row.model.predict(known.scan, lungs, compute, silent)
            own, *equal = planted.score_all([found.lesion, *(found.score > limit for limit in limits)], known)
            row.lesions += own
            for share, scores in zip(row.equal, equal, strict=True):
                row.equal[share] += scores
            row.scores.append(found.score[healthy])
            row.truths.append(known.lesions[healthy] > 0)


def print_tables(rows: dict[str, Row], names: list[str]) -> None:
    """Print everything in Markdown."""
    print(f"| | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    tables = [planted.means(row.lesions) for row in rows.values()]
    everything = next(iter(rows.values())).lesions
    for kind, radius in sorted(tables[0]):
        count = sum((one.kind, one.radius_mm) == (kind, radius) for one in everything)
        print(
            f"| {kind}, {radius:.0f} mm ({count}) |", " | ".join(f"{table[kind, radius]:.2f}" for table in tables), "|"
        )
    for kind in sorted({one.kind for one in everything}):
        dice = [np.mean([one.dice for one in row.lesions if one.kind == kind]) for row in rows.values()]
        print(f"| **{kind}** |", " | ".join(f"{mean:.3f}" for mean in dice), "|")
    dice = [np.mean([one.dice for one in row.lesions]) for row in rows.values()]
    print("| **all** |", " | ".join(f"{mean:.3f}" for mean in dice), "|")
    for name in names:
        print(f"| % of untouched {name} |", " | ".join(f"{row.untouched[name]:.2f}" for row in rows.values()), "|")
    for share in next(iter(rows.values())).equal:
        dice = [np.mean([one.dice for one in row.equal[share]]) for row in rows.values()]
        print(f"| all, where {share} % is marked |", " | ".join(f"{mean:.3f}" for mean in dice), "|")
    for low, high in pairwise(BINS):
        cells = []
        for row in rows.values():
            score, lesion = np.concatenate(row.scores), np.concatenate(row.truths)
            here = (score > low) & (score <= high)
            cells.append(f"{lesion[here].mean():.2f} of {score[here].mean():.2f}" if here.any() else "")
        print(f"| lesion at scores from {low:.1f} to {high:.1f} |", " | ".join(cells), "|")


def main() -> None:
    """Plant, segment, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--scans", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(base.REGISTRY))
    parser.add_argument("--store", action="append", default=[], metavar="METHOD=FOLDER")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.CONSTANT=VALUE")
    parser.add_argument("--networks", action="append", default=[], metavar="METHOD=PLACE,...")
    parser.add_argument("--equal", nargs="+", type=float, default=[], metavar="PERCENT")
    parser.add_argument("--plantings", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="seed of the first planting; the others follow")
    arguments = parser.parse_args()
    stores = {name: Path(folder) for name, folder in (each.split("=", 1) for each in arguments.store)}
    for constant, value in (each.split("=", 1) for each in arguments.set):
        method, _, name = constant.partition(".")
        module = importlib.import_module(base.everything()[method])
        assert isinstance(getattr(module, name), float), f"{constant} is no number"
        setattr(module, name, float(value))
    rows = {name: Row(load(name, stores), arguments.equal) for name in arguments.methods}
    for name, places in (each.split("=", 1) for each in arguments.networks):
        model = rows[name].model
        model.networks = tuple(model.networks[int(place)] for place in places.split(","))
    listed = {scan.name: scan for scan in scanlist.read(arguments.list, root=arguments.root)}
    for name in arguments.scans:
        judge(listed[name], list(rows.values()), range(arguments.first, arguments.first + arguments.plantings))
    print_tables(rows, arguments.scans)


if __name__ == "__main__":
    main()
