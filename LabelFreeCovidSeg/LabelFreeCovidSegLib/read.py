"""From a file or a DICOM folder to a `Scan`: the one reader of CT, and everything that it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import dicom_series, volume
from LabelFreeCovidSegLib.dicom_series import MAX_SKEW, MIN_EXTENT_MM, MIN_SLICES
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan
from LabelFreeCovidSegLib.volume import FORMATS

_SPACING_MM = (0.05, 20.0)
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_EXPORT = "Export the CT from its DICOM series, with its rescale slope and intercept."


def read(path: str | Path) -> Scan:
    """Read a chest CT.

    Args:
        path: a DICOM folder (the best chest series in it is chosen), one slice of a DICOM series (the series beside it
            is read), or a NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file.

    Returns:
        The scan; `notes` say what was chosen.

    Raises:
        ScanError: it can't be opened, is damaged, not a volume, not on a regular rectangular grid, or not in HU.
    """
    path = Path(os.path.abspath(path))  # gives "." and ".." a name, and a link keeps its own
    name = path.name
    try:
        with volume.quiet():
            image, notes = _image(path)
    except FileNotFoundError as error:
        raise ScanError(f"{name}: {error.filename} does not exist. Check the path.") from error
    except OSError as error:
        raise ScanError(
            f"{name}: {error.filename} can't be opened ({error.strerror}). Ask for the right to read it, or copy "
            "it to a folder of yours."
        ) from error
    _check_grid(Grid.of(image), name)
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise volume.not_finite(name)
    scan = Scan.from_image(image, name, notes)
    _check_values(scan.hu, name)
    return scan


def _image(path: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    if path.is_dir():
        return dicom_series.read_folder(path)
    suffix = volume.format_of(path)
    if suffix or not path.stat().st_size:
        reader = volume.header(path)
        _check_kind(reader, path.name)
        image = volume.voxels(reader)
        if image.GetDimension() == 4:
            image = image[:, :, :, 0]
        return image, _orientation_notes(image, reader.GetImageIO())
    if dicom_series.is_dicom(path):
        return dicom_series.read_series_of(path)
    what = "a 2-D picture, not a CT" if path.suffix.lower() in _PICTURES else "not a scan format that is known here"
    raise ScanError(f"{path.name}: {what}. Give a DICOM folder or a {', '.join(FORMATS)} file.")


def _check_kind(reader: sitk.ImageFileReader, name: str) -> None:
    size = reader.GetSize()
    if reader.GetNumberOfComponents() > 1 or reader.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise ScanError(
            f"{name}: each voxel holds several numbers (colour, vectors or complex values), not one in HU. {_EXPORT}"
        )
    if len(size) == 2:
        raise ScanError(f"{name}: a single 2-D slice. Give the whole CT, as a DICOM folder or one 3-D file.")
    if len(size) > 3 and (len(size) > 4 or size[3] > 1):
        raise ScanError(
            f"{name}: {len(size)}-D data ({' x '.join(map(str, size))}), such as a series over time. Save one of its "
            "volumes as a 3-D file (in Slicer: load it as a sequence, save one frame as .nrrd)."
        )


def _orientation_notes(image: sitk.Image, image_io: str) -> tuple[str, ...]:
    codes = {image.GetMetaData(key) for key in ("sform_code", "qform_code") if image.HasMetaDataKey(key)}
    stored = {"NiftiImageIO": codes != {"0"}, "NrrdImageIO": image.HasMetaDataKey("NRRD_space"), "MetaImageIO": True}
    if stored[image_io]:
        return ()
    return (
        "The file does not say how the patient lies; its axes were taken to run to the patient's left, back and head. "
        "Check that right and left are not swapped.",
    )


def _check_grid(grid: Grid, name: str) -> None:
    sizes = " x ".join(f"{spacing:.4g}" for spacing in grid.spacing)
    if not all(_SPACING_MM[0] <= spacing <= _SPACING_MM[1] for spacing in grid.spacing):
        raise ScanError(
            f"{name}: its voxels measure {sizes} mm, which no chest CT has; the unit of length in its header is "
            f"probably wrong. {_EXPORT}"
        )
    if not volume.skew(np.reshape(grid.direction, (3, 3))) <= MAX_SKEW or not np.isfinite(grid.origin).all():
        raise volume.skewed(name)
    extent = [size * spacing for size, spacing in zip(grid.size, grid.spacing, strict=True)]
    if min(grid.size) < MIN_SLICES or min(extent) < MIN_EXTENT_MM:
        raise ScanError(
            f"{name}: {' x '.join(map(str, grid.size))} voxels of {sizes} mm are too small a piece for a chest CT, "
            f"which has at least {MIN_SLICES} slices and {MIN_EXTENT_MM:.0f} mm along each axis. Give the whole scan."
        )


def _check_values(hu: np.ndarray, name: str) -> None:
    """Refuse what can't be HU: no air, no soft tissue.

    Voxels at or below -1024 don't count as air: scanners and crops fill with that whatever the values are inside.
    """
    sample = hu[:, ::2, ::2]
    sample = sample[sample > AIR_HU]
    if _like_hu(sample):
        return
    if sample.size == 0 or sample.min() == sample.max():
        raise ScanError(f"{name}: nothing but one value, so there is no picture in it. {_EXPORT}")
    span = f"{name}: values span {sample.min():.6g}..{sample.max():.6g}"
    if sample.min() >= 0 and sample.max() <= 255:
        raise ScanError(f"{span}, so this is a windowed picture or a mask and not HU. {_EXPORT}")
    if _like_hu(sample - 1024):
        raise ScanError(f"{span} and look like HU + 1024: the rescale to HU was lost, or this is MR. {_EXPORT}")
    raise ScanError(
        f"{span}, with {_share(sample, -np.inf, -600):.1%} like air or lung (below -600) and "
        f"{_share(sample, -200, 300):.1%} like soft tissue (-200..300). This is not a chest CT in HU, but perhaps "
        f"MR, a normalised or a windowed picture. {_EXPORT}"
    )


def _like_hu(values: np.ndarray) -> bool:
    return (
        values.size > 0
        and values.min() <= -500
        and _share(values, -np.inf, -600) >= 0.02
        and _share(values, -200, 300) >= 0.05
    )


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(((values > low) & (values < high)).mean())
