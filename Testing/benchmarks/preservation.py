"""How much the cycle-GAN changes healthy lung, which it should leave as it is: mean |G(y) - y|, in a window of 2.

python Testing/benchmarks/preservation.py LIST --root DATA --scans NAME ...
"""

import argparse
from pathlib import Path

import numpy as np
from LabelFreeCovidSegLib import read
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.lungs import LungMask, find_lungs
from LabelFreeCovidSegLib.methods import cyclegan
from LabelFreeCovidSegLib.methods.slices import LungSlices
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.training import scanlist
from LabelFreeCovidSegLib.training.scanlist import SIDES, ListedScan


def change(model: cyclegan.CycleGAN, listed: ListedScan) -> float:
    """Mean absolute change over the healthy lungs of a scan."""
    scan, preset = read.read(listed.path), model.preset
    labels = find_lungs(scan, "classical").labels
    lungs = LungMask(labels * np.isin(labels, SIDES[listed.lungs]), "classical")
    work = LungSlices.of(scan, lungs, preset.spacing_mm, preset.side)
    image = cyclegan.shown(work.hu, work.lung, preset.background)
    made = cyclegan.made_healthy(model.generator, image, Compute("cpu", "float32"), silent)
    return float(np.abs(made - image)[work.lung].mean())


def main() -> None:
    """Print a line a scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--scans", nargs="+", required=True, metavar="NAME")
    arguments = parser.parse_args()
    listed = {scan.name: scan for scan in scanlist.read(arguments.list, root=arguments.root)}
    for name in arguments.scans:
        print(f"{name}: {change(cyclegan.load(), listed[name]):.3f}")


if __name__ == "__main__":
    main()
