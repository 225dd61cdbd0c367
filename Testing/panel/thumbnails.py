"""The samples' pictures for Slicer's Sample Data module: a coronal slice of each.

python Testing/panel/thumbnails.py LabelFreeCovidSeg/Resources/Icons
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom

WIDTH, HEIGHT = 260, 280


def thumbnail(chest: phantom.Phantom) -> sitk.Image:
    """The coronal slice with most lesion or, in a healthy chest, most lung; 260 x 280, grey."""
    hu, spacing = chest.scan.hu, chest.scan.grid.spacing_mm
    what = chest.lesions if chest.lesions.any() else chest.lungs
    row = int(np.argmax((what > 0).sum(axis=(0, 2))))
    grey = (np.clip((hu[::-1, row] + 1000) / 1300, 0, 1) * 255).astype(np.float32)
    image = sitk.GetImageFromArray(grey)
    image.SetSpacing((spacing[2], spacing[0]))
    scale = max(grey.shape[1] * spacing[2] / WIDTH, grey.shape[0] * spacing[0] / HEIGHT)
    canvas = sitk.Image(WIDTH, HEIGHT, sitk.sitkFloat32)
    canvas.SetSpacing((scale, scale))
    extent = np.array(grey.shape[::-1]) * image.GetSpacing() - np.array([WIDTH, HEIGHT]) * scale
    canvas.SetOrigin((extent / 2).tolist())
    return sitk.Cast(sitk.Resample(image, canvas, sitk.Transform(), sitk.sitkLinear, 0.0), sitk.sitkUInt8)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, lesions in (("ChestWithLesions", phantom.LESION_MIX), ("ChestWithoutLesions", ())):
        sitk.WriteImage(thumbnail(phantom.make(lesions=lesions)), str(folder / f"{name}.png"))


if __name__ == "__main__":
    main()
