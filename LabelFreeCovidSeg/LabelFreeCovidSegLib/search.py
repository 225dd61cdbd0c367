"""Which scans a folder holds: CT files, and folders with the slices of a CT series."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import output
from LabelFreeCovidSegLib.dicom_series import MIN_SLICES, is_dicom
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.volume import FORMATS

_EIGHT_BITS = (sitk.sitkUInt8, sitk.sitkInt8)
_FEWEST_GREYS = 128
"""A picture has more distinct values than this, a label image fewer."""


def scans(folder: Path, out: Path) -> list[Path]:
    """Every scan below `folder`, in order of their names: files, and folders that hold a CT series.

    Hidden files, results of this program, segmentations and volumes of 8 bits, which can't hold HU, are none. What lies
    below a folder with a series belongs to it: the reader chooses among all series there.

    Args:
        out: a folder that is not searched.

    Raises:
        ScanError: `folder` is no folder, or something in it can't be opened.
    """
    if not folder.is_dir():
        raise ScanError(f"{folder}: no folder. Give the folder that holds the scans.")
    found: list[Path] = []
    series: set[Path] = set()
    try:
        for root, folders, names in os.walk(folder, onerror=_stop):
            here = Path(root)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != out)
            results = output.NAMES.keys() if output.earlier(here) else set()
            files = [here / name for name in names if not name.startswith(".") and name not in results]
            found += [file for file in files if _has_format(file) and _may_be_ct(file)]
            others = [file for file in files if not _has_format(file) and file.is_file()]  # a link may lead nowhere
            if series.isdisjoint(here.parents) and _hold_series(others):
                series.add(here)
    except OSError as error:
        raise ScanError(
            f"{folder}: {error.filename} can't be opened ({error.strerror}). Ask for the right to read it, or move it "
            "away."
        ) from error
    return sorted([*found, *series])


def is_label_image(path: Path) -> bool:
    """Whether a volume that is no CT in HU holds labels: few distinct values, whole and none below zero."""
    if path.is_dir():
        return False
    try:
        values = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(path)))
    except RuntimeError:
        return False
    return bool(values.size < _FEWEST_GREYS and values.min() >= 0 and (values == np.round(values)).all())


def _stop(error: OSError) -> None:
    raise error


def _has_format(file: Path) -> bool:
    return file.name.lower().endswith(tuple(FORMATS))


def _may_be_ct(volume: Path) -> bool:
    """By its header; a file whose header can't be read may be, so that somebody is told what is wrong with it."""
    if volume.name.lower().endswith(".seg.nrrd"):
        return False
    header = _header(volume)
    return header is None or header.GetPixelID() not in _EIGHT_BITS


def _hold_series(files: Iterable[Path]) -> bool:
    """Whether files are enough CT slices for a chest; localizers and dose reports are not."""
    slices = 0
    for file in files:
        header = _header(file, "GDCMImageIO") if is_dicom(file) else None
        if header and header.HasMetaDataKey("0008|0060") and header.GetMetaData("0008|0060").strip() == "CT":
            slices += header.GetSize()[2]
        if slices >= MIN_SLICES:
            return True
    return False


def _header(file: Path, image_io: str = "") -> sitk.ImageFileReader | None:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader
