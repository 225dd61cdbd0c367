"""Airways and vessels of the chest: the large ones laid by hand, the lung's own grown from the hila."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from LabelFreeCovidSegLib.phantom.anatomy import Point, lobe_of, random_lung_points
from LabelFreeCovidSegLib.phantom.tubes import Tubes, grow

SEEDS_PER_LUNG = 6000
"""End points of the arteries of one lung; its veins have as many."""

BRONCHI = ((-42.0, 19.0, 4.0), (46.0, 23.0, -2.0))
ARTERIES = ((-40.0, 10.0, 8.0), (46.0, 18.0, 14.0))
VEINS = ((-40.0, 8.0, -14.0), (44.0, 12.0, -14.0))
"""Where the trees of the right and the left lung begin (x, y, z)."""

BESIDE_MM = np.array((2.6, -2.6, 1.0))
"""An artery runs along its bronchus, this far away."""

LOBAR_VESSEL_MM, LOBAR_BRONCHUS_MM = 5.8, 3.8
"""Radius at the hilum of the tree of one lobe."""

NARROWEST_AIRWAY_MM = 1.0
"""Airways with a smaller radius are not seen on CT, and not drawn."""


@dataclass(frozen=True, eq=False)
class Branches:
    """Tubes outside the lungs (`trunk`: trachea and main bronchi; great vessels) and inside (airways, vessels)."""

    trunk: Tubes
    great_vessels: Tubes
    airways: Tubes
    vessels: Tubes


def branches(rng: np.random.Generator) -> Branches:
    """Grow one patient's airways and vessels. Airways are given by their lumen."""
    airways, vessels = [], []
    for lung in range(2):
        points = random_lung_points(2 * SEEDS_PER_LUNG, rng, lung)
        arterial, venous = points[:SEEDS_PER_LUNG], points[SEEDS_PER_LUNG:]
        # The same turns fork an artery where its bronchus forks.
        turns = int(rng.integers(2**32))
        lobe = lobe_of(arterial)
        airways.append(_tree(BRONCHI[lung], LOBAR_BRONCHUS_MM, arterial, lobe, np.random.default_rng(turns)))
        beside = arterial + BESIDE_MM
        vessels.append(_tree(ARTERIES[lung], LOBAR_VESSEL_MM, beside, lobe, np.random.default_rng(turns)))
        vessels.append(_tree(VEINS[lung], LOBAR_VESSEL_MM, venous, lobe_of(venous), rng))
    return Branches(
        _trunk(), _great_vessels(), Tubes.joined(airways).wider_than(NARROWEST_AIRWAY_MM), Tubes.joined(vessels)
    )


def wall_mm(lumen: Tubes) -> np.ndarray:
    """Thickness of the wall around each airway."""
    return 0.4 + 0.1 * lumen.radius


def _tree(root: Point, radius: float, seeds: np.ndarray, lobe: np.ndarray, rng: np.random.Generator) -> Tubes:
    """One tree for each lobe, all from the hilum."""
    lobe = np.unique(lobe, return_inverse=True)[1]
    count = int(lobe.max()) + 1
    return grow(np.tile(np.array(root), (count, 1)), np.full(count, radius), seeds, lobe, rng)


def _trunk() -> Tubes:
    return Tubes.joined(
        [
            Tubes.along((0, 6, 170, 9), (0, 8, 100, 9), (-2, 17, 28, 8.5)),
            Tubes.along((-2, 17, 28, 7.5), (-24, 19, 12, 7), (*BRONCHI[0], 5)),
            Tubes.along((-2, 17, 28, 7), (22, 20, 11, 6.5), (*BRONCHI[1], 4.8)),
        ]
    )


def _great_vessels() -> Tubes:
    arch = ((-14, -18, -10, 15), (-17, -22, 30, 15), (-8, -18, 52, 14), (8, 4, 60, 13), (20, 28, 52, 12.5))
    return Tubes.joined(
        [
            Tubes.along(*arch, (24, 40, 30, 12), (22, 38, -60, 12), (12, 38, -170, 11)),
            Tubes.along((-22, -16, 90, 8), (-26, -14, 40, 9.5), (-26, -10, -20, 11)),  # superior vena cava
            Tubes.along((-22, -16, 90, 7.5), (-26, -12, 170, 7.5)),
            Tubes.along((-22, -18, 86, 7), (4, -26, 92, 6.5), (28, -14, 170, 7)),
            Tubes.along((-6, -14, 60, 6.5), (-16, -8, 110, 6), (-20, -4, 170, 5)),  # arteries to head and arms
            Tubes.along((6, 0, 62, 4.5), (14, -2, 170, 4)),
            Tubes.along((15, 14, 60, 5.5), (26, 12, 110, 5.5), (32, 4, 170, 5)),
            Tubes.along((10, -30, -16, 14), (14, -14, 16, 13), (*ARTERIES[1], 9)),  # pulmonary arteries
            Tubes.along((14, -14, 14, 12), (-10, 2, 8, 10), (*ARTERIES[0], 8)),
            Tubes.along((-14, 12, -14, 15), (14, 14, -14, 15)),  # left atrium and its veins
            Tubes.along((-14, 12, -14, 10), (*VEINS[0], 7)),
            Tubes.along((14, 14, -14, 10), (*VEINS[1], 7)),
            Tubes.along((6, 35, 170, 6), (7, 36, 20, 7), (10, 30, -60, 7), (22, 16, -110, 8)),  # gullet
        ]
    )
