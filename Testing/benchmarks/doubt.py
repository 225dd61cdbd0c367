"""The harness of doubt: the phantom's lesions, planted in scans that no network has learned from, found by each method.

    python Testing/benchmarks/doubt.py --root DATA [--methods normnet opacitynet] [--store FOLDER] [--plantings 3]

Prints the Dice of each kind and size, what is marked where nothing was planted, and how often voxels of a score are
lesion. The lungs are those of the untouched scan, so that what is measured is the method alone.
"""

import argparse
import importlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from LabelFreeCovidSegLib import device, read
from LabelFreeCovidSegLib.evaluation import planted, planting
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import silent

SCANS = {"4dlung-113-left-mass": (1,), "lung1-003": (1, 2)}
"""Folder -> the lungs to plant in, 1 right and 2 left."""
BINS = np.linspace(0.0, 1.0, 6)


def main() -> None:
    """Plant, segment, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["normnet", "threshold"])
    parser.add_argument("--store", action="append", default=[], metavar="METHOD=FOLDER")
    parser.add_argument("--plantings", type=int, default=3)
    arguments = parser.parse_args()
    stores = {name: Path(folder) for name, folder in (each.split("=", 1) for each in arguments.store)}
    models = {}
    for name in arguments.methods:
        if name in stores:
            models[name] = importlib.import_module(f"LabelFreeCovidSegLib.methods.{name}").load(stores[name])
        else:
            models[name] = base.load(name)
    compute = device.choose()
    rows = {name: [] for name in models}
    clear = {name: {} for name in models}
    scored = {name: [] for name in models}
    for folder, sides in SCANS.items():
        scan = read.read(next((arguments.root / folder).glob("ct.*")))
        labels = find_lungs(scan, "classical").labels
        lungs = LungMask(labels * np.isin(labels, sides), "classical")
        free = np.ones(len(labels), dtype=bool)
        for name, model in models.items():
            found = model.predict(scan, lungs, compute, silent)
            clear[name][folder] = 100 * float(found.lesion.sum() / np.count_nonzero(lungs.labels))
        for seed in range(arguments.plantings):
            known = planting.plant(scan, lungs.labels, free, seed)
            for name, model in models.items():
                found = model.predict(known.scan, lungs, compute, silent)
                rows[name] += planted.score(found.lesion, known)
                inside = lungs.labels > 0
                scored[name].append((found.score[inside], known.lesions[inside] > 0))
    cells = list(planted.means(next(iter(rows.values()))))
    print(f"| | {' | '.join(models)} |\n|---|{'---|' * len(models)}")
    tables = {name: planted.means(of) for name, of in rows.items()}
    for kind, radius in sorted(cells):
        count = sum((row.kind, row.radius_mm) == (kind, radius) for row in rows[arguments.methods[0]])
        dice = " | ".join(f"{table[kind, radius]:.2f}" for table in tables.values())
        print(f"| {kind}, {radius:.0f} mm ({count}) | {dice} |")
    for kind in dict.fromkeys(kind for kind, _ in sorted(cells)):
        mean = [np.mean([row.dice for row in of if row.kind == kind]) for of in rows.values()]
        print(f"| **{kind}** | " + " | ".join(f"{dice:.3f}" for dice in mean) + " |")
    print("| **all** | " + " | ".join(f"{np.mean([row.dice for row in of]):.3f}" for of in rows.values()) + " |")
    for folder in SCANS:
        print(f"| untouched {folder}, % | " + " | ".join(f"{share[folder]:.2f}" for share in clear.values()) + " |")
    for low, high in pairwise(BINS):
        cells = []
        for of in scored.values():
            score, lesion = (np.concatenate(part) for part in zip(*of, strict=True))
            here = (score > low) & (score <= high)
            cells.append(f"{lesion[here].mean():.2f} of {score[here].mean():.2f}" if here.any() else "")
        print(f"| lesion at scores {low:.1f} to {high:.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
