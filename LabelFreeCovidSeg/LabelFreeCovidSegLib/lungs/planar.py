"""The lungs in a single picture without Hounsfield units by darkness alone: large dark regions inside the body.

Two fields of view are told apart by the picture's border. Where most of it is dark there is air around the body, and
lungs are what the body encloses. Else the picture is cropped to the chest, lungs may touch its border, and only dark
corners lie outside. Lengths are hundredths of the picture's longer side: nobody knows its pixel size.

What has no air is closed over where it is small, hila too. `picturenet`, which knows the lungs' shape, corrects that.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.morphology import closing, largest, opening

BLUR, WALL, NECK, CLOSING = 0.4, 0.5, 0.7, 6.0
"""Noise that is smoothed away; half the width of a table's wall, which is no body; half that of bridges from lung to
the air outside, which are cut; half that of the dents that are filled."""
DARK_BORDER = 0.6
LUNG_SHARE = 0.5
"""Of the way from aerated lung to soft tissue, where the blurred edge between them lies, about -410 HU. What parts dark
from bright in the whole picture is too dark for ill lungs where there is much air around the body."""
LEAST_SHARE, LEAST_OF_LARGEST = 0.004, 0.08
"""Of the picture, and of the largest region: smaller ones are trachea, bronchi, oesophagus and stomach."""
LARGEST_CORNER = 0.05
"""Of a cropped picture; a larger dark region that holds a corner is a lung."""
LARGEST_HOLE = 0.01
"""Of a lung: a vessel. What is larger may be the dome of the diaphragm, or the heart where the lungs touch."""
_PAD = 10
_PIXELS = (1.0, 1.0, 1.0)


def find(grey: np.ndarray) -> np.ndarray:
    """Both lungs of an upright picture.

    Args:
        grey: (j, i), any unit in which air is darker than tissue.

    Returns:
        (j, i) bool; empty where there is nothing like lungs.
    """
    unit = max(grey.shape) / 100
    smooth = ndimage.gaussian_filter(ndimage.median_filter(grey, 3).astype(np.float32), BLUR * unit)
    dark = smooth < _otsu(smooth)
    cropped = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]]).mean() <= DARK_BORDER
    inside = np.ones_like(dark) if cropped else ndimage.binary_fill_holes(largest(_opened(~dark, WALL * unit)))
    if not (dark & inside).any():
        return np.zeros_like(dark)
    aerated, tissue = np.percentile(smooth[dark & inside], 25), np.median(smooth[inside & ~dark])
    dark = inside & (smooth < aerated + (tissue - aerated) * LUNG_SHARE)
    regions, count = ndimage.label(_opened(dark, NECK * unit))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = 0
    corner = np.zeros(count + 1, dtype=bool)
    corner[regions[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    outside = corner & ((sizes < LARGEST_CORNER * grey.size) | (not cropped))
    sizes[outside] = 0
    kept = (sizes > LEAST_SHARE * grey.size) & (sizes >= LEAST_OF_LARGEST * sizes.max())
    lungs = np.zeros_like(dark)
    for region in np.flatnonzero(kept):
        lungs |= filled(_closed(regions == region, CLOSING * unit))
    return lungs


def filled(mask: np.ndarray) -> np.ndarray:
    """`mask` without its holes but the large ones."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    return mask | ((holes > 0) & (sizes <= LARGEST_HOLE * mask.sum())[holes])


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """`mask` closed as if there were none of it beyond the picture, where lungs that touch its border end."""
    pad = int(2 * radius) + 2
    return closing(np.pad(mask, pad)[None], radius, _PIXELS)[0, pad:-pad, pad:-pad]


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """`mask` opened as if it went on beyond the picture."""
    return opening(np.pad(mask, _PAD, mode="edge")[None], radius, _PIXELS)[0, _PAD:-_PAD, _PAD:-_PAD]


def _otsu(values: np.ndarray) -> float:
    """The grey level that parts dark from bright best (Otsu 1979)."""
    method = sitk.OtsuThresholdImageFilter()
    method.SetNumberOfHistogramBins(256)
    method.Execute(sitk.GetImageFromArray(values))
    return method.GetThreshold()
