"""What networks make of the scans that they never saw: false marks, planted lesions, and five models against one.

    python Testing/benchmarks/left_out.py FOLDER LIST --root DATA -o OUT [--lungs LUNGS] [--plantings 2]

FOLDER is what `train leave-one-out` leaves, LIST the list of scans that it was given. OUT gets FOLD.json and pictures
of each fold; a fold whose FOLD.json is of the same networks (the lungs' too), precision and plantings is not judged
again. LUNGS is "classical", a folder of the lung network's own folds, or "untouched": the classical lungs of the scan
before lesions were planted in it.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from LabelFreeCovidSegLib import device, read
from LabelFreeCovidSegLib.evaluation import left_out, planted, planting
from LabelFreeCovidSegLib.evaluation.left_out import PERFECT, VOTE
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs, lungnet
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Scan
from LabelFreeCovidSegLib.store import read_manifest, write_atomically
from LabelFreeCovidSegLib.training import scanlist
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan
from look import BLUE, COLUMNS, GREEN, RED, write_sheet

CLASSICAL, UNTOUCHED = "classical", "untouched"


def lungs_of(scan: Scan, name: str, choice: str, untouched: LungMask) -> LungMask:
    """The lungs of `scan`, found by networks that did not see the scan called `name` if `choice` is a folder."""
    if choice == UNTOUCHED:
        return untouched
    if choice == CLASSICAL:
        return find_lungs(scan, CLASSICAL)
    return lungnet.find(scan, silent, lung_store(name, choice))


def lung_store(name: str, choice: str) -> Path:
    """The lung networks in the folder `choice` that did not see the scan called `name`."""
    (fold,) = (fold for fold in Path(choice).iterdir() if name in fold.name.split("+"))
    return fold / "models"


def judge(store: Path, listed: ListedScan, choice: str, plantings: int, out: Path) -> dict:
    """Everything about one scan, in plain JSON; pictures go to `out`."""
    model, compute = normnet.load(store), device.choose()
    seeds = read_manifest(store)["normnet"].recipe["seeds"]
    names = [f"seed {seed}" for seed in seeds]
    scan = read.read(listed.path)
    untouched = find_lungs(scan, "classical")
    free = np.ones(scan.hu.shape[0], dtype=bool)
    for first, last in listed.exclude:
        free[first : last + 1] = False
    lungs = lungs_of(scan, listed.name, choice, untouched)
    sources = [lungs.source]
    found = left_out.masks(model, names, scan, lungs, compute)
    marks = left_out.false_marks(found, lungs.labels * np.isin(lungs.labels, SIDES[listed.lungs]), free, scan.grid)
    if marks.worst:
        masks = {BLUE: lungs.labels > 0, RED: found[VOTE]}
        write_sheet(out / f"{listed.name}-false.png", scan.hu, masks, [k for k, _ in marks.worst])
    rows, far = [], []
    healthy = untouched.labels * np.isin(untouched.labels, SIDES[listed.lungs])
    for seed in range(plantings):
        infected = planting.plant(scan, healthy, free, seed)
        lungs = lungs_of(infected.scan, listed.name, choice, untouched)
        sources.append(lungs.source)
        found = left_out.masks(model, names, infected.scan, lungs, compute)
        rows += left_out.dice_rows(found, infected, lungs, model)
        far.append(100 * planted.false_share(found[VOTE], infected))
        slices = np.flatnonzero(infected.lesions.any(axis=(1, 2)))
        slices = slices[:: max(len(slices) // (3 * COLUMNS), 1)]
        masks = {BLUE: lungs.labels > 0, GREEN: infected.lesions > 0, RED: found[VOTE]}
        write_sheet(out / f"{listed.name}-planted-{seed}.png", infected.scan.hu, masks, slices)
    return {
        "scan": listed.name, "asked": asked(store, listed.name, choice, plantings), "sources": sources,
        "networks": names, "marks": asdict(marks), "planted": rows, "far": far,
    }  # fmt: skip


def asked(store: Path, name: str, choice: str, plantings: int) -> list[str]:
    """All that decides what `judge` says of the scan called `name`."""
    lungs = choice if choice in (CLASSICAL, UNTOUCHED) else read_manifest(lung_store(name, choice))["lungnet"].label
    return [read_manifest(store)["normnet"].label, lungs, device.choose().precision, f"{plantings} plantings"]


def print_tables(results: list[dict]) -> None:
    """Print three tables in Markdown."""
    scans = [result["scan"] for result in results]
    print("Marked without a lesion, % of the lung (focal findings left out), and the slices with most of it\n")
    print("| left out | both | right | left | single networks | worst slices |\n|---|---|---|---|---|---|")
    for result in results:
        share = result["marks"]["share"]
        vote = [f"{share[VOTE][side]:.2f}" if side in share[VOTE] else "" for side in ("both", "right", "left")]
        singles = ", ".join(f"{share[name]['both']:.2f}" for name in result["networks"] if name in share)
        worst = ", ".join(f"{k}: {ml:.1f} mL" for k, ml in result["marks"]["worst"])
        print(f"| {result['scan']} | {' | '.join(vote)} | {singles} | {worst} |")
    print("\nMarked away from planted lesions, % of the lung, each planting\n")
    for result in results:
        print(f"- {result['scan']}: {', '.join(f'{share:.2f}' for share in result['far'])} ({result['sources']})")
    print("\nDice of the planted lesions, beside a perfect network's; number of lesions in brackets\n")
    print(f"| | {' | '.join(scans)} | all |\n|---|{'---|' * (len(scans) + 1)}")
    everything = [row for result in results for row in result["planted"]]
    tables = [left_out.by_cell(result["planted"]) for result in results] + [left_out.by_cell(everything)]
    for kind, radius in sorted(tables[-1]):
        cells = [
            f"{table[kind, radius][VOTE]:.2f} / {table[kind, radius][PERFECT]:.2f}" if (kind, radius) in table else ""
            for table in tables
        ]
        count = sum((row["kind"], row["radius_mm"]) == (kind, radius) for row in everything)
        print(f"| {kind}, {radius:.0f} mm ({count}) | {' | '.join(cells)} |")
    print(f"\nDice over dense ground glass and consolidation, {left_out.LEAST_MM:.0f} mm and more\n")
    print(f"| | {' | '.join(scans)} | mean | worst |\n|---|{'---|' * (len(scans) + 2)}")
    columns = [left_out.overall(result["planted"]) for result in results]
    for name in columns[0]:
        row = [column[name] for column in columns]
        print(f"| {name} | " + " | ".join(f"{dice:.3f}" for dice in [*row, np.mean(row), min(row)]) + " |")


def main() -> None:
    """Judge the folds that are not judged yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--lungs", default="classical")
    parser.add_argument("--plantings", type=int, choices=range(1, 100), metavar="N", default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    listed = {scan.name: scan for scan in scanlist.read(arguments.list, root=arguments.root)}
    results = []
    for store in sorted(arguments.folder.glob("*/models")):
        path, names = arguments.out / f"{store.parent.name}.json", store.parent.name.split("+")
        wanted = [asked(store, name, arguments.lungs, arguments.plantings) for name in names]
        judged = json.loads(path.read_text()) if path.exists() else []
        if [one.get("asked") for one in judged] != wanted:
            judged = [judge(store, listed[name], arguments.lungs, arguments.plantings, arguments.out) for name in names]
            write_atomically(path, json.dumps(judged, indent=1).encode())
        results += judged
    print_tables(results)


if __name__ == "__main__":
    main()
