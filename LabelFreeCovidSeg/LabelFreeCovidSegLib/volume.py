"""One volume file, whole or not at all.

ITK alone would not do: it fills a NIfTI file that was cut short with zeros, puts 0 in the place of NaN, and replaces a
sheared sform by the qform.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib.dicom_series import MAX_SKEW
from LabelFreeCovidSegLib.errors import ScanError

FORMATS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
_FLOATS = {16: "f4", 64: "f8"}
"""NIfTI's codes of numbers that can be NaN."""
_LEAST_OFFSET, _MOST_OFFSET = 352, 1 << 31
"""Of the voxels, behind the header; with 0, ITK would take the header for voxels."""
_BLOCK = 1 << 20
_STRAIGHTEN = (
    "In Slicer, load it, resample it onto a straight grid (Resample Scalar/Vector/DWI Volume module), save it as .nrrd "
    "and give that file."
)


def format_of(path: Path) -> str | None:
    """The ending in `FORMATS` that a file's name has, or None."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)


def header(path: Path) -> sitk.ImageFileReader:
    """What a volume file says of itself, before its voxels are read.

    Raises:
        ScanError: it is of another format, cut short, damaged or sheared, or holds NaN.
        OSError: it can't be opened.
    """
    with path.open("rb") as stream:
        empty = not stream.read(1)
    if empty:
        raise ScanError(f"{path.name}: the file is empty (0 bytes). Copy or export it again.")
    suffix = format_of(path)
    if suffix is None:
        raise ScanError(f"{path.name}: not a volume. Give a {', '.join(FORMATS)} file.")
    image_io = FORMATS[suffix]
    if image_io == "NiftiImageIO":
        _check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(path)
    with quiet(), _explained(path.name, image_io):
        reader.ReadImageInformation()
    return reader


def voxels(reader: sitk.ImageFileReader) -> sitk.Image:
    """The volume whose `header` is known.

    Raises:
        ScanError: its voxels can't be read.
    """
    with quiet(), _explained(Path(reader.GetFileName()).name, reader.GetImageIO()):
        return reader.Execute()


@contextmanager
def quiet() -> Iterator[None]:
    """What ITK warns about is either refused here or harmless."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _explained(name: str, image_io: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise skewed(name) from error  # ITK wants a lone sform straight to 1e-4
        raise _damaged(name, image_io.removesuffix("ImageIO")) from error


def _check_nifti(path: Path) -> None:
    """Refuse a file that is cut short, sheared or not finite (fields: nifti1.h)."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            start = stream.read(348)
            order = "<" if start[:4] == struct.pack("<i", 348) else ">"
            if len(start) < 348 or struct.unpack_from(order + "i", start)[0] != 348:
                raise _damaged(path.name, "NIfTI-1")
            dimensions = struct.unpack_from(order + "8h", start, 40)
            kind, bits = struct.unpack_from(order + "2h", start, 70)
            (offset,) = struct.unpack_from(order + "f", start, 108)
            if not _LEAST_OFFSET <= offset <= _MOST_OFFSET:
                raise _damaged(path.name, "NIfTI-1")
            stream.seek(int(offset))
            finite, length = _read_through(stream, order + _FLOATS[kind] if kind in _FLOATS else None)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path.name, "NIfTI") from error
    if length < np.prod(dimensions[1 : dimensions[0] + 1], dtype=float) * bits / 8:
        raise _damaged(path.name, "NIfTI")
    if not finite:
        raise not_finite(path.name)
    sform_code, *rows = struct.unpack_from(order + "h24x12f", start, 254)
    if sform_code > 0 and not skew(np.reshape(rows, (3, 4))[:, :3]) <= MAX_SKEW:
        raise skewed(path.name)


def _read_through(stream: BinaryIO | gzip.GzipFile, numbers: str | None) -> tuple[bool, int]:
    """Whether all `numbers` in the rest of a file are finite, and its length in bytes."""
    finite, length = True, 0
    while block := stream.read(_BLOCK):
        length += len(block)
        if numbers:
            whole = len(block) // np.dtype(numbers).itemsize
            finite &= bool(np.isfinite(np.frombuffer(block, numbers, whole)).all())
    return finite, length


def skew(axes: np.ndarray) -> float:
    """Largest cosine between two columns of `axes` (3, 3); NaN if one has no direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = axes / np.linalg.norm(axes, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def not_finite(name: str) -> ScanError:
    """What is said of a file with NaN."""
    return ScanError(
        f"{name}: some voxels are NaN or infinite. Replace them, in a CT by air (-1024 HU), or export the file again."
    )


def skewed(name: str) -> ScanError:
    """What is said of axes that are not at right angles."""
    return ScanError(
        f"{name}: its axes are not at right angles (sheared), as after a gantry tilt or an affine "
        f"registration. {_STRAIGHTEN}"
    )


def _damaged(name: str, kind: str) -> ScanError:
    return ScanError(
        f"{name}: no complete {kind} file: cut short, damaged or of another format, so its voxels can't be read. "
        "Copy or export it again."
    )
