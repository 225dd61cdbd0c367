"""A sheet of slices with the outlines of lungs (blue) and lesions (red), to look at.

python Testing/benchmarks/look.py RESULTS CT sheet.png [--every 10]
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import read
from scipy import ndimage

COLUMNS = 5


def outlined(grey: np.ndarray, lungs: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """A slice in the lung window with both outlines, (j, i, 3) uint8."""
    rgb = np.repeat((np.clip((grey + 1350) / 1500, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    for mask, colour in ((lungs, (0, 160, 255)), (lesions, (255, 40, 40))):
        rgb[mask & ~ndimage.binary_erosion(mask)] = colour
    return rgb


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
    rows = np.flatnonzero(lungs.any(axis=(0, 2)))
    part = slice(max(rows[0] - 10, 0), rows[-1] + 10)
    tiles = [
        outlined(scan.hu[k, part], lungs[k, part], lesions[k, part])
        for k in np.flatnonzero(lungs.any(axis=(1, 2)))[:: arguments.every]
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    sheet = np.concatenate([np.concatenate(tiles[n : n + COLUMNS], 1) for n in range(0, len(tiles), COLUMNS)])
    sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(arguments.sheet))


if __name__ == "__main__":
    main()
