"""CT slices as the equalised pictures that public collections offer, so that a network can learn from the like.

A picture that was equalised place by place has no Hounsfield units and can't get them back. But a scan can be put
through the same steps: 256 x 256 pixels, the slice's own range as 8 bits, contrast-limited adaptive histogram
equalisation (Zuiderveld, Graphics Gems IV, 1994) as OpenCV has it.
"""

from __future__ import annotations

import numpy as np

SIDE = 256
CLIP_LIMIT = 7.0
TILES = (8, 8)
FLAT_HU = 1.0
"""Less than that between the darkest and the brightest voxel is rounding."""
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
