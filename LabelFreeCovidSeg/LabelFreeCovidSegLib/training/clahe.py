"""CT slices as the equalised pictures that public collections offer, so that a network can learn from the like.

A picture that was equalised place by place has no Hounsfield units and can't get them back. But a scan can be put
through the same steps: 256 x 256 pixels, the slice's own range as 8 bits, contrast-limited adaptive histogram
equalisation (Zuiderveld, Graphics Gems IV, 1994) as OpenCV has it.

A method that works on slices learns from such pictures if its preset's `domain` is "clahe256". Its cache then holds
whole slices, because the range and the tiles are those of the whole picture; lesions are planted into these in
Hounsfield units, and then they take the way of `seen` or `stretched`. They differ from slices straight from the scanner
in this: what lies outside the scan circle is air, as everywhere in this project, where it would set the range; what is
brighter than `BRIGHTEST_HU` is cut off; and they went through the working grid, so that their noise is smoother.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LabelFreeCovidSegLib import anchors
from LabelFreeCovidSegLib.scan import bounding_box

SIDE = 256
CLIP_LIMIT = 7.0
TILES = (8, 8)
FLAT_HU = 1.0
"""Less than that between the darkest and the brightest voxel is rounding."""
BRIGHTEST_HU = 3071.0
"""The most that 12 bits hold: metal."""
LEAST_LUNG = 0.25
"""Share of lung from which on a pixel of the smaller mask is lung."""


def clahe256(hu: np.ndarray, lung: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An axial slice and its lungs as an equalised picture of 256 x 256 pixels.

    Args:
        hu: (j, i) float32. Its darkest and brightest voxel, metal and table included, become black and white; what
            lies outside the scan circle counts too.
        lung: (j, i) bool.

    Returns:
        (256, 256) uint8 and (256, 256) bool. A slice of one density is black.
    """
    import cv2  # only training needs it

    resized = cv2.resize(hu.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    low, high = float(resized.min()), float(resized.max())
    mask = cv2.resize(lung.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) > LEAST_LUNG
    if high - low < FLAT_HU:
        return np.zeros((SIDE, SIDE), np.uint8), mask
    grey = ((resized - low) * (255 / (high - low))).astype(np.uint8)
    return cv2.createCLAHE(CLIP_LIMIT, TILES).apply(grey), mask


def seen(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: float, around_mm: float, *maps: np.ndarray
) -> tuple[np.ndarray, ...]:
    """A slice as a method sees it if it comes as an equalised picture; the steps are those of `picture_pipeline`.

    Args:
        hu: (j, i) float32, the whole slice.
        lung: (j, i) bool, some of it.
        spacing_mm: pixels of the result, by the pixel size that one would guess from the picture.
        around_mm: what is kept around the lungs.
        maps: (j, i) uint8, labels of the same place.

    Returns:
        (j, i) float32, greys in the place of HU, and the maps.
    """
    grey, mask = clahe256(hu, lung)
    pixel_mm = anchors.pixel_mm(mask)
    margin = int(np.ceil(around_mm / pixel_mm))
    box = bounding_box(mask, (margin, margin))
    extents = tuple(round((axis.stop - axis.start) * pixel_mm / spacing_mm) for axis in box)
    return _cut(grey, box, extents, maps)


def stretched(
    hu: np.ndarray, box: Sequence[slice], extents: Sequence[int], *maps: np.ndarray
) -> tuple[np.ndarray, ...]:
    """A slice as `seen` by a method that stretches a box to a canvas, whatever its pixels measure.

    Args:
        box: rows and columns of `hu`.
        extents: of the canvas, (j, i).
    """
    grey, _ = clahe256(hu, np.zeros(hu.shape, bool))
    places = [np.array((axis.start, axis.stop)) * SIDE / n for axis, n in zip(box, hu.shape, strict=True)]
    return _cut(grey, [slice(int(start), int(np.ceil(stop))) for start, stop in places], extents, maps)


def _cut(
    grey: np.ndarray, box: Sequence[slice], extents: Sequence[int], maps: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """A box of an equalised picture, and of labels of the whole slice, brought to `extents`."""
    import cv2

    size, there = tuple(extents)[::-1], tuple(box)
    labels = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT) for each in maps]
    image = cv2.resize(anchors.of_equalised(grey)[there], size, interpolation=cv2.INTER_LINEAR)
    return image, *(cv2.resize(each[there], size, interpolation=cv2.INTER_NEAREST_EXACT) for each in labels)
