"""Context VAE: it also learns to fill in what was cut out of a slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from LabelFreeCovidSegLib.methods.anomaly.detector import difference
from LabelFreeCovidSegLib.methods.anomaly.vae import VAE
from LabelFreeCovidSegLib.methods.base import Card

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ContextVAE(VAE):
    """A VAE with a second way through it, without chance, from a slice with holes to the whole slice.

    The reference implementation compares with the slice with holes, and has the same holes in all slices of a batch.

    Attributes:
        holes: in a slice, at most. pixels: side of a hole.
    """

    holes: int = 3
    pixels: int = 32

    card = Card(
        name="context-vae",
        title="Context VAE",
        summary="A variational autoencoder that also fills in what was cut out. What it rebuilds darker is lesion.",
        citation="Zimmerer D, Kohl SAA, Petersen J, Isensee F, Maier-Hein KH. Context-encoding Variational Autoencoder "
        "for Unsupervised Anomaly Detection. arXiv:1812.05941 (2018)",
        networks=("context-vae",),
        picture_mm=0.0,
    )

    def losses(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """Those of a VAE, and the reconstruction of what was cut out."""
        filled = self.reconstruct(network, self.cut(x))
        return super().losses(network, x) | {"context": difference(x, filled).mean()}

    def cut(self, x: Tensor) -> Tensor:
        """The slices with black holes within the box of what is not black, other ones in each."""
        import torch

        x = x.clone()
        for (one,) in x:
            rows, columns = (one.sum(dim=axis).nonzero().flatten() for axis in (1, 0))
            if not len(rows):
                continue
            for _ in range(int(torch.randint(1, self.holes + 1, ()))):
                j, i = (self._corner(int(line[0]), int(line[-1]) + 1) for line in (rows, columns))
                one[j : j + self.pixels, i : i + self.pixels] = 0.0
        return x

    def _corner(self, first: int, end: int) -> int:
        """Of a hole that lies from `first` to `end`, or begins there if there is no room for it."""
        import torch

        return int(torch.randint(first, max(end - self.pixels, first) + 1, ()))


DETECTOR = ContextVAE()
CARD, load = DETECTOR.card, DETECTOR.load
