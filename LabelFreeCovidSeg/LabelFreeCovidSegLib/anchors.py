"""Hounsfield units for a picture that has none, from two greys whose density is known: air or lung, and soft tissue.

Windowing is a straight line, clipped at both ends, so two points on it give it back. What was clipped is lost, and a
picture whose greys were bent (a gamma curve) or equalised place by place has no such line at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.errors import ScanError

AIR_HU = -1000.0
"""By the definition of the unit."""
LUNG_HU = -860.0
"""Healthy lung at full inspiration; -840 to -880 are usual, -750 after breathing out, emphysema is nearer to air."""
TISSUE_HU = 40.0
"""Muscle 40 to 60, unenhanced blood 30 to 45; with contrast medium the heart is 100 brighter, and muscle hardly."""

LEAST_CONTRAST = 30
"""Grey levels between the anchors; with fewer, one level is more than 30 HU."""
LEAST_WIDTH_HU, LARGEST_WIDTH_HU = 500.0, 5000.0
LUNG_RANGE_HU = (-930.0, -400.0)
"""What the lungs must come out as if air is to be believed, ill ones too; else what is dark around the body is no air,
but filled in, or clipped."""
AERATED_PERCENTILE = 25.0
"""Of the lungs: a lesion is brighter, and so it hardly moves this even where half of the lung is ill."""
SMOOTH = 0.5
"""Standard deviation of the Gaussian against noise, in hundredths of the picture's longer side."""
NEAR = (1.5, 8.0)
"""How far from the lungs tissue is looked at, in the same unit: past the blurred edge, before the air outside."""
CLIPPED = 2
"""So near to black or white a grey may have been clipped."""
LEAST_PIXELS = 50
EQUALISED_SPREAD = 0.22
"""Of tissue's grey, between its quartiles and in units of the anchors' distance: 0.10 to 0.19 in the middle of windowed
sets, 0.26 to 0.38 in the middle of equalised ones."""

EQUALISED_HU = (-800.0, 100.0)
"""What greys 0 and 255 of an equalised picture are handed on as: the range in which every method tells densities apart.
Training on such pictures uses the same."""

LUNGS_WIDTH_MM = 265.0
"""Both lungs of an adult, from side to side where they are widest."""
LARGEST_FIELD_MM = 400.0
"""Chest CT has fields of view of 300 to 500 mm; near the apices, lungs would make it wider than that."""


@dataclass(frozen=True)
class Calibration:
    """The line from grey to HU, and how it was found.

    Attributes:
        dark: "air" or "lung", what the first anchor is.
        dark_grey, dark_hu, tissue_grey, tissue_hu: the anchors.
        spread: of tissue's grey between its quartiles, as a share of the distance of the anchors.
        warnings: what to doubt about it, one sentence each.
    """

    dark: str
    dark_grey: float
    dark_hu: float
    tissue_grey: float
    tissue_hu: float
    spread: float
    warnings: tuple[str, ...] = ()

    @property
    def window_hu(self) -> tuple[float, float]:
        """What greys 0 and 255 stand for."""
        low, high = self.hu(np.array([0.0, 255.0], dtype=np.float32))
        return float(low), float(high)

    def hu(self, grey: np.ndarray) -> np.ndarray:
        """Greys as HU, float32 of the same shape."""
        slope = (self.tissue_hu - self.dark_hu) / (self.tissue_grey - self.dark_grey)
        return ((grey - np.float32(self.dark_grey)) * np.float32(slope) + np.float32(self.dark_hu)).astype(np.float32)


