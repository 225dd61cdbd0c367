"""Axial CT slices that someone has saved as 8-bit pictures: no Hounsfield units, no pixel size, no neighbours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.scan import Scan

FORMATS = {".png": "PNGImageIO", ".jpg": "JPEGImageIO", ".jpeg": "JPEGImageIO"}
_ENDS = {"PNGImageIO": b"IEND\xaeB`\x82", "JPEGImageIO": b"\xff\xd9"}
"""What a complete file holds; other things may follow."""
LEAST_SIDE = 64
LEAST_GREYS = 24
"""A mask, even one that JPEG has blurred at its edges, has fewer."""
COLOUR = 16
"""How far red, green and blue of a grey picture may lie apart: what JPEG does to them."""

AXES = {"L": (1.0, 0.0, 0.0), "R": (-1.0, 0.0, 0.0), "P": (0.0, 1.0, 0.0), "A": (0.0, -1.0, 0.0)}
ORIENTATIONS = ("LP", "LA", "RP", "RA", "PL", "PR", "AL", "AR")
"""Towards which side of the patient rows, then columns, run, as in DICOM's Patient Orientation (0020,0020). LP is how
radiologists see a slice; AL and PL lie on their side."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One axial slice.

    Attributes:
        name: of its file.
        grey: (rows, columns) uint8, as in the file.
    """

    name: str
    grey: np.ndarray

    @property
    def stem(self) -> str:
        """The name that its results have."""
        return Path(self.name).stem

    def upright(self, orientation: str, grey: np.ndarray | None = None) -> Scan:
        """The picture as a scan of one slice in LPS, with greys in the place of HU and pixels of 1 mm.

        Args:
            orientation: one of `ORIENTATIONS`.
            grey: (rows, columns), another picture of the same place, for example its lungs.
        """
        pixels = self.grey if grey is None else grey
        image = sitk.GetImageFromArray(pixels[None].astype(np.float32))
        image.SetDirection(direction(orientation))
        return Scan.from_image(image, self.name)


def direction(orientation: str) -> tuple[float, ...]:
    """The direction, as of `scan.Grid`, of slices that lie in one of `ORIENTATIONS`."""
    axes = [*(AXES[letter] for letter in orientation), (0.0, 0.0, 1.0)]
    return tuple(cosine for row in zip(*axes, strict=True) for cosine in row)


def find(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, `slice2` before `slice10`; hidden ones and subfolders are left alone.

    Raises:
        ScanError: there is no folder or no picture, or the results of two would have the same name.
    """
    if not folder.is_dir():
        raise ScanError(f"{folder}: is no folder. Give the folder that holds the pictures.")
    files = [f for f in folder.iterdir() if f.suffix.lower() in FORMATS and f.is_file() and f.name[0] != "."]
    if not files:
        raise ScanError(f"{folder}: no picture in it. Give a folder of axial CT slices as PNG or JPEG.")
    files.sort(key=lambda path: (_natural(path.name), path.name))
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(file.stem.lower(), file)
        if other != file:
            raise ScanError(f"{file.name} and {other.name} would have results of the same name. Rename one of them.")
    return files


def read(path: Path) -> Picture:
    """Read one picture.

    Raises:
        ScanError: it is damaged, has colours, more than 8 bits or hardly any grey levels, or is too small.
    """
    pixels = _pixels(path)
    if pixels.dtype != np.uint8:
        raise ScanError(
            f"{path.name}: has {8 * pixels.dtype.itemsize} bits a pixel. Save it with 8 bits; if these are Hounsfield "
            "units, give the CT itself, as DICOM, NIfTI or NRRD, without --slices."
        )
    if pixels.ndim == 3:
        pixels = _without_colour(pixels, path.name)
    if min(pixels.shape) < LEAST_SIDE:
        rows, columns = pixels.shape
        raise ScanError(f"{path.name}: {columns} x {rows} pixels are too few. Give slices of {LEAST_SIDE} or more.")
    greys = np.count_nonzero(np.bincount(pixels.ravel(), minlength=256))
    if greys < LEAST_GREYS:
        raise ScanError(f"{path.name}: has only {greys} grey levels, like a mask. Give the CT slice itself.")
    return Picture(path.name, pixels)


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A mask picture of another picture's `shape`, (rows, columns) bool: whatever is at least half as bright as its
    brightest pixel, so that 0/1, 0/255 and JPEG will do.

    Raises:
        ScanError: it is damaged, coloured, or has another size.
    """
    pixels = _pixels(path)
    if pixels.ndim == 3:
        pixels = _without_colour(pixels, path.name)
    if pixels.shape != shape:
        sizes = " and ".join(f"{columns} x {rows}" for rows, columns in (pixels.shape, shape))
        raise ScanError(f"{path}: mask and picture have different sizes ({sizes}). Give the mask of this very picture.")
    return (pixels > 0) & (pixels >= pixels.max() / 2)


def _pixels(path: Path) -> np.ndarray:
    """(rows, columns) or (rows, columns, channels)."""
    image_io = FORMATS[path.suffix.lower()]
    try:
        content = path.read_bytes()
        if _ENDS[image_io] not in (_scan(content) if image_io == "JPEGImageIO" else content):
            raise _damaged(path.name)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=image_io))
    except OSError as error:
        raise ScanError(f"{path.name}: can't be opened ({error.strerror}). Ask for the right to read it.") from error
    except RuntimeError as error:
        raise _damaged(path.name) from error


def _scan(jpeg: bytes) -> bytes:
    """What follows the header of a JPEG, in which a thumbnail may have an end of its own (ITU-T T.81, B.1.1).

    ITK fills a picture that was cut short with grey and says nothing.
    """
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at + 1] != 0xDA:  # a segment, or a byte that fills
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg[at:]


def _without_colour(pixels: np.ndarray, name: str) -> np.ndarray:
    colours = pixels[..., :3].astype(np.int16)
    transparent = pixels.shape[2] == 4 and (pixels[..., 3] < 255).any()
    if transparent or np.ptp(colours, axis=2).max() > COLOUR:
        what = "is transparent in places" if transparent else "has colours"
        raise ScanError(
            f"{name}: {what}. Save the CT slice alone as a grey picture, without marks, overlays or colour maps."
        )
    return np.ascontiguousarray(pixels[..., 1])


def _damaged(name: str) -> ScanError:
    kind = FORMATS[Path(name).suffix.lower()].removesuffix("ImageIO")
    return ScanError(
        f"{name}: no complete {kind} file that can be read here: cut short, damaged or of another format. "
        "Copy it again, or save it as an 8-bit grey PNG."
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]
