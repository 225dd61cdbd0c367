"""A case with its image and its masks as arrays: the one place where expert masks are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import volume
from LabelFreeCovidSegLib.errors import DataSetError, ScanError
from LabelFreeCovidSegLib.evaluation.datasets import Case, Mask
from LabelFreeCovidSegLib.lungs.external import coincide, summary
from LabelFreeCovidSegLib.pictures import direction
from LabelFreeCovidSegLib.scan import Grid, Scan


@dataclass(frozen=True, eq=False)
class Expert:
    """What experts drew, (k, j, i) uint8 on the scan's LPS grid; a picture has k = 1.

    Attributes:
        lesions: 1 where there is lesion.
        lungs: 1 where there is lung; None if nobody drew it.
        classes: 1 ground glass, 2 consolidation; None if nobody told them apart.
    """

    lesions: np.ndarray
    lungs: np.ndarray | None = None
    classes: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """Grey values without unit and pixels without size, upright.

    Attributes:
        grey: (k, j, i) float32 in LPS, 0 to 255; k = 1 unless these are the pictures of a volume, or a windowed one.
        grid: of the windowed volume; unit pixels if there is none.
        names: of the slices, for messages.
    """

    grey: np.ndarray
    grid: Grid
    names: tuple[str, ...]

    def slices(self) -> Iterator[Scan]:
        """Each slice as a scan with greys in the place of HU."""
        grid = replace(self.grid, size=(*self.grid.size[:2], 1))
        for name, grey in zip(self.names, self.grey, strict=True):
            yield Scan(grey[None], grid, grid, name)


def of_scan(case: Case, scan: Scan) -> Expert:
    """The masks of a case in HU.

    Raises:
        DataSetError: a mask can't be read, or lies on another grid than its scan.
    """

    def opened(mask: Mask) -> np.ndarray:
        image = _image(mask.path)
        if image.GetDimension() != 3 or not coincide(Grid.of(image), scan.native):
            where = summary(Grid.of(image)) if image.GetDimension() == 3 else "2-D"
            raise DataSetError(
                f"{mask.path} ({where}) does not lie on the grid of {case.image.name} ({summary(scan.native)}). "
                "Resample the mask onto the scan, or download both again."
            )
        return scan.oriented(image)

    return _expert(case, opened, scan.hu.shape)


def of_picture(case: Case) -> tuple[Picture, Expert]:
    """The grey values and masks of a picture, of a volume of pictures, or of a volume that has lost its HU.

    Raises:
        DataSetError: a file can't be read, is coloured, a mask has another size than its picture, or the pictures of
            a volume differ in size.
    """
    if not case.slices:
        return _of_one(case)
    pictures, experts = zip(*(_of_one(each) for each in case.slices), strict=True)
    for picture in pictures:
        if picture.grey.shape != pictures[0].grey.shape:
            raise DataSetError(
                f"{case.image.with_name(picture.names[0])}: of another size than {pictures[0].names[0]}, though both "
                f"are slices of {case.name}. Give the slices as they came from the volume."
            )

    grey = np.concatenate([picture.grey for picture in pictures])
    lesions = np.concatenate([expert.lesions for expert in experts])
    lungs, classes = stacked([expert.lungs for expert in experts]), stacked([expert.classes for expert in experts])
    names = tuple(picture.names[0] for picture in pictures)
    return Picture(grey, _unit_grid(grey.shape), names), Expert(lesions, lungs, classes)


def stacked(slices: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Slices (1, j, i) as one array (k, j, i); None if one is not there."""
    there = [each for each in slices if each is not None]
    return np.concatenate(there) if len(there) == len(slices) else None


