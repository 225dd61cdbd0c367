"""Pneumonia painted into healthy lung, and where it is.

The patterns are those that radiologists report of COVID-19 (Hansell et al., Fleischner Society: Glossary of Terms for
Thoracic Imaging, Radiology 246, 2008): ground-glass opacity, crazy paving, consolidation, halo and reversed halo,
reticulation; few small foci to a whole lobe, most of it at the pleura.

OpacityNet learns from it; the cycle-GAN, the 3-D GAN and the adapted network see it beside patients. Nothing is shared
with the lesions that choose OpacityNet's checkpoint (`synthesis`) or that judge all methods (the phantom's): neither
shape, nor texture, nor density.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from LabelFreeCovidSegLib.quantify import CONSOLIDATION, GROUND_GLASS
from LabelFreeCovidSegLib.training.fields import sigmoid, widen
from LabelFreeCovidSegLib.training.illness import LUNG_HU, SEVERE, Lung, Spacing, Span

COARSE = 2
"""Depth below the pleura is measured on every so manieth voxel: it costs an eighth, and no pattern needs it finer."""
VISIBLE = 0.5
"""Share of a voxel that must be ill for a label."""


@dataclass(frozen=True)
class Patterns:
    """Probabilities and ranges of what is drawn for a piece of lung.

    Attributes:
        spared: that it has no lesion.
        counts: how many layers of lesion it has otherwise.
        share: of the piece that a layer takes, drawn evenly on a logarithmic scale.
        extensive: of a layer that takes a large part, drawn evenly from extensive_share.
        foci: of a layer that consists of small scattered foci. foci_mm: over which length they change.
        lobar, segmental: of a layer that ends at a surface, or lies around one point of the pleura; the rest is patchy.
        solid: of a layer of consolidation. halo: that it has a rim of ground glass.
        reversed_halo: of ground glass in a ring of consolidation. reticular: of a net without ground glass.
        paving: that ground glass has a net in it.
        added_hu: by ground glass, to air.
        net_mm: width of the net's meshes.
        grain: unevenness of ground glass. grain_mm: over which length.
        edge: width of a layer's border, in standard deviations of what decides where it lies.
    """

    spared: float = 0.15
    counts: tuple[int, int] = (1, 3)
    share: Span = (0.004, 0.8)
    extensive: float = 0.0
    extensive_share: Span = (0.2, 1.0)
    foci: float = 0.3
    foci_mm: Span = (5.0, 12.0)
    lobar: float = 0.12
    segmental: float = 0.18
    solid: float = 0.35
    halo: float = 0.3
    reversed_halo: float = 0.05
    reticular: float = 0.05
    paving: float = 0.3
    added_hu: Span = (140.0, 600.0)
    net_mm: Span = (4.0, 9.0)
    grain: Span = (0.0, 0.4)
    grain_mm: Span = (1.5, 10.0)
    edge: Span = (0.02, 0.25)


MODERATE = Patterns()
PAINTS = {"moderate": MODERATE, "wide": Patterns(share=(0.001, 0.8), extensive=0.2, added_hu=(110.0, 600.0))}
"""What presets call them; the wide one has smaller, larger and fainter lesions."""
DENSITIES = replace(SEVERE, solid_hu=(-150.0, 80.0), like_neighbour=0.0, enhanced=0.2, aerated=0.4, bronchogram=0.4)
"""Of consolidation: from half airless to enhanced by contrast agent."""


@dataclass(frozen=True, eq=False)
class Infected:
    """A piece of lung with pneumonia. All arrays are (k, j, i).

    Attributes:
        hu: float32.
        ill: float32, share of each voxel that is ill. dense: float32, share that is consolidated.
    """

    hu: np.ndarray
    ill: np.ndarray
    dense: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """uint8: 0, `GROUND_GLASS` or `CONSOLIDATION`."""
        ill = self.ill > VISIBLE
        return np.where(ill, np.where(self.dense > VISIBLE, CONSOLIDATION, GROUND_GLASS), 0).astype(np.uint8)


def infect(
    hu: np.ndarray, lung: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator, patterns: Patterns = MODERATE
) -> Infected:
    """A piece of healthy lung with pneumonia, or spared.

    Args:
        hu: (k, j, i) float32, with what lies around the lung. lung: (k, j, i) bool.
    """
    if not lung.any() or rng.random() < patterns.spared:
        nothing = np.zeros(hu.shape, np.float32)
        return Infected(hu, nothing, nothing)
    piece = Piece(hu, lung, ~lung, spacing_mm, rng, patterns)
    for _ in range(rng.integers(patterns.counts[0], patterns.counts[1] + 1)):
        piece.layer()
    return Infected(piece.hu, piece.ill * lung, piece.dense * lung)


class Piece(Lung):
    """A piece of lung that falls ill layer by layer.

    Attributes:
        ill: (k, j, i) float32, share of each voxel that any layer takes. dense: that consolidation takes.
    """

    def __init__(
        self, hu: np.ndarray, mask: np.ndarray, beside: np.ndarray, spacing_mm: Spacing, rng: np.random.Generator,
        patterns: Patterns,
    ) -> None:  # fmt: skip
        super().__init__(hu, mask, beside, spacing_mm, rng, DENSITIES)
        self.patterns = patterns
        self.ill, self.dense = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, np.float32)

    def _measure(self) -> None:
        self.where = self.mask | self.rim
        coarse = self.mask[::COARSE, ::COARSE, ::COARSE]
        depth = ndimage.distance_transform_edt(coarse, [COARSE * mm for mm in self.mm])
        # The nearest voxel outside lies nearer than the nearest coarse one, by one voxel at most.
        self.depth = widen(np.maximum(depth - (COARSE - 1) * max(self.mm), 0), self.mask.shape, COARSE)

    def layer(self) -> None:
        """One more pattern somewhere."""
        score = self.place()
        score = score / max(float(score[self.mask].std()), 1e-6)
        share = float(np.exp(self.rng.uniform(*np.log(self.patterns.share))))
        if self.chance(self.patterns.extensive):
            share = self.draw(self.patterns.extensive_share)
        level, edge = self.cut(score, share), self.draw(self.patterns.edge)
        part = sigmoid((score - level) / edge)
        self.ill = np.maximum(self.ill, part)
        kind = self.rng.random()
        if kind < self.patterns.solid:
            core = part
            if self.chance(self.patterns.halo):
                self.haze(part)
                core = sigmoid((score - self.cut(score, share * self.draw((0.2, 0.7)))) / edge)
            self.harden(core)
        elif kind < self.patterns.solid + self.patterns.reversed_halo:
            self.haze(part)
            width = self.draw((0.1, 0.3))
            self.harden(part * np.exp(-(((score - level - 2 * width) / width) ** 2)))
        elif kind < self.patterns.solid + self.patterns.reversed_halo + self.patterns.reticular:
            self.weave(part, self.draw((0.3, 0.7)))
        else:
            self.haze(part)
            if self.chance(self.patterns.paving):
                self.weave(part, self.draw((0.1, 0.4)))

    def place(self) -> np.ndarray:
        """What decides where a layer lies: it takes the voxels with the highest numbers."""
        kind = self.rng.random()
        if kind < self.patterns.foci:
            pleural = np.exp(-self.depth / self.draw((5.0, 15.0)))
            return self.noise(self.draw(self.patterns.foci_mm)) + self.draw((0.0, 1.5)) * pleural
        if kind < self.patterns.foci + self.patterns.lobar:
            return self.lobar()
        if kind < self.patterns.foci + self.patterns.lobar + self.patterns.segmental:
            return self.segmental()
        return self.patchy() + self.draw((0.0, 0.4)) * self.noise(self.draw((4.0, 10.0)))

    def haze(self, part: np.ndarray) -> None:
        """Ground glass: some of the air is gone, vessels remain visible."""
        grain = 1 + self.draw(self.patterns.grain) * self.noise(self.draw(self.patterns.grain_mm))
        self.mix(part * np.clip(self.draw(self.patterns.added_hu) / -LUNG_HU * grain, 0, 1), 20.0)

    def harden(self, part: np.ndarray) -> None:
        """Consolidation: no air is left, or hardly any."""
        self.dense = np.maximum(self.dense, part)
        self.mix(part, self.solid())

    def weave(self, part: np.ndarray, strength: float) -> None:
        """Thickened septa: sheets where a smooth field is near zero, two fields of them."""
        mesh = self.draw(self.patterns.net_mm)
        sheets = np.minimum(np.abs(self.noise(mesh)), np.abs(self.noise(mesh)))
        self.mix(part * strength * np.exp(-((sheets / 0.15) ** 2)), 20.0)
