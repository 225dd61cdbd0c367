"""The report: one HTML file with pictures and numbers, which needs nothing beside it."""

from __future__ import annotations

import base64
import datetime
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LabelFreeCovidSegLib import terminology
from LabelFreeCovidSegLib.pipeline import Result
from LabelFreeCovidSegLib.scan import AIR_HU, Grid, bounding_box, resample, windowed

WINDOW_HU = (-1350.0, 150.0)
"""Lung window: level -600, width 1500."""
PIXEL_MM = 0.75
MARGIN_MM = 8.0
"""What is shown around the lungs."""
AXIAL, CORONAL = 9, 3
"""How many slices are shown."""

_FILL, _OUTLINE, _LUNG = 46, 255, 170  # opacity 0..255: the CT must stay readable under a lesion
_LUNG_RGB = (240, 228, 66)  # yellow of the Okabe-Ito palette, as the lesions' colours


@dataclass(frozen=True)
class Picture:
    """One slice, seen as radiologists do: the patient's right is at the left.

    Attributes:
        ct, overlay: PNG data URIs of the same size; the overlay is transparent.
        width, height: in pixels of `PIXEL_MM`.
        caption: where the slice lies.
        lesion_cm2: lesion area in the slice.
        marks: for a coronal slice, (number, height in percent from the top) of the axial slices.
    """

    ct: str
    overlay: str
    width: int
    height: int
    caption: str
    lesion_cm2: float
    marks: tuple[tuple[int, float], ...] = ()


