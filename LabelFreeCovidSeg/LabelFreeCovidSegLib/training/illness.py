"""Disease inside lung labels: what makes a lung dense, and what pushes it away.

Every kind is a score over one lung, cut where a drawn share of the lung exceeds it, and a density for what is cut.
The densities overlap those of muscle, heart and liver: only the lung's shape tells where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.lungs.base import RIGHT
from LabelFreeCovidSegLib.scan import bounding_box
from LabelFreeCovidSegLib.training.fields import sigmoid, smooth_noise

Span = tuple[float, float]
Spacing = tuple[float, float, float]

LUNG_HU, AIR_HU = -850.0, -1000.0
RIM_HU: Span = (-750.0, -60.0)
"""Voxels beside a lung label and in this range are half lung, half chest wall. They follow the lung: left dark they
would outline it. Air of a bronchus lies below; fat without partial volume is about -100 HU."""


@dataclass(frozen=True)
class Chances:
    """Probabilities (each for one lung, unless said otherwise) and ranges of what is drawn.

    Harder than a hospital's mix on purpose: lungs with little disease are found without a network.
    """

    diseased: float = 0.85
    """Of the chest."""
    denser: float = 0.5
    denser_hu: Span = (0.0, 200.0)
    """From full inspiration beyond full expiration."""
    dependent_hu: Span = (0.0, 300.0)
    dependent_mm: Span = (15.0, 60.0)
    """Density added at the lowest point of a lung on its back, and the height over which it falls to 1 / e."""
    pushed: float = 0.4
    pushed_mm: Span = (10.0, 40.0)
    """Radius of what bulges into the lung from the middle: a winding aorta, a large heart."""
    pushed_off_mm: float = 15.0
    """How far from the lung's border its axis lies, either way."""
    pushed_share: float = 0.3
    """Of the lung at most."""
    emphysema: float = 0.1
    emphysema_mm: Span = (6.0, 20.0)
    ground_glass: float = 0.45
    ground_glass_share: Span = (0.05, 1.0)
    """Of the lung; 1 is diffuse."""
    ground_glass_hu: Span = (100.0, 500.0)
    """Above aerated lung."""
    patches: float = 0.4
    patches_share: Span = (0.03, 0.5)
    lobar: float = 0.2
    lobar_share: Span = (0.1, 0.95)
    segmental: float = 0.3
    segmental_share: Span = (0.05, 0.4)
    solid_hu: Span = (20.0, 80.0)
    like_neighbour: float = 0.3
    """As dense as the soft tissue beside this very lung, so that no border is left to see."""
    enhanced: float = 0.3
    enhanced_hu: Span = (20.0, 80.0)
    """Contrast agent in airless lung."""
    aerated: float = 0.4
    aerated_share: Span = (0.1, 0.5)
    """Air left in single lobules of a consolidation."""
    bronchogram: float = 0.5
    effusion: float = 0.25
    effusion_share: Span = (0.03, 0.45)
    fluid_hu: Span = (-5.0, 25.0)
    atelectasis: float = 0.7
    atelectasis_share: Span = (0.03, 0.25)
    atelectasis_hu: Span = (60.0, 100.0)
    """Collapsed lung holds more blood than consolidated lung."""
    focal: float = 0.25
    focal_mm: Span = (4.0, 40.0)
    """Radius, from a nodule to a mass."""
    cavity: float = 0.25
    cavity_from_mm: float = 12.0
    cavity_wall_mm: Span = (4.0, 10.0)


SEVERE = Chances()
MILD = replace(
    SEVERE, diseased=0.6, patches_share=(0.02, 0.25), lobar=0.08, segmental=0.15, segmental_share=(0.03, 0.25),
    focal=0.1, effusion=0.12, effusion_share=(0.03, 0.3), atelectasis_share=(0.03, 0.15),
)  # fmt: skip
"""Nearer to a hospital's mix."""
PAINTS = {"severe": SEVERE, "mild": MILD}
"""By the name that presets have for them."""


