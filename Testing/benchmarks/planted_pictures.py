"""What `planted.py` has made as pictures, in a folder that `evaluate` takes: in a lung window, or equalised.

    python Testing/benchmarks/planted_pictures.py FOLDER -o PICTURES [--equalised]
    labelfreecovidseg evaluate --data PICTURES --methods opacitynet2d --protocol volume oracle_threshold -o OUT

Each scan is a volume whose slices are pictures. Slices with hardly any lung are left out.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib.scan import AIR_HU, windowed
from LabelFreeCovidSegLib.training.clahe import SIDE, clahe256

LUNG_WINDOW_HU = (-1350.0, 150.0)
LEAST_LUNG = 0.01
"""Share of a slice."""
KINDS = ("images", "lesions", "lungs")


def upright(path: Path) -> np.ndarray:
    """A volume (k, j, i) as radiologists see its slices, in the middle of squares of air."""
    array = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(path), "LPS"))
    side = max(array.shape[1:])
    room = [((side - extent) // 2, side - extent - (side - extent) // 2) for extent in array.shape[1:]]
    return np.pad(array, [(0, 0), *room], constant_values=AIR_HU if array.dtype == np.int16 else 0)


def equalised(hu: np.ndarray, lesion: np.ndarray, lung: np.ndarray) -> tuple[np.ndarray, ...]:
    """A slice (j, i), its lesions and lungs as one of the pictures that `training.clahe` is about."""
    grey, inside = clahe256(hu.astype(np.float32), lung > 0)
    mask = sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.GetImageFromArray(lesion.astype(np.float32)), [SIDE, SIDE], sitk.Transform(), sitk.sitkLinear,
            [(lesion.shape[0] / SIDE - 1) / 2] * 2, [lesion.shape[0] / SIDE] * 2,
        )
    )  # fmt: skip
    return grey, (mask > 0.5) & inside, inside


def main() -> None:
    """Write pictures, their masks, and what can't be seen in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--equalised", action="store_true")
    arguments = parser.parse_args()
    for kind in KINDS:
        (arguments.out / kind).mkdir(parents=True, exist_ok=True)
    for path in sorted((arguments.folder / "images").iterdir()):
        hu, lesions, lungs = (upright(arguments.folder / kind / path.name) for kind in KINDS)
        name = path.name.removesuffix(".nii.gz")
        for k in np.flatnonzero((lungs > 0).mean(axis=(1, 2)) > LEAST_LUNG):
            if arguments.equalised:
                planes = equalised(hu[k], lesions[k], lungs[k])
            else:
                planes = 255 * windowed(hu[k].astype(np.float32), LUNG_WINDOW_HU), lesions[k] > 0, lungs[k] > 0
            for kind, plane in zip(KINDS, planes, strict=True):
                image = sitk.GetImageFromArray((255 * plane if plane.dtype == bool else plane).astype(np.uint8))
                sitk.WriteImage(image, arguments.out / kind / f"{name}_{k:04d}.png")
    described = f"volumes = true\nequalised = {str(arguments.equalised).lower()}\n"
    (arguments.out / "dataset.toml").write_text(described, encoding="utf-8")


if __name__ == "__main__":
    main()
