"""Consolidation that hangs on the heart, the mediastinum or the diaphragm, with lung around the rest of it.

Closing with a ball small enough to spare those can't cover it, and there are no ribs to close against. But organs are
larger than it, so they can be told from what juts out of them; and of that, only a lesion has lung on most sides.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.morphology import Spacing, dilation, opening

ORGAN_MM = 18.0
"""A ball of this radius fits into heart, liver, mediastinum and chest wall."""
BESIDE_MM = 3.0
NECK_MM = 3.5
"""Vessels and sheets in which a ball of this radius does not fit are cut off."""
LEAST_ML = 0.8
LUNG_FACING = 2 / 3
"""Share of the surface with lung behind it. What comes nearest on healthy scans, a hilum full of contrast, has 0.5."""
BONE_ABOVE_HU = 180.0


def dense_lung(hu: np.ndarray, lungs: np.ndarray, gas: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Pieces of soft tissue that jut out into the lung and are mostly surrounded by it.

    Args:
        hu: (k, j, i) Hounsfield units on voxels of about 2 mm.
        lungs: (k, j, i) bool, what holds air of both lungs.
        gas: (k, j, i) bool, airways, stomach and bowel.
    """
    tissue = ~lungs & ~gas
    # Beyond the array the body goes on: without that, the chest wall at its faces would be too thin for the ball.
    wide = tuple(int(np.ceil(2 * ORGAN_MM / mm)) for mm in spacing)
    body = np.pad(tissue, [(n, n) for n in wide], constant_values=True)
    organs = dilation(opening(body, ORGAN_MM, spacing), BESIDE_MM, spacing)
    organs = organs[tuple(slice(n, -n) for n in wide)]
    pieces, _ = ndimage.label(opening(tissue & ~organs & (hu < BONE_ABOVE_HU), NECK_MM, spacing))
    found = np.zeros_like(lungs)
    least = LEAST_ML * 1000.0 / float(np.prod(spacing))
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        around = tuple(slice(max(axis.start - 2, 0), axis.stop + 2) for axis in box)
        piece = pieces[around] == number
        shell = ndimage.binary_dilation(piece) & ~piece
        if piece.sum() >= least and lungs[around][shell].mean() >= LUNG_FACING:
            found[around] |= piece
    return found
