"""How the lung finders do on real scans: against each other, against contours, and with a fifth of a lung consolidated.

    python Testing/benchmarks/lungs.py SCAN ... [--store MODELS] [--contours FOLDER ...] [--sheet SHEET.png]
        [--places back flank base front mediastinum dome] [--share 0.2]

SCAN is a CT whose lungs hold air, so that the classical mask is right: Dice with it of the finder, and of what the
network alone calls lung on its own grid; then of both finders after a ball of soft tissue at the pleura has replaced
20 % of one lung, or another share. FOLDER holds ct.nii.gz and lung_{right,left}.nii.gz. The pasted balls share nothing
with the disease of the training. Scans that the network has learned from, by its manifest and the names of their
folders, are marked.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import read, store
from LabelFreeCovidSegLib.evaluation.planting import GAS_HU
from LabelFreeCovidSegLib.lungs import LungMask, classical, lungnet
from LabelFreeCovidSegLib.scan import Scan
from scipy import ndimage

SIDES = {"right": 1, "left": 2}
SHARE = 0.2
PLACES = ("back", "flank", "base", "front", "mediastinum", "dome")
"""Where on the pleura; the dome is the floor of the lung's middle."""


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks."""
    return float(2.0 * (one & other).sum() / max(one.sum() + other.sum(), 1))


def consolidated(scan: Scan, lungs: np.ndarray, side: int, place: str, share_of_lung: float = SHARE) -> Scan:
    """The scan with a ball of soft tissue, centred on the pleura, in place of a share of a lung."""
    lung = lungs == side
    k, j, i = np.nonzero(lung)
    outward = i if side == 2 else -i
    row = {"back": j, "flank": outward, "front": -j, "mediastinum": -outward, "base": -k, "dome": -k}[place]
    central = [np.abs(axis - np.median(axis)) < 0.1 * np.ptp(axis) for axis in (k, j, i)]
    middle = {"base": central[1], "dome": central[1] & central[2]}.get(place, central[0])
    foot = np.flatnonzero(middle)[np.argmax(row[middle])]
    axes = [(np.arange(n) - c[foot]) * mm for n, c, mm in zip(lung.shape, (k, j, i), scan.grid.spacing_mm, strict=True)]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    radius = np.quantile(distance[lung], share_of_lung)
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(lung.shape, dtype=np.float32), 0.7)
    tissue = np.float32(45.0) + noise * np.float32(20.0 / noise.std())
    # Without the voxels that lung shares with the chest wall, a dark line would outline the ball.
    shared = ndimage.binary_dilation(lung, np.ones((1, 3, 3))) & (lungs == 0) & (scan.hu > GAS_HU)
    share = (np.clip((radius - distance) / 2.0 + 0.5, 0, 1) * (lung | shared)).astype(np.float32)
    return dataclasses.replace(scan, hu=scan.hu + share * np.maximum(tissue - scan.hu, 0))


def row(name: str, *cells: object) -> None:
    """Print a line of a table."""
    print(f"{name:44}" + "".join(f"{cell:>12.3f}" if isinstance(cell, float) else f"{cell!s:>12}" for cell in cells))


def outlined(scan: Scan, masks: dict[tuple[int, int, int], np.ndarray], every: int) -> np.ndarray:
    """Axial slices with the outlines of `masks`, by colour."""
    union = np.any([mask > 0 for mask in masks.values()], axis=0)
    tiles = []
    for k in np.flatnonzero(union.any(axis=(1, 2)))[::every]:
        rgb = np.repeat((np.clip((scan.hu[k] + 1000) / 1300, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
        for colour, mask in masks.items():
            inside = mask[k] > 0
            rgb[inside & ~ndimage.binary_erosion(inside)] = colour
        tiles.append(rgb)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 6)
    return np.concatenate([np.concatenate(tiles[n : n + 6], 1) for n in range(0, len(tiles), 6)])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--contours", nargs="*", type=Path, default=[])
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES[:3])
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    sheets = []
    entry = store.read_manifest(arguments.store or store.folder())[lungnet.NAME]
    learned_from = {scan["name"] for scan in entry.scans} | {entry.recipe.get("hold_out", "")}
    print(entry.label)

    def find(scan: Scan) -> tuple[LungMask, LungMask, float]:
        began = time.perf_counter()
        found = lungnet.find(scan, store=arguments.store)
        seconds = time.perf_counter() - began
        return found, classical.find(scan), seconds

    row("Dice", "right", "left", "", "", "seconds")
    for path in arguments.scans:
        scan = read.read(path)
        network, air, seconds = find(scan)
        agreement = [dice(network.labels == side, air.labels == side) for side in SIDES.values()]
        mark = " (seen)" if path.parent.name in learned_from else ""
        row(f"{path.parent.name}{mark}: {network.source}", *agreement, "", "", seconds)
        coarse = classical.outline(scan)
        alone = lungnet.predict(lungnet.load(arguments.store), coarse).lungs
        row("  the network alone", *(dice(alone == side, coarse.lungs == side) for side in SIDES.values()))
        for name, side in SIDES.items():
            for place in arguments.places:
                ill = consolidated(scan, air.labels, side, place, arguments.share)
                after, classically, _ = find(ill)
                before = air.labels == side
                what = f"  {name} {place}, {100 * arguments.share:.0f} % consolidated"
                row(what, dice(after.labels == side, before), "classical:", dice(classically.labels == side, before),
                    after.source)  # fmt: skip
                if arguments.sheet and place == arguments.places[0]:
                    masks = {(0, 200, 0): before, (255, 160, 0): classically.labels == side,
                             (0, 160, 255): after.labels == side}  # fmt: skip
                    sheets.append(outlined(ill, masks, max(arguments.every * 2, 1)))
    for folder in arguments.contours:
        scan = read.read(folder / "ct.nii.gz")
        network, air, seconds = find(scan)
        truth = {name: scan.oriented(sitk.ReadImage(str(folder / f"lung_{name}.nii.gz"))) > 0 for name in SIDES}
        for mask in (network, air):
            row(f"{folder.name}: {mask.source}, contours",
                *(dice(mask.labels == side, truth[name]) for name, side in SIDES.items()),
                "both:", dice(mask.labels > 0, truth["right"] | truth["left"]), seconds)  # fmt: skip
        for warning in network.warnings:
            print("   ", warning)
        sheets.append(outlined(scan, {(0, 200, 0): truth["right"] | truth["left"], (255, 160, 0): air.labels,
                                      (0, 160, 255): network.labels}, arguments.every))  # fmt: skip
    if arguments.sheet:
        for number, sheet in enumerate(sheets):
            target = arguments.sheet.with_stem(f"{arguments.sheet.stem}-{number}")
            sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(target))


if __name__ == "__main__":
    main()