def template(path: Path) -> jinja2.Template:
    """A page to be filled: what is put in is escaped, and what is forgotten is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def render(result: Result) -> str:
    """The report of one result as HTML; pictures are inside, and nothing is fetched from anywhere."""
    axial, coronal = pictures(result)
    return template(Path(__file__).with_name("report.html.j2")).render(
        result=result,
        run=result.run,
        grid=result.scan.native,
        numbers=result.measurements,
        window=WINDOW_HU,
        axial=axial,
        coronal=coronal,
        ground_glass=terminology.GROUND_GLASS,
        consolidation=terminology.CONSOLIDATION,
        lung_rgb=_LUNG_RGB,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def pictures(result: Result) -> tuple[list[Picture], list[Picture]]:
    """Axial slices from head to feet and coronal ones from front to back; together they span the lungs."""
    scan, lungs = result.scan, result.lungs.labels > 0
    margin = tuple(round(MARGIN_MM / spacing) for spacing in scan.grid.spacing_mm)
    box = bounding_box(lungs, margin)
    axial = choose_slices(lungs, result.classes > 0, axis=0, count=AXIAL)[::-1]
    coronal = choose_slices(lungs, result.classes > 0, axis=1, count=CORONAL)
    height = box[0].stop - box[0].start
    marks = tuple((number, 100 * (box[0].stop - k - 0.5) / height) for number, k in enumerate(axial, 1))
    return (
        [_picture(result, (slice(k, k + 1), box[1], box[2]), axis=0) for k in axial],
        [_picture(result, (box[0], slice(j, j + 1), box[2]), axis=1, marks=marks) for j in coronal],
    )


def choose_slices(lungs: np.ndarray, lesion: np.ndarray, axis: int, count: int) -> list[int]:
    """Slices that span the lungs and show the lesions: of `count` equal slabs, each one's slice with most lesion.

    A slab without lesion gives its middle slice. Neighbours keep half a slab apart, the one with less lesion giving
    way, so that no two pictures show the same. Lungs of fewer than `count` slices give all of theirs.
    """
    others = tuple(other for other in range(3) if other != axis)
    span = bounding_box(lungs)[axis]
    area = np.count_nonzero(lesion, axis=others)
    edges = np.linspace(span.start, span.stop, count + 1).round().astype(int)
    slabs = [np.arange(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
    chosen: list[int] = []
    for slab in sorted(slabs, key=lambda slab: -area[slab].max()):
        apart = [k for k in slab if all(2 * abs(k - other) >= len(slab) for other in chosen)]
        free = np.array(apart) if apart else slab
        best = free[area[free].argmax()] if area[free].any() else free[len(free) // 2]
        chosen.append(int(best))
    return sorted(chosen)


def _picture(result: Result, box: tuple[slice, ...], axis: int, marks: tuple[tuple[int, float], ...] = ()) -> Picture:
    """The slice `box`, which is one voxel thick along `axis`: 0 for an axial, 1 for a coronal one."""
    scan = result.scan
    spacing_mm = scan.grid.spacing_mm
    source = scan.grid.covering(box, spacing_mm)
    thickness_mm = spacing_mm[axis]
    target = scan.grid.covering(
        box, (thickness_mm, PIXEL_MM, PIXEL_MM) if axis == 0 else (PIXEL_MM, thickness_mm, PIXEL_MM)
    )

    def plane(array: np.ndarray, outside: float = 0.0, nearest: bool = False) -> np.ndarray:
        flat = resample(array[box], source, target, outside=outside, nearest=nearest).squeeze(axis)
        return flat if axis == 0 else flat[::-1]  # k counts towards the head, rows of a picture go down

    hu = plane(scan.hu, outside=AIR_HU)
    classes = plane(result.classes, nearest=True)
    lungs = plane(result.lungs.labels, nearest=True)
    grey = windowed(hu, WINDOW_HU, (0.0, 255.0)).round().astype(np.uint8)
    pixel_cm2 = np.prod([spacing_mm[a] for a in range(3) if a != axis]) / 100
    return Picture(
        ct=png(grey),
        overlay=png(_overlay(classes, lungs)),
        width=grey.shape[1],
        height=grey.shape[0],
        caption=_where(scan.grid, box, axis),
        lesion_cm2=float(np.count_nonzero(result.classes[box]) * pixel_cm2),
        marks=marks,
    )


def _overlay(classes: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """(rows, columns, 4) RGBA: lungs as a thin line, each class as a line around a translucent area."""
    rgba = np.zeros((*classes.shape, 4), np.uint8)
    for side in np.unique(lungs[lungs > 0]):
        rgba[border(lungs == side)] = (*_LUNG_RGB, _LUNG)
    for segment in terminology.LESIONS:
        area = classes == segment.label
        rgba[area] = (*segment.rgb, _FILL)
        rgba[border(area)] = (*segment.rgb, _OUTLINE)
    return rgba


def outlines(grey: np.ndarray, lungs: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """A slice with lungs and lesions drawn into it, (rows, columns, 3) uint8 RGB.

    Args:
        grey: (rows, columns) uint8. lungs, lesion: (rows, columns) bool.
    """
    rgba = _overlay(lesion.astype(np.uint8) * terminology.GROUND_GLASS.label, lungs.astype(np.uint8))
    opacity = rgba[..., 3:] / 255
    return (grey[..., None] * (1 - opacity) + rgba[..., :3] * opacity).round().astype(np.uint8)


def border(area: np.ndarray) -> np.ndarray:
    """The outermost pixels of `area` (rows, columns) bool."""
    return area & ~ndimage.binary_erosion(area, border_value=0)


def _where(grid: Grid, box: tuple[slice, ...], axis: int) -> str:
    centre = [(extent.start + extent.stop - 1) / 2 for extent in box[::-1]]
    steps = np.array(centre) * np.array(grid.spacing)
    point = np.array(grid.origin) + np.array(grid.direction).reshape(3, 3) @ steps
    if axis == 0:
        return f"{'S' if point[2] >= 0 else 'I'} {abs(point[2]):.0f} mm"
    return f"{'P' if point[1] >= 0 else 'A'} {abs(point[1]):.0f} mm"


def png(pixels: np.ndarray) -> str:
    """(rows, columns) grey or (rows, columns, 4) RGBA pixels as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=9)
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
