"""A sheet of slices with the outlines of lungs (blue) and lesions (red), to look at.

python Testing/benchmarks/look.py RESULTS CT sheet.png [--every 10]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import read
from scipy import ndimage

COLUMNS = 5


BLUE, GREEN, RED = (0, 160, 255), (60, 230, 60), (255, 40, 40)


def outlined(grey: np.ndarray, masks: Mapping[tuple[int, int, int], np.ndarray]) -> np.ndarray:
    """A slice in the lung window with the outlines of `masks`, by colour; (j, i, 3) uint8."""
    rgb = np.repeat((np.clip((grey + 1350) / 1500, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    for colour, mask in masks.items():
        rgb[mask & ~ndimage.binary_erosion(mask)] = colour
    return rgb


def write_sheet(
    path: Path, hu: np.ndarray, masks: Mapping[tuple[int, int, int], np.ndarray], slices: Sequence[int]
) -> None:
    """Write a picture of these slices of `hu` (k, j, i), cut to the rows of the first mask."""
    rows = np.flatnonzero(next(iter(masks.values())).any(axis=(0, 2)))
    part = slice(max(rows[0] - 10, 0), rows[-1] + 10)
    tiles = [outlined(hu[k, part], {colour: mask[k, part] for colour, mask in masks.items()}) for k in slices]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    sheet = np.concatenate([np.concatenate(tiles[n : n + COLUMNS], 1) for n in range(0, len(tiles), COLUMNS)])
    sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(path))


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("ct", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--every", type=int, default=10)
    arguments = parser.parse_args()
    scan = read.read(arguments.ct)
    lungs, lesions = (
        scan.oriented(sitk.ReadImage(str(arguments.results / f"{name}.nii.gz"))) > 0 for name in ("lungs", "lesions")
    )
    slices = np.flatnonzero(lungs.any(axis=(1, 2)))[:: arguments.every]
    write_sheet(arguments.sheet, scan.hu, {BLUE: lungs, RED: lesions}, slices)


if __name__ == "__main__":
    main()