def fall_ill(
    hu: np.ndarray, labels: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator, chances: Chances = SEVERE
) -> tuple[np.ndarray, np.ndarray]:
    """Both lungs, ill.

    Args:
        hu: (k, j, i) float32.
        labels: uint8.

    Returns:
        HU, changed in the labels and their rim only, and the labels without what is blood or pleural fluid now.
    """
    hu, labels = hu.copy(), labels.copy()
    diseased = rng.random() < chances.diseased
    for side in (1, 2):
        if not (labels == side).any():
            continue
        box = bounding_box(labels == side, (2, 2, 2))
        lung = Lung(hu[box], labels[box] == side, labels[box] == 0, spacing_mm, rng, chances)
        if lung.chance(chances.pushed):
            lung.give_way(toward=1 if side == RIGHT else -1)
        lung.breathe()
        if diseased:
            lung.sicken()
        hu[box] = lung.hu
        labels[box][lung.lost] = 0
    return hu, labels


class Lung:
    """One lung in its box, and what happens to it in turn.

    Attributes:
        hu: (k, j, i) float32, changed by every method.
        lost: bool, where blood or pleural fluid has taken the lung's place.
    """

    def __init__(
        self, hu: np.ndarray, mask: np.ndarray, beside: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator,
        chances: Chances,
    ) -> None:  # fmt: skip
        self.hu, self.mask, self.mm, self.rng, self.chances = hu.copy(), mask, spacing_mm, rng, chances
        self.lost = np.zeros(mask.shape, bool)
        low, high = RIM_HU
        self.rim = ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & beside & (hu > low) & (hu < high)
        self._measure()
        # -1 at the lung's base, front and right end, 1 at its apex, back and left end.
        self.across = np.ix_(
            *(
                np.interp(np.arange(n), [side.start, side.stop - 1], [-1, 1]).astype(np.float32)
                for n, side in zip(mask.shape, bounding_box(mask), strict=True)
            )
        )

    def _measure(self) -> None:
        self.where = self.mask | self.rim
        self.depth = ndimage.distance_transform_edt(self.mask, self.mm).astype(np.float32)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def draw(self, span: Span) -> float:
        return float(self.rng.uniform(*span))

    def noise(self, scale_mm: float) -> np.ndarray:
        return smooth_noise(self.hu.shape, self.mm, scale_mm, self.rng)

    def cut(self, score: np.ndarray, share: float) -> float:
        """The level that `share` of the lung exceeds."""
        return float(np.quantile(score[self.mask][::5], 1 - share))

    def mix(self, share: np.ndarray, density: np.ndarray | float) -> None:
        """Let `share` of each voxel take `density`, unless it is denser: vessels stay."""
        self.hu += np.where(self.where, share * np.maximum(density - self.hu, 0), 0).astype(np.float32)

    def give_way(self, toward: int) -> None:
        """To a winding tube of blood that bulges into the lung from the middle of the chest.

        Args:
            toward: where along i the middle of the chest lies, 1 or -1.
        """
        k, j, i = np.nonzero(self.mask)
        row = int(self.rng.integers(j.min(), j.max() + 1))
        border = [edge.max() * toward for n in np.unique(k) if (edge := i[(k == n) & (abs(j - row) < 3)] * toward).size]
        if not border:
            return
        radius = float(np.exp(self.rng.uniform(*np.log(self.chances.pushed_mm))))
        column = np.median(border) + (self.rng.uniform(-1, 1) * self.chances.pushed_off_mm) / self.mm[2]
        bends = self.rng.uniform(-10, 10, (2, 2)) / self.mm[1:]
        along = np.linspace(-1, 1, self.mask.shape[0])
        middles = [c + b[0] * np.sin(np.pi * along) + b[1] * along for c, b in zip((row, column), bends.T, strict=True)]
        y, x = (
            (np.arange(n) - m[:, None]) * mm for n, m, mm in zip(self.mask.shape[1:], middles, self.mm[1:], strict=True)
        )
        blood = sigmoid((radius - np.hypot(y[:, :, None], x[:, None, :])) / 1.2) * self.where
        lost = self.mask & (blood > 0.5)
        if lost.sum() > self.chances.pushed_share * self.mask.sum():
            return
        self.hu += (blood * (self.tissue() + 5 * self.noise(15.0) - self.hu)).astype(np.float32)
        self.lost |= lost
        self.mask = self.mask & ~lost
        self._measure()

    def breathe(self) -> None:
        """Less air in the lung, towards the back above all; or more of it where walls are destroyed."""
        air = np.clip(-self.hu / 1000, 0, 1) * self.mask
        if self.chance(self.chances.denser):
            height = (1 - self.across[1]) / 2 * self.mask.shape[1] * self.mm[1]
            added = self.draw(self.chances.denser_hu) + self.draw(self.chances.dependent_hu) * np.exp(
                -height / self.draw(self.chances.dependent_mm)
            )
            self.hu += (air * added * (1 + 0.2 * self.noise(25.0))).astype(np.float32)
        if self.chance(self.chances.emphysema):
            holes = sigmoid(5 * (self.noise(self.draw(self.chances.emphysema_mm)) - self.draw((0, 1.5))))
            self.hu += (holes * air * (AIR_HU + 20 - self.hu) * 0.9).astype(np.float32)

    def sicken(self) -> None:
        """Ground glass first, then what is denser, fluid last."""
        if self.chance(self.chances.ground_glass):
            self.ground_glass()
        if self.chance(self.chances.patches):
            self.consolidate(self.patchy(), self.draw(self.chances.patches_share))
        if self.chance(self.chances.lobar):
            self.consolidate(self.lobar(), self.draw(self.chances.lobar_share))
        if self.chance(self.chances.segmental):
            self.consolidate(self.segmental(), self.draw(self.chances.segmental_share))
        if self.chance(self.chances.focal):
            self.focal()
        if self.chance(self.chances.effusion):
            self.effuse()

    def patchy(self) -> np.ndarray:
        """Many foci, at the pleura and in the lower and back parts rather than elsewhere (COVID-19's pattern)."""
        pleural = np.exp(-self.depth / self.draw((5, 15)))
        k, j, _ = self.across
        weight = self.rng.uniform(0, [2.0, 1.2, 1.5]).tolist()
        return self.noise(self.draw((12, 45))) + weight[0] * pleural - weight[1] * k + weight[2] * j

    def lobar(self) -> np.ndarray:
        """One side of a curved surface: below, behind, above, or oblique."""
        k, j, i = self.across
        toward = [(-1, 0.4, 0), (-0.3, 1, 0), (1, -0.3, 0), (-1, 1, 0), tuple(self.rng.normal(0, 1, 3))]
        a, b, c = (toward[self.rng.integers(len(toward))] + self.rng.normal(0, 0.25, 3)).tolist()
        return a * k + b * j + c * i + self.draw((0.02, 0.35)) * self.noise(self.draw((25, 60)))

    def segmental(self) -> np.ndarray:
        """What lies around one point of the pleura, ragged."""
        pleura = np.argwhere(self.mask & (self.depth <= max(self.mm)))
        distance = self.distance(pleura[self.rng.integers(len(pleura))])
        return -distance / float(distance[self.mask].std()) + self.draw((0.0, 0.4)) * self.noise(self.draw((20, 50)))

    def distance(self, centre: np.ndarray) -> np.ndarray:
        """Millimetres from the voxel `centre`."""
        k, j, i = ((np.arange(n) - c) * mm for n, c, mm in zip(self.hu.shape, centre, self.mm, strict=True))
        return np.sqrt(k[:, None, None] ** 2 + j[:, None] ** 2 + i**2)

    def ground_glass(self) -> None:
        """More density than air, less than blood; vessels remain visible."""
        score = self.patchy()
        part = sigmoid((score - self.cut(score, self.draw(self.chances.ground_glass_share))) / self.draw((0.1, 0.6)))
        added = self.draw(self.chances.ground_glass_hu) * (1 + 0.15 * self.noise(8.0))
        self.mix(part * np.clip(added / -LUNG_HU, 0, 1), 20.0)

    def consolidate(self, score: np.ndarray, share: float) -> None:
        """Airless lung as dense as soft tissue; smooth or ragged, with or without air left in lobules and bronchi."""
        score = score + self.draw((0.0, 0.3)) * float(score[self.mask].std()) * self.noise(8.0)
        part = sigmoid((score - self.cut(score, share)) / self.draw((0.02, 0.12)))
        self.mix(part, self.solid())

    def solid(self) -> np.ndarray:
        """The density of airless lung, (k, j, i) HU, with what air is left in it."""
        solid = self.tissue() if self.chance(self.chances.like_neighbour) else self.draw(self.chances.solid_hu)
        density = solid + 5 * self.noise(15.0)
        if self.chance(self.chances.enhanced):
            density = density + self.draw(self.chances.enhanced_hu)
        if self.chance(self.chances.aerated):
            lobules = sigmoid(4 * (self.noise(10.0) - 0.5)) * self.draw(self.chances.aerated_share)
            density = density + lobules * (LUNG_HU - density)
        if self.chance(self.chances.bronchogram):
            density = density + self.bronchi() * (AIR_HU - density)
        return density

    def tissue(self) -> float:
        """HU of the soft tissue beside the lung."""
        beside = self.hu[::2, ::2, ::2][~self.mask[::2, ::2, ::2]]
        beside = beside[(beside > 0) & (beside < 130)]
        return float(np.median(beside)) if beside.size else float(np.mean(self.chances.solid_hu))

    def bronchi(self) -> np.ndarray:
        """Share of air in voxels along thin branching lines, which are where two smooth fields are both near zero."""
        scale_mm = self.draw((14, 28))
        lines = self.noise(scale_mm) ** 2 + self.noise(scale_mm) ** 2
        return np.exp(-lines / self.draw((0.01, 0.05))) * (self.depth > 8) * self.draw((0.4, 1.0))

    def focal(self) -> None:
        """A nodule or mass, or two; some hollow."""
        for _ in range(self.rng.integers(1, 4)):
            inside = np.argwhere(self.mask)
            distance = self.distance(inside[self.rng.integers(len(inside))])
            radius = float(np.exp(self.rng.uniform(*np.log(self.chances.focal_mm))))
            outline = radius * (1 + 0.15 * self.noise(max(radius, 8.0))) - distance
            self.mix(sigmoid(outline / 1.2), self.draw((20.0, 90.0)))
            if radius > self.chances.cavity_from_mm and self.chance(self.chances.cavity):
                hole = sigmoid((outline - self.draw(self.chances.cavity_wall_mm)) / 1.2) * self.mask
                self.hu += (hole * (AIR_HU - self.hu)).astype(np.float32)

    def effuse(self) -> None:
        """Fluid behind and below the lung, which is no lung, and the lung that it has pressed the air out of."""
        k, j, _ = self.across
        climbing = np.exp(-self.depth / 10.0)
        score = j - self.draw((0.0, 0.8)) * k + self.draw((0.1, 0.5)) * climbing + 0.05 * self.noise(40.0)
        share = self.draw(self.chances.effusion_share)
        level = self.cut(score, share)
        if self.chance(self.chances.atelectasis):
            pressed = self.cut(score, min(share + self.draw(self.chances.atelectasis_share), 0.99))
            self.mix(sigmoid((score - pressed) / 0.04), self.draw(self.chances.atelectasis_hu) + 4 * self.noise(15.0))
        fluid = sigmoid((score - level) / 0.015) * self.where
        self.hu += (fluid * (self.draw(self.chances.fluid_hu) - self.hu)).astype(np.float32)
        self.lost |= self.mask & (fluid > 0.5)
