"""The phantom's lesions, planted in near-healthy scans, as a folder that `evaluate` takes.

    python Testing/benchmarks/planted.py LIST --root DATA --scans NAME ... -o FOLDER [--seed 0]
    labelfreecovidseg evaluate --data FOLDER --lungs given -o OUT

LIST is a list of scans as for training; what it says of focal findings and of lungs with a mass counts here, too. The
lungs are those of the untouched scan, so that what is measured is the method alone.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import read
from LabelFreeCovidSegLib.evaluation import planting
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.training import scanlist
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan


def write(listed: ListedScan, folder: Path, seed: int) -> None:
    """Plant one scan and write image, lesions, classes and lungs."""
    scan = read.read(listed.path)
    labels = find_lungs(scan, "classical").labels
    lungs = (labels * np.isin(labels, SIDES[listed.lungs])).astype(np.uint8)
    free = np.ones(len(labels), dtype=bool)
    for first, last in listed.exclude:
        free[first : last + 1] = False
    known = planting.plant(scan, lungs, free, seed)
    arrays = {
        "images": np.round(known.scan.hu).astype(np.int16),
        "lesions": (known.lesions > 0).astype(np.uint8),
        "classes": known.lesions,
        "lungs": lungs,
    }
    for name, array in arrays.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(scan.native_image(array), folder / name / f"{listed.name}.nii.gz")
    volume_ml = np.count_nonzero(known.lesions) * scan.grid.voxel_ml
    print(f"{listed.name}: {len(known.planted)} lesions, {volume_ml:.1f} mL")


def main() -> None:
    """Plant and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--scans", nargs="+", required=True, metavar="NAME")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    listed = {scan.name: scan for scan in scanlist.read(arguments.list, root=arguments.root)}
    for name in arguments.scans:
        write(listed[name], arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
