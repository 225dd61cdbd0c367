"""Synthetic lesions: random shapes and textures pasted on healthy lungs (Yao et al. 2021, section III-B).

The paper's sizes are voxels of a 0.8 x 0.8 x 1.0 mm grid. Here they keep their printed numbers and every grid is
measured in such units, so that a lesion has the same size in millimetres wherever it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

UNIT_MM = (1.0, 0.8, 0.8)
"""The paper's voxel along (k, j, i)."""

REFERENCE_LUNG_ML = 1130.0
"""Lung in the fullest block of 32 slices of 1 mm: the crop for which lambda is 1."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Shapes:
    """How many ellipsoids a crop gets, times lambda, and how large they are; semi-axes in the paper's voxels."""

    small_counts: Span = (5, 10)
    medium_counts: Span = (5, 10)
    small: Span = (3, 10)
    medium: Span = (10, 32)
    large: Span = (32, 64)
    large_probability: float = 0.2
    """Of one large ellipsoid, times lambda."""
    turned: bool = True
    elastic_sigma: Span = (6, 14)
    elastic_rms: Span = (0.05, 0.25)
    """Root mean square displacement in mean semi-axes. The paper says "random parameters"; its ablation (i) finds
    deformation to matter little."""


@dataclass(frozen=True)
class Textures:
    """Ranges of the texture's random parameters (section III-B, "final" values); sigmas in the paper's voxels."""

    sigma_a: Span = (3, 15)
    a: Span = (0.0, 0.3)
    a_min_gap: float = 0.15
    sigma_b_fine: Span = (0.8, 2)
    sigma_b_coarse: Span = (2, 5)
    fine_probability: float = 0.7
    mean_bright: Span = (0.4, 0.8)
    bright: float = 0.2
    """mu_0 is the mean over what exceeds this (mean_0.2)."""


@dataclass(frozen=True)
class LesionModel:
    """Everything that decides what synthetic lesions look like."""

    shapes: Shapes = Shapes()
    textures: Textures = Textures()
    solid: Textures | None = None
    solid_probability: float = 0.0
    """Of a lesion with a `solid` texture."""


FINAL = LesionModel()
"""IEEE TMI 2021."""
V2 = LesionModel(textures=Textures(sigma_a=(2, 20)))
"""arXiv version 2."""
WITH_CONSOLIDATION = LesionModel(
    shapes=Shapes(small_counts=(15, 30)), solid=Textures(a=(0.5, 1.0), mean_bright=(0.8, 1.0)), solid_probability=0.4
)
"""Ours: many lesions are as dense as soft tissue, and many are small. The paper's textures hardly ever are dense
(mu_0 <= 0.8), and a network that has seen only those takes the inside of a consolidation for a large vessel; small ones
have too few voxels to be learned unless there are many of them."""
_STILL = Shapes(elastic_rms=(0.0, 0.0))
_SPHERES = replace(_STILL, small_counts=(0, 0), medium_counts=(5, 5), medium=(12, 12), large_probability=0.0)
ABLATIONS = {
    "i": LesionModel(_STILL),
    "ii": LesionModel(replace(_STILL, turned=False)),
    "iii": LesionModel(replace(_STILL, small_counts=(3, 8), medium_counts=(3, 8), large_probability=0.1)),
    "iv": LesionModel(replace(_STILL, small_counts=(7, 12), medium_counts=(7, 12), large_probability=0.3)),
    "v": LesionModel(replace(_STILL, small=(6, 10), large=(32, 48))),
    "vi": LesionModel(_STILL, Textures(sigma_a=(2, 18))),
    "vii": LesionModel(_STILL, Textures(sigma_a=(4, 12))),
    "viii": LesionModel(_STILL, Textures(a=(0.05, 0.25))),
    "ix": LesionModel(_STILL, Textures(a=(0.0, 0.35))),
    "x": LesionModel(_STILL, Textures(fine_probability=0.5)),
    "xi": LesionModel(_STILL, Textures(sigma_b_fine=(0.6, 2))),
    "xii": LesionModel(_STILL, Textures(sigma_b_coarse=(2, 4))),
    "xiii": LesionModel(_STILL, Textures(mean_bright=(0.45, 0.75))),
    "xiv": LesionModel(_STILL, Textures(mean_bright=(0.35, 0.85))),
    "fixed-g": LesionModel(_SPHERES),
    "fixed-a": LesionModel(_STILL, Textures(a=(0.2, 0.2), a_min_gap=0.0)),
    "fixed-b": LesionModel(
        _STILL, Textures(sigma_b_fine=(2, 2), sigma_b_coarse=(2, 2), mean_bright=(150 / 255, 150 / 255))
    ),
}
"""Row of table IV -> its lesions. From row ii on the authors left elastic deformation out, too (their footnote 10)."""