def calibrate(grey: np.ndarray, lungs: np.ndarray, name: str) -> Calibration:
    """Find the two anchors of a windowed picture.

    Air around the body is the better dark anchor where it is seen: it is the same in every patient. Where it is not, or
    was clipped, or would make the lungs implausible, aerated lung stands in for it.

    Args:
        grey: (j, i) upright picture. lungs: (j, i) bool.

    Raises:
        ScanError: there is no soft tissue beside the lungs, or the line would be implausible.
    """
    unit = max(grey.shape) / 100
    smooth = ndimage.gaussian_filter(grey.astype(np.float32), SMOOTH * unit)
    from_lungs = ndimage.distance_transform_edt(~lungs)
    lung = float(np.percentile(smooth[lungs], AERATED_PERCENTILE))
    around = smooth[(from_lungs > NEAR[0] * unit) & (from_lungs < NEAR[1] * unit)]
    middle = (lung + float(np.percentile(around, 90) if around.size else lung)) / 2
    tissue = around[around > middle]
    if tissue.size < LEAST_PIXELS or _mode(tissue, brightest=True) - lung < LEAST_CONTRAST:
        raise ScanError(
            f"{name}: no soft tissue is seen beside the lungs, so its greys can't be turned into Hounsfield units. "
            "Give the slice with the chest wall around the lungs."
        )
    bright = _mode(tissue, brightest=True)
    spread = float(np.subtract(*np.percentile(tissue, [75, 25]))) / (bright - lung)
    found = Calibration("lung", lung, LUNG_HU, bright, TISSUE_HU, spread)
    outside = _outside(smooth, (smooth < middle) & ~lungs, NEAR[0] * unit)
    if outside.size >= grey.size / 100 and (air := _mode(outside)) > CLIPPED:
        by_air = Calibration("air", air, AIR_HU, bright, TISSUE_HU, spread)
        low, high = LUNG_RANGE_HU
        if bright - air >= LEAST_CONTRAST and low < float(by_air.hu(np.array(lung))) < high:
            found = by_air
    width = found.window_hu[1] - found.window_hu[0]
    if not LEAST_WIDTH_HU <= width <= LARGEST_WIDTH_HU:
        raise ScanError(
            f"{name}: lung and soft tissue lie so far apart that the window would be {width:.0f} HU wide, which nobody "
            "uses for lungs. Give a slice in a lung window."
        )
    return Calibration(found.dark, found.dark_grey, found.dark_hu, bright, TISSUE_HU, spread, _doubts(found))


def of_equalised(grey: np.ndarray) -> np.ndarray:
    """Greys of a picture that can't be calibrated in the place of HU, float32 of the same shape: see `EQUALISED_HU`."""
    low, high = EQUALISED_HU
    return np.float32(low) + grey * np.float32((high - low) / 255)


def pixel_mm(lungs: np.ndarray) -> float:
    """The pixel size at which `lungs` (j, i) are as wide as an adult's, in a field of view that a scanner has.

    Above and below the middle of the chest lungs are narrower, and pixels are taken for larger than they are.
    """
    columns = np.flatnonzero(lungs.any(axis=0))
    return min(LUNGS_WIDTH_MM / float(columns[-1] - columns[0] + 1), LARGEST_FIELD_MM / max(lungs.shape))


def _outside(smooth: np.ndarray, dark: np.ndarray, margin: float) -> np.ndarray:
    """The greys, black excepted, of the dark regions that hold a corner of the picture, past their blurred edge."""
    regions, _ = ndimage.label(ndimage.distance_transform_edt(dark) > margin)
    corners = regions[[0, 0, -1, -1], [0, -1, 0, -1]]
    values = smooth[np.isin(regions, corners[corners > 0])]
    return values[values > CLIPPED]  # what lies beyond the scan circle is blacker than air


def _mode(values: np.ndarray, brightest: bool = False) -> float:
    """The grey level that most of `values` are near, or the brightest of those half as frequent: muscle, not fat."""
    counts = np.bincount(np.clip(values.round().astype(int), 0, 255), minlength=256).astype(float)
    counts = np.pad(ndimage.gaussian_filter1d(counts, 2.0, mode="constant"), 1)
    if not brightest:
        return float(counts.argmax() - 1)
    peaks = (counts[1:-1] >= counts[:-2]) & (counts[1:-1] > counts[2:]) & (counts[1:-1] >= counts.max() / 2)
    return float(np.flatnonzero(peaks)[-1])


def _doubts(found: Calibration) -> tuple[str, ...]:
    doubts = []
    if found.tissue_grey >= 255 - CLIPPED:
        doubts.append("Soft tissue is white, so its window may end below 40 HU and lesions be denser than shown.")
    if found.dark_grey <= CLIPPED:
        doubts.append("The lungs are black, so their density is a guess and faint ground glass may be lost.")
    return tuple(doubts)
