"""DICOM: which slices of a folder make up the chest CT, and the volume they make.

Positions decide, not file names, instance numbers or the slice thickness tag. Only tags that do not identify a patient
are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.scan import Grid

MIN_SLICES = 10
MIN_EXTENT_MM = 60.0
"""Less than this along any axis can't hold a pair of lungs."""
MAX_SKEW = 1e-3
"""Largest cosine between two axes of a grid that still counts as rectangular."""
REGULARIZE = (
    "In Slicer, set 'Acquisition geometry regularization' (Edit / Application Settings / DICOM) to 'apply "
    "regularization transform', load the series, harden its transform, save the volume as .nrrd and give that file."
)

_CT_STORAGE = b"1.2.840.10008.5.1.4.1.1.2\0"
_MULTI_FRAME = "multi-frame"
_SAME_POSITION_MM = 0.01


@dataclass(frozen=True, eq=False)
class Slice:
    """What the header of one CT slice says.

    Attributes:
        axes: (3, 3); its columns are the directions in which column index, row index and slices grow.
        spacing: millimetres along the first two axes.
        size: columns, rows.
    """

    path: Path
    series: str
    number: str
    acquisition: str
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    size: tuple[int, int]
    derived: bool
    chest: bool
    thickness_mm: float | None
    kernel: str
    tilt_deg: str

    @property
    def depth(self) -> float:
        """Position along the normal of the slice, in millimetres."""
        return float(self.position @ self.axes[:, 2])

    def fits(self, other: Slice) -> bool:
        """Whether both can be slices of one volume."""
        return (
            self.series == other.series
            and self.size == other.size
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
            and np.allclose(self.axes, other.axes, atol=MAX_SKEW)
        )