@dataclass(frozen=True)
class Texture:
    """The parameters drawn for one lesion."""

    sigma_a: float
    a_lower: float
    a_upper: float
    sigma_b: float
    mean_bright: float


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A crop with lesions.

    Attributes:
        image: (k, j, i) float32 in [0, 1], the network's input A; nowhere darker than the healthy crop.
        lesion: (k, j, i) bool, G.
        target: (k, j, i) bool, GT: bright healthy tissue outside the lesions.
    """

    image: np.ndarray
    lesion: np.ndarray
    target: np.ndarray


def synthesize(
    healthy: np.ndarray,
    lung: np.ndarray,
    spacing_mm: tuple[float, float, float],
    tau: float,
    seed: np.random.SeedSequence,
    model: LesionModel = FINAL,
) -> Synthetic:
    """Paste synthetic lesions on a healthy crop: A = max(H, B) on G, GT = [H >= tau] M (1 - G).

    Args:
        healthy: (k, j, i) float32 windowed intensity in [0, 1], 0 outside `lung` (H).
        lung: (k, j, i) bool (M).
        tau: windowed intensity from which tissue counts as bright.
        seed: shapes take the first child of this seed and each lesion one of its own, so that a lesion's texture
            depends on no other lesion.
    """
    # Children are made by key, not by spawn(), which would give other ones at the next call.
    shape_seed = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 0))
    scale = lung.sum() * np.prod(spacing_mm) / 1000.0 / REFERENCE_LUNG_ML
    lesion = draw_shapes(lung, spacing_mm, min(float(scale), 1.0), np.random.default_rng(shape_seed), model.shapes)
    components, count = ndimage.label(lesion, np.ones((3, 3, 3)))
    seeds = [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 1 + c)) for c in range(count)]
    image = paint(healthy, components, spacing_mm, seeds, model)
    return Synthetic(image, lesion, (healthy >= tau) & lung & ~lesion)


def draw_shapes(
    lung: np.ndarray,
    spacing_mm: tuple[float, float, float],
    scale: float,
    rng: np.random.Generator,
    shapes: Shapes = FINAL.shapes,
) -> np.ndarray:
    """The union of random ellipsoids inside the lung, (k, j, i) bool.

    Args:
        scale: lambda in [0, 1]: lung of this crop over `REFERENCE_LUNG_ML`; fewer lesions where there is less lung.
    """
    lesion = np.zeros(lung.shape, dtype=bool)
    inside = np.flatnonzero(lung)
    if inside.size == 0:
        return lesion
    for semi_axes in draw_semi_axes(scale, rng, shapes):
        centre = np.unravel_index(inside[rng.integers(inside.size)], lung.shape)
        _add_ellipsoid(lesion, np.array(centre), semi_axes, np.array(spacing_mm) / UNIT_MM, rng, shapes)
    return lesion & lung


def draw_semi_axes(scale: float, rng: np.random.Generator, shapes: Shapes = FINAL.shapes) -> list[np.ndarray]:
    """Semi-axes, in the paper's voxels, of the ellipsoids of one crop: F[5 lambda, 10 lambda] small ones, as many
    medium ones, and with probability 0.2 lambda a large one."""
    sizes = []
    for size, counts in ((shapes.small, shapes.small_counts), (shapes.medium, shapes.medium_counts)):
        fewest, most = (round(count * scale) for count in counts)
        sizes += [size] * int(rng.integers(fewest, most + 1))
    sizes += [shapes.large] * int(rng.random() < shapes.large_probability * scale)
    return [rng.uniform(*size, 3) for size in sizes]


def _add_ellipsoid(
    lesion: np.ndarray,
    centre: np.ndarray,
    semi_axes: np.ndarray,
    units: np.ndarray,
    rng: np.random.Generator,
    shapes: Shapes,
) -> None:
    """Add a turned and elastically deformed ellipsoid to `lesion`; `units` is the voxel in the paper's voxels."""
    rms = rng.uniform(*shapes.elastic_rms) * semi_axes.mean()
    sigma = rng.uniform(*shapes.elastic_sigma)
    turn = Rotation.random(None, rng).as_matrix() if shapes.turned else np.eye(3)  # by position: scipy renamed it
    # The turned ellipsoid reaches sqrt(sum (a_n R_n)^2) along each axis; two rms hold nearly all displacement.
    reach = (np.sqrt(((turn * semi_axes) ** 2).sum(axis=1)) + 2 * rms) / units
    lower = np.maximum(np.floor(centre - reach).astype(int), 0)
    upper = np.minimum(np.ceil(centre + reach).astype(int) + 1, lesion.shape)
    box = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    shape = tuple(upper - lower)
    place = [
        (np.arange(a, b, dtype=np.float32) - c) * u for a, b, c, u in zip(lower, upper, centre, units, strict=True)
    ]
    place = [axis + rms * _smooth_field(shape, sigma / units, rng) for axis in np.meshgrid(*place, indexing="ij")]
    across = [sum(turn[a, n] * place[a] for a in range(3)) / semi_axes[n] for n in range(3)]
    lesion[box] |= sum(axis**2 for axis in across) <= 1.0