def _of_one(case: Case) -> tuple[Picture, Expert]:
    image = _image(case.image)
    grey = _plane(image, case.image, case)

    def opened(mask: Mask) -> np.ndarray:
        drawn = _plane(_image(mask.path), mask.path, case)
        if drawn.shape != grey.shape:
            raise DataSetError(
                f"{mask.path}: {drawn.shape[-1]} x {drawn.shape[-2]} pixels, but {case.image.name} has "
                f"{grey.shape[-1]} x {grey.shape[-2]}. Give the mask that belongs to the picture."
            )
        return _upright(drawn, case)

    upright = _upright(_as_greys(grey), case)
    if _is_volume(image, case):
        names = tuple(f"{case.image.name} slice {k}" for k in range(len(upright)))
        return Picture(upright, Grid.of(sitk.DICOMOrient(image, "LPS")), names), _expert(case, opened, upright.shape)
    name = case.image.name if case.index is None else f"{case.image.name} slice {case.index}"
    return Picture(upright, _unit_grid(upright.shape), (name,)), _expert(case, opened, upright.shape)


def _as_greys(values: np.ndarray) -> np.ndarray:
    """Float32 from 0 to 255: as they are if they are 8-bit greys, else stretched, which calibrating takes back."""
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    return values if low >= 0 and high <= 255 else (values - low) * np.float32(255 / (high - low))


def _upright(pixels: np.ndarray, case: Case) -> np.ndarray:
    """Pixels (k, rows, columns) as the case says that they lie, in LPS."""
    image = sitk.GetImageFromArray(pixels)
    image.SetDirection(direction(case.orientation))
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


def _expert(case: Case, opened: Callable[[Mask], np.ndarray], shape: tuple[int, ...]) -> Expert:
    def mask(drawn: Mask | None) -> np.ndarray | None:
        return None if drawn is None else _chosen(opened(drawn), drawn)

    lesions, lungs, classes = mask(case.lesions), mask(case.lungs), mask(case.classes)
    if classes is not None and classes.max(initial=0) > 2:
        raise DataSetError(f"{case.name}: classes are 1 (ground glass) and 2 (consolidation), not {classes.max()}.")
    return Expert(
        lesions=np.zeros(shape, np.uint8) if lesions is None else (lesions > 0).astype(np.uint8),
        lungs=None if lungs is None else (lungs > 0).astype(np.uint8),
        classes=classes,
    )


def _chosen(labels: np.ndarray, mask: Mask) -> np.ndarray:
    """The labels that count, as they are; 0 elsewhere."""
    kept = labels if mask.labels is None else np.where(np.isin(labels, mask.labels), labels, 0)
    return np.round(kept).astype(np.uint8)


def _plane(image: sitk.Image, path: Path, case: Case) -> np.ndarray:
    """(k, j, i) of a picture, of one of a stack, or of a whole windowed volume."""
    array = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS") if _is_volume(image, case) else image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        palette = _palette(path)
        if palette is not None:
            array = _labels(array[..., :3], palette)
        elif (array == array[..., :1]).all():
            array = array[..., 0]
        else:
            raise DataSetError(f"{path}: a coloured picture. Give a greyscale one.")
    if array.ndim == 2:
        return array[None]
    return array if case.index is None else array[case.index : case.index + 1]


def _palette(path: Path) -> np.ndarray | None:
    """The colours (n, 3) that the labels of a PNG stand for, which ITK gives in their place; None if it has none."""
    start, found, rest = path.read_bytes().partition(b"PLTE")
    if not (start.startswith(b"\x89PNG") and found):
        return None
    length = int.from_bytes(start[-4:], "big")
    return np.frombuffer(rest[:length], np.uint8).reshape(-1, 3)


def _labels(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The label (..., uint8) of each colour (..., 3): the first one in the palette, 0 of a colour that is not there."""
    weights = np.array([1 << 16, 1 << 8, 1])
    table = np.zeros(1 << 24, np.uint8)
    table[(palette @ weights)[::-1]] = np.arange(len(palette))[::-1]
    return table[colours @ weights]


def _is_volume(image: sitk.Image, case: Case) -> bool:
    return image.GetDimension() == 3 and case.index is None


def _unit_grid(shape: tuple[int, ...]) -> Grid:
    k, j, i = shape
    return Grid((i, j, k), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def _image(path: Path) -> sitk.Image:
    try:
        return volume.voxels(volume.header(path)) if volume.format_of(path) else sitk.ReadImage(path)
    except (RuntimeError, OSError, ScanError) as error:
        raise DataSetError(f"{path}: can't be read ({error}). Download it again.") from error