class Stack:
    """Slices of one series on one pixel grid, sorted along their normal."""

    def __init__(self, slices: Iterable[Slice]) -> None:
        self.slices = sorted(slices, key=lambda s: s.depth)
        self.first = self.slices[0]
        self.depths = np.array([s.depth for s in self.slices])
        self.gaps = np.diff(self.depths)
        steps = self.gaps[self.gaps > _SAME_POSITION_MM]
        self.repeats = len(steps) < len(self.gaps)
        self.gap_mm = float(np.median(steps)) if len(steps) else 0.0
        self.extent_mm = float(self.depths[-1] - self.depths[0])
        # Localizers and contrast monitoring are series of few positions, however many slices they have.
        self.small = len(steps) + 1 < MIN_SLICES or self.extent_mm + self.gap_mm < MIN_EXTENT_MM

    @cached_property
    def fault(self) -> str | None:
        """Why the slices make no volume, and the way out; None if they do."""
        if self.small:
            return (
                f"too little for a chest CT, which has at least {MIN_SLICES} slices over {MIN_EXTENT_MM:.0f} mm. Give "
                "the folder with all slices of the series."
            )
        return self._repetition() or self._tilt() or self._unevenness()

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts the best choice first; `_WHY_NOT` names the entries."""
        return (
            self.small,
            self.first.derived,
            abs(self.first.axes[2, 2]) < 0.8,
            not self.first.chest,
            self.fault is not None,
            -len(self.slices),
            round(self.gap_mm, 3),
            _integer(self.first.number),
            _integer(self.first.acquisition),
        )

    def __str__(self) -> str:
        text = f"series {self.first.number or 'without number'}"
        text += f", acquisition {self.first.acquisition}" if self.first.acquisition else ""
        text += f" ({len(self.slices)} slices, {self.gap_mm:.4g} mm apart"
        text += f", {self.first.thickness_mm:.4g} mm thick" if self.first.thickness_mm else ""
        return text + (f", kernel {self.first.kernel})" if self.first.kernel else ")")

    def volume(self) -> sitk.Image:
        """The slices as one float32 image in HU.

        Raises:
            ScanError: the pixels of a slice can't be decoded.
        """
        columns, rows = self.first.size
        hu = np.empty((len(self.slices), rows, columns), np.float32)
        for k, s in enumerate(self.slices):
            try:
                hu[k] = sitk.GetArrayFromImage(sitk.ReadImage(s.path, sitk.sitkFloat32, "GDCMImageIO"))[0]
            except RuntimeError as error:
                raise _damaged(s.path) from error
        spacing = (*self.first.spacing, self.extent_mm / len(self.gaps))
        grid = Grid((columns, rows, len(hu)), spacing, tuple(self.first.position), tuple(self.first.axes.ravel()))
        return grid.image(hu)

    def _repetition(self) -> str | None:
        if not self.repeats:
            return None
        return (
            f"duplicate slices: {self._between(int(np.argmin(self.gaps)))} lie at the same position. The folder mixes "
            "two scans or holds files twice; put the slices of one scan alone into a folder and give that."
        )

    def _tilt(self) -> str | None:
        offsets = np.array([s.position - self.first.position for s in self.slices])
        along = np.outer(self.depths - self.depths[0], self.first.axes[:, 2])
        sideways = np.linalg.norm(offsets - along, axis=1)
        if sideways.max() <= MAX_SKEW * self.extent_mm:
            return None
        angle = np.degrees(np.arctan2(sideways.max(), self.extent_mm))
        tag = f" (tag 0018,1120: {self.first.tilt_deg})" if self.first.tilt_deg else ""
        return (
            f"the slices are shifted sideways by up to {sideways.max():.2f} mm, {angle:.2f} degrees off their normal, "
            f"as a tilted gantry{tag} does. {REGULARIZE}"
        )

    def _unevenness(self) -> str | None:
        tolerance = max(0.05 * self.gap_mm, 0.1)
        off = np.abs(self.gaps - self.gap_mm) > tolerance
        if not off.any():
            return None
        k = int(np.argmax(off))
        where = f"{self.gaps[k]:.4g} mm between {self._between(k)} where {self.gap_mm:.4g} mm is usual"
        where += f", and {off.sum() - 1} more such gaps" if off.sum() > 1 else ""
        steps = round(self.gaps[k] / self.gap_mm)
        if steps > 1 and abs(self.gaps[k] - steps * self.gap_mm) <= tolerance:
            return f"missing slices: {where}. Export all slices of the series again."
        return f"uneven slice gaps: {where}. Export all slices of the series again; or: {REGULARIZE}"

    def _between(self, k: int) -> str:
        lower, upper = self.slices[k], self.slices[k + 1]
        return f"{lower.path.name} (at {lower.depth:.2f} mm) and {upper.path.name} (at {upper.depth:.2f} mm)"


_WHY_NOT = (
    "too small",
    "derived from another series",
    "not axial",
    "not marked as chest",
    "missing, repeated, shifted or uneven slices",
    "fewer slices",
    "slices further apart",
    "higher series number",
    "later acquisition",
)


def is_dicom(path: Path) -> bool:
    """Whether the file is named or starts like DICOM, with or without the preamble of part 10."""
    if path.name.startswith("."):  # macOS leaves a ._001.dcm beside each 001.dcm on foreign disks
        return False
    return path.suffix.lower() == ".dcm" or _starts_like_dicom(_head(path))


def read_folder(folder: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    """The chest CT of a folder and its subfolders in HU, and what was chosen, one sentence each.

    Raises:
        ScanError: no DICOM, no CT, a damaged file, or the best series is not a complete, regular stack of slices.
        OSError: something can't be opened.
    """
    files = list(_files(folder))
    dicom = [path for path in files if is_dicom(path)]
    if not dicom:
        kinds = Counter(path.suffix.lower() or "untyped" for path in files).most_common(3)
        content = "it holds " + " and ".join(f"{n} {kind} files" for kind, n in kinds) if kinds else "it is empty"
        raise ScanError(
            f"{folder.name}: a folder without DICOM; {content}. Give the folder that holds the slices of a CT series, "
            "or the scan itself if it is a .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd file."
        )
    return _best(folder.name, [_header(path) for path in dicom])


def read_series_of(path: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    """The series that one slice file belongs to, from the files beside it; else as `read_folder`."""
    own = _header(path)
    if isinstance(own, str):
        raise _no_ct(path.name, Counter([own]))
    beside = [_header(file) for file in sorted(path.parent.iterdir()) if file.is_file() and is_dicom(file)]
    image, notes = _best(path.name, [s for s in beside if isinstance(s, Slice) and s.series == own.series])
    return image, (f"{path.name} is one slice; the whole series beside it was read.", *notes)


def _best(name: str, headers: list[Slice | str]) -> tuple[sitk.Image, tuple[str, ...]]:
    unusable = Counter(header for header in headers if isinstance(header, str))
    stacks = sorted(_stacks(header for header in headers if isinstance(header, Slice)), key=lambda stack: stack.rank)
    if not stacks:
        raise _no_ct(name, unusable)
    best, *others = stacks
    if best.fault:
        raise ScanError(f"{name}: {best}: {best.fault}")
    notes = [f"Read DICOM {best}."]
    if others:
        notes.append("Not read: " + "; ".join(f"{other}, {_why_not(other, best)}" for other in others) + ".")
    if unusable:
        notes.append(f"Not read: {_listed(unusable)}.")
    return best.volume(), tuple(notes)


def _why_not(other: Stack, best: Stack) -> str:
    pairs = zip(_WHY_NOT, other.rank, best.rank, strict=True)
    return next((reason for reason, its, chosen in pairs if its != chosen), "alike, and found later")


def _stacks(slices: Iterable[Slice]) -> Iterator[Stack]:
    groups: list[list[Slice]] = []
    for s in slices:
        group = next((group for group in groups if s.fits(group[0])), None)
        if group is None:
            groups.append([s])
        else:
            group.append(s)
    for group in groups:
        whole = Stack(group)
        yield from _acquisitions(whole) if whole.repeats else (whole,)


def _acquisitions(whole: Stack) -> list[Stack]:
    # Breathing and contrast phases lie on top of each other and are scans of their own. Parts that merely overlap at
    # their ends would each be half a chest, so those stay together and are refused.
    numbers = {s.acquisition for s in whole.slices}
    parts = [Stack(s for s in whole.slices if s.acquisition == number) for number in numbers]
    return [part for part in parts if part.extent_mm >= 0.8 * whole.extent_mm] or [whole]


def _header(path: Path) -> Slice | str:
    """The header of a CT slice, or what kind of DICOM object the file is instead.

    Raises:
        ScanError: the file is damaged.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        head = _head(path)
        if _CT_STORAGE in head or not _starts_like_dicom(head):
            raise _damaged(path) from error
        return "without a picture"

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""

    if tag("0008|0060") != "CT":
        return f"of modality {tag('0008|0060') or 'unknown'}"
    if reader.GetSize()[2] > 1:
        return _MULTI_FRAME
    if reader.GetNumberOfComponents() > 1:
        return "in colour"
    if {"LOCALIZER", "SCOUT"} & set(tag("0008|0008").upper().split("\\")):
        return "localizer"
    return _slice(path, reader.GetSize(), tag) or "without position, orientation or pixel spacing"