def _smooth_field(shape: tuple[int, ...], sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field with a root mean square of 1."""
    field = ndimage.gaussian_filter(rng.uniform(-1, 1, shape).astype(np.float32), sigma, truncate=2.0, mode="wrap")
    return field / max(float(np.sqrt((field**2).mean())), 1e-6)


def paint(
    healthy: np.ndarray,
    components: np.ndarray,
    spacing_mm: tuple[float, float, float],
    seeds: Sequence[np.random.SeedSequence],
    model: LesionModel = FINAL,
) -> np.ndarray:
    """A = max(H, B_j) on each lesion G_j, every lesion with a texture of its own.

    Args:
        healthy: (k, j, i) float32, H.
        components: (k, j, i) int, lesion number from 1 on.
        seeds: one a lesion.
    """
    units = np.array(spacing_mm) / UNIT_MM
    image = healthy.copy()
    for number, (box, seed) in enumerate(zip(ndimage.find_objects(components), seeds, strict=True), start=1):
        rng = np.random.default_rng(seed)
        solid = model.solid if rng.random() < model.solid_probability else None
        textures = solid or model.textures
        texture = draw_texture(rng, textures)
        # A margin of two sigma keeps the borders of the patch, where the filter lacks neighbours, out of the lesion.
        margin = np.ceil(2 * texture.sigma_b / units).astype(int)
        inner = tuple(slice(m, m + axis.stop - axis.start) for m, axis in zip(margin, box, strict=True))
        shape = tuple(axis.stop - axis.start + 2 * m for m, axis in zip(margin, box, strict=True))
        patch = render_texture(shape, texture, units, rng, textures.bright)[inner]
        here = components[box] == number
        image[box][here] = np.maximum(image[box][here], patch[here])
    return image


def draw_texture(rng: np.random.Generator, textures: Textures = FINAL.textures) -> Texture:
    """Draw a texture's parameters. a_U and a_L are uniform, rejected until a_U - a_L > 0.15 (accepted: 1 in 8)."""
    sigma_a = rng.uniform(*textures.sigma_a)
    a_upper, a_lower = rng.uniform(*textures.a, 2)
    while a_upper - a_lower < textures.a_min_gap:
        a_upper, a_lower = rng.uniform(*textures.a, 2)
    fine = rng.random() < textures.fine_probability
    sigma_b = rng.uniform(*(textures.sigma_b_fine if fine else textures.sigma_b_coarse))
    return Texture(sigma_a, a_lower, a_upper, sigma_b, rng.uniform(*textures.mean_bright))


def render_texture(
    shape: tuple[int, ...],
    texture: Texture,
    units: np.ndarray,
    rng: np.random.Generator,
    bright: float = FINAL.textures.bright,
) -> np.ndarray:
    """One lesion texture B (float32, in [0, 1]): salt noise of spatially varying probability, blurred and scaled.

    Args:
        units: voxel size along (k, j, i) in the paper's voxels.
    """
    probability = salt_probability(shape, texture, units, rng)
    salt = (rng.random(shape, dtype=np.float32) < probability).astype(np.float32)
    blurred = ndimage.gaussian_filter(salt, texture.sigma_b / units)
    level = mean_above(blurred, bright)
    return np.clip(blurred * (texture.mean_bright / level if level else 0.0), 0.0, 1.0)


def salt_probability(
    shape: tuple[int, ...], texture: Texture, units: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The map a: blurred noise stretched to exactly [a_L, a_U] over the patch."""
    noise = ndimage.gaussian_filter(rng.random(shape, dtype=np.float32), texture.sigma_a / units, truncate=3.0)
    lowest, highest = noise.min(), noise.max()
    share = (noise - lowest) / max(float(highest - lowest), np.finfo(np.float32).tiny)
    return (texture.a_lower + (texture.a_upper - texture.a_lower) * share).astype(np.float32)


def mean_above(image: np.ndarray, threshold: float) -> float:
    """Mean of the voxels brighter than `threshold` (mean_t in Yao et al. 2021).

    About 4 % of the textures have no such voxel; then the threshold falls to 0.9 of the maximum, which keeps the
    lesion's bright part at its target intensity.

    Args:
        image: filtered salt noise, any shape, in [0, 1].
        threshold: exclusive lower bound.

    Returns:
        0 for an image that is 0 everywhere.
    """
    if not (image > threshold).any():
        threshold = 0.9 * float(image.max())
    above = image[image > threshold]
    return float(above.mean()) if above.size else 0.0
