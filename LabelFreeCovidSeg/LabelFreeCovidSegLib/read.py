"""From a file or a DICOM folder to a `Scan`: the one reader, and everything that it refuses.

ITK alone would not do: it fills a NIfTI file that was cut short with zeros, replaces a sheared sform by the qform, and
takes pictures for CT.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import dicom_series
from LabelFreeCovidSegLib.dicom_series import MAX_SKEW, MIN_EXTENT_MM, MIN_SLICES
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, Scan

FORMATS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
_SPACING_MM = (0.05, 20.0)
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_STRAIGHTEN = (
    "In Slicer, load it, resample it onto a straight grid (Resample Scalar/Vector/DWI Volume module), save it as .nrrd "
    "and give that file."
)
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
        with _quiet():
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
        raise ScanError(
            f"{name}: some voxels are NaN or infinite. Replace them by air (-1024 HU), or export the CT again."
        )
    scan = Scan.from_image(image, name, notes)
    _check_values(scan.hu, name)
    return scan


@contextmanager
def _quiet() -> Iterator[None]:
    """What ITK warns about is either refused here or harmless."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _image(path: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    if path.is_dir():
        return dicom_series.read_folder(path)
    with path.open("rb") as stream:
        empty = not stream.read(1)
    if empty:
        raise ScanError(f"{path.name}: the file is empty (0 bytes). Copy or export it again.")
    for suffix, image_io in FORMATS.items():
        if path.name.lower().endswith(suffix):
            return _volume(path, image_io)
    if dicom_series.is_dicom(path):
        return dicom_series.read_series_of(path)
    what = "a 2-D picture, not a CT" if path.suffix.lower() in _PICTURES else "not a scan format that is known here"
    raise ScanError(f"{path.name}: {what}. Give a DICOM folder or a {', '.join(FORMATS)} file.")


def _volume(path: Path, image_io: str) -> tuple[sitk.Image, tuple[str, ...]]:
    if image_io == "NiftiImageIO":
        _check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
        _check_kind(reader, path.name)
        image = reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise _skewed(path.name) from error  # ITK wants a lone sform straight to 1e-4
        raise _damaged(path.name, image_io.removesuffix("ImageIO")) from error
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    return image, _orientation_notes(image, image_io)


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


def _check_nifti(path: Path) -> None:
    """Refuse a file that is cut short or sheared (fields: nifti1.h)."""
    header, length = b"", 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            header = stream.read(348)
            length = len(header)
            while block := stream.read(1 << 20):
                length += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path.name, "NIfTI") from error
    order = "<" if header[:4] == struct.pack("<i", 348) else ">"
    if len(header) < 348 or struct.unpack_from(order + "i", header)[0] != 348:
        raise _damaged(path.name, "NIfTI-1")
    dimensions = struct.unpack_from(order + "8h", header, 40)
    (bits,) = struct.unpack_from(order + "h", header, 72)
    (offset,) = struct.unpack_from(order + "f", header, 108)
    sform_code, *rows = struct.unpack_from(order + "h24x12f", header, 254)
    voxels = np.prod(dimensions[1 : dimensions[0] + 1], dtype=float)
    if length < offset + voxels * bits / 8:
        raise _damaged(path.name, "NIfTI")
    if sform_code > 0 and not _skew(np.reshape(rows, (3, 4))[:, :3]) <= MAX_SKEW:
        raise _skewed(path.name)


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
    if not _skew(np.reshape(grid.direction, (3, 3))) <= MAX_SKEW or not np.isfinite(grid.origin).all():
        raise _skewed(name)
    extent = [size * spacing for size, spacing in zip(grid.size, grid.spacing, strict=True)]
    if min(grid.size) < MIN_SLICES or min(extent) < MIN_EXTENT_MM:
        raise ScanError(
            f"{name}: {' x '.join(map(str, grid.size))} voxels of {sizes} mm are too small a piece for a chest CT, "
            f"which has at least {MIN_SLICES} slices and {MIN_EXTENT_MM:.0f} mm along each axis. Give the whole scan."
        )


def _skew(axes: np.ndarray) -> float:
    """Largest cosine between two columns of `axes` (3, 3); NaN if one has no direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = axes / np.linalg.norm(axes, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


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


def _damaged(name: str, kind: str) -> ScanError:
    return ScanError(
        f"{name}: no complete {kind} file: cut short, damaged or of another format, so its voxels can't be read. "
        "Copy or export it again."
    )


def _skewed(name: str) -> ScanError:
    return ScanError(
        f"{name}: its axes are not at right angles (sheared), as after a gantry tilt or an affine "
        f"registration. {_STRAIGHTEN}"
    )