def _slice(path: Path, size: tuple[int, ...], tag: Callable[[str], str]) -> Slice | None:
    position, cosines = _numbers(tag("0020|0032"), 3), _numbers(tag("0020|0037"), 6)
    pixel = _numbers(tag("0028|0030"), 2)  # between rows, then between columns
    if position is None or cosines is None or pixel is None:
        return None
    row, column = cosines.reshape(2, 3)
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > MAX_SKEW or abs(row @ column) > MAX_SKEW:
        return None
    normal /= np.linalg.norm(normal)
    row = row / np.linalg.norm(row)
    thickness = _numbers(tag("0018|0050"), 1)
    return Slice(
        path=path,
        series=tag("0020|000e"),
        number=tag("0020|0011"),
        acquisition=tag("0020|0012"),
        position=position,
        axes=np.column_stack([row, np.cross(normal, row), normal]),
        spacing=(float(pixel[1]), float(pixel[0])),
        size=(size[0], size[1]),
        derived=tag("0008|0008").upper().startswith("DERIVED"),
        chest=any(part in tag("0018|0015").upper() for part in ("CHEST", "THORAX", "LUNG")),
        thickness_mm=None if thickness is None else float(thickness[0]),
        kernel=tag("0018|1210"),
        tilt_deg=tag("0018|1120"),
    )


def _numbers(text: str, count: int) -> np.ndarray | None:
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _integer(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _files(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=stop):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1024)


def _starts_like_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\0", b"\x08\0")


def _damaged(path: Path) -> ScanError:
    return ScanError(
        f"{path.parent.name}/{path.name}: empty, cut short or no DICOM image, so it can't be decoded. Export or copy "
        "it again; remove it from the folder if it is not part of the scan."
    )


def _no_ct(name: str, unusable: Counter[str]) -> ScanError:
    text = f"{name}: no CT slices to read; found DICOM files: {_listed(unusable)}."
    if _MULTI_FRAME in unusable:
        return ScanError(f"{text} Load the multi-frame file in Slicer, save the volume as .nrrd and give that file.")
    return ScanError(f"{text} Give the folder that holds the slices of a chest CT series.")


def _listed(unusable: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in unusable.most_common())
