"""How well two anchors give the window of a picture back: slices in HU are windowed, and their HU guessed again.

    python Testing/benchmarks/windows.py FOLDER

FOLDER holds single axial DICOM slices (*.dcm). Printed are, for each window, the median and the largest error at three
densities, and what was guessed of the pixel size.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import anchors
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.lungs import find_in_picture

WINDOWS = ((-1350, 150), (-1250, 250), (-1000, 400), (-1024, 600))
DENSITIES_HU = np.array([-850.0, -600.0, -300.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    images = [sitk.ReadImage(str(path)) for path in sorted(parser.parse_args().folder.glob("*.dcm"))]
    for low, high in WINDOWS:
        errors, ratios, refused = [], [], 0
        for image in images:
            hu = sitk.GetArrayFromImage(image)[0].astype(np.float32)
            grey = (np.clip((hu - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
            certainty, _ = find_in_picture(grey)
            lungs = certainty > 0
            try:
                line = anchors.calibrate(grey, lungs, "slice")
            except ScanError:
                refused += 1
                continue
            errors.append(np.abs(line.hu((DENSITIES_HU - low) * (255 / (high - low))) - DENSITIES_HU))
            ratios.append(anchors.pixel_mm(lungs) / image.GetSpacing()[0])
        print(
            f"{low}..{high} HU: {len(errors)} slices, {refused} refused; error at {DENSITIES_HU} HU: median "
            f"{np.median(errors, axis=0).round()}, largest {np.max(errors, axis=0).round()}; "
            f"pixel size guessed / true {min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
