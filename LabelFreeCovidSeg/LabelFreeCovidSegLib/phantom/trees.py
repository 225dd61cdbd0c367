"""Airways and vessels of the chest: the large ones drawn by hand, the lung's own grown from the hila."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LabelFreeCovidSegLib.phantom.anatomy import lobe_distances, random_lung_points
from LabelFreeCovidSegLib.phantom.tubes import Tubes, grow

SEEDS_PER_LUNG = 2600
"""End points of the arteries of one lung, and as many of its veins."""

HILUM = {
    "bronchus": np.array([(-42.0, 19.0, 4.0), (46.0, 23.0, -2.0)]),
    "artery": np.array([(-44.0, 8.0, 8.0), (48.0, 20.0, 14.0)]),
    "vein": np.array([(-42.0, 8.0, -14.0), (44.0, 14.0, -14.0)]),
}
"""Where the trees of the right and the left lung begin (x, y, z)."""

BESIDE_MM = np.array((2.6, -2.6, 1.0))
"""An artery runs along its bronchus, this far away."""


@dataclass(frozen=True)
class Branches:
    """All tubes: trachea and main bronchi (`trunk`), great vessels, and inside the lungs airways and vessels."""

    trunk_lumen: Tubes
    trunk_wall: Tubes
    great_vessels: Tubes
    airway_lumen: Tubes
    airway_wall: Tubes
    vessels: Tubes


def branches(rng: np.random.Generator) -> Branches:
    """Grow one patient's airways and vessels."""
    trunk = Tubes.joined(
        [
            Tubes.along((0, 6, 170, 9), (0, 8, 100, 9), (-2, 17, 28, 8.5)),
            Tubes.along((-2, 17, 28, 7.5), (-24, 19, 12, 7), (-42, 19, 4, 6)),
            Tubes.along((-2, 17, 28, 7), (22, 20, 11, 6.5), (46, 23, -2, 5.5)),
        ]
    )
    airways, vessels = [], []
    for lung in range(2):
        points = random_lung_points(2 * SEEDS_PER_LUNG, rng, lung)
        arterial, venous = points[:SEEDS_PER_LUNG], points[SEEDS_PER_LUNG:]
        airways.append(_tree("bronchus", lung, arterial, 4.4, rng_like := np.random.default_rng(rng.integers(2**32))))
