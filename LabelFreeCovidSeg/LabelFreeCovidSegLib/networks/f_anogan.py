"""The three networks of f-AnoGAN (Schlegl et al., Medical Image Analysis 54 (2019) 30-44) on the shared backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from LabelFreeCovidSegLib.networks.autoencoder import Decoder, Encoder, layer_norm


class FAnoGAN(nn.Module):
    """A generator of slices, what judges them, and the way from a slice to what the generator makes it of."""

    def __init__(self, widths: Sequence[int], side: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Only(Encoder(widths, side, [latent])), nn.Tanh())
        self.generator = nn.Sequential(Decoder(widths, side, latent, layer_norm), nn.Sigmoid())
        self.critic = Critic(widths, side)


class Critic(nn.Module):
    """How real a slice is: one number, without bounds."""

    def __init__(self, widths: Sequence[int], side: int) -> None:
        super().__init__()
        self.encoder = Encoder(widths, side, [1], layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) of slices (n, 1, side, side)."""
        return self.encoder(x)[0]

    def features(self, x: Tensor) -> Tensor:
        """What the verdict is made of, (n, widths[-1], j, i)."""
        return self.encoder.stages(x)


class Only(nn.Module):
    """The one vector of an encoder with one head."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """(n, numbers)."""
        (vector,) = self.encoder(x)
        return vector
