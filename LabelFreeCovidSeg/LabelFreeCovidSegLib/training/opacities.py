"""Healthy lung made ill in two textures, ground glass and consolidation, and told apart: `synthesis` with labels.

It stands for the synthetic slices that Chen et al. (see `networks.uda`) had from a network which expert masks had
taught. Shapes and textures are NormNet's (Yao et al. 2021), with a range of density for each class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.quantify import CONSOLIDATION, GROUND_GLASS
from LabelFreeCovidSegLib.synthesis import REFERENCE_LUNG_ML, LesionModel, Shapes, Textures, draw_shapes, paint

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Opacity:
    """A class of lesions.

    Attributes:
        lesions: shapes and textures; densities are intensities of NormNet's window, which the generator was made for.
        probability: that a piece of lung has any.
        share: of the generator's number of lesions, from a trace to severe disease.
    """

    lesions: LesionModel
    probability: float
    share: tuple[float, float] = (0.1, 1.0)


OPACITIES = {
    # In Hounsfield units -575 to -350 and -260 to 55, averaged over the bright part of a texture.
    GROUND_GLASS: Opacity(LesionModel(textures=Textures(mean_bright=(0.25, 0.5))), probability=0.8),
    # Dense throughout, and not as large: the paper's largest lesions fill a lobe.
    CONSOLIDATION: Opacity(
        LesionModel(
            shapes=Shapes(small_counts=(2, 5), medium_counts=(2, 5), large_probability=0.1),
            textures=Textures(a=(0.5, 1.0), mean_bright=(0.6, 0.95)),
        ),
        probability=0.6,
    ),
}
FADING_MM = (0.0, 1.5)
"""A lesion has no sharper edge than the scanner: its excess over healthy lung is blurred in the slice."""


def infect(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: Spacing, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """A piece of healthy lung with lesions of both classes, or of one, or with none.

    Args:
        hu: (k, j, i) float32. lung: (k, j, i) bool.
        seed: decides everything.

    Returns:
        HU, nowhere darker than before, and (k, j, i) uint8: 0, `GROUND_GLASS` or `CONSOLIDATION`. Where both lie,
        it is consolidation.
    """
    severity = lung.sum() * float(np.prod(spacing_mm)) / 1000.0 / REFERENCE_LUNG_ML
    healthy = normnet.window(hu) * lung
    ill, classes = healthy, np.zeros(hu.shape, dtype=np.uint8)
    for label, opacity in OPACITIES.items():
        children = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, label))
        rng = np.random.default_rng(children)
        if rng.random() >= opacity.probability:
            continue
        scale = min(severity * rng.uniform(*opacity.share), 1.0)
        shapes = draw_shapes(lung, spacing_mm, scale, rng, opacity.lesions.shapes)
        lesions, count = ndimage.label(shapes, np.ones((3, 3, 3)))
        ill = paint(ill, lesions, spacing_mm, children.spawn(count), opacity.lesions)
        classes[shapes] = label
    fading = np.random.default_rng(seed).uniform(*FADING_MM)
    blur = [0.0, fading / spacing_mm[1], fading / spacing_mm[2]]
    low, high = normnet.WINDOW_HU
    excess = ndimage.gaussian_filter(ill - healthy, blur, truncate=3.0) * np.float32(high - low)
    return hu + excess * lung, classes
