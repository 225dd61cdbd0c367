"""The backbone of the anomaly detectors: its sizes, and what lies in its middle (METHODS 5.2 and 5.4)."""

import pytest
import torch
from LabelFreeCovidSegLib.methods.anomaly import ae, f_anogan, vae, vae_spatial
from LabelFreeCovidSegLib.methods.anomaly.detector import PRESETS
from LabelFreeCovidSegLib.networks import autoencoder
from LabelFreeCovidSegLib.networks.autoencoder import Decoder, Encoder, LastingDropout
from torch import nn

PAPER = PRESETS["paper"]


@pytest.mark.parametrize(("detector", "parameters"), [(ae.DETECTOR, 1_627_249), (vae.DETECTOR, 1_758_449)])
def test_the_published_sizes(detector, parameters):
    network = detector.build(PAPER)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert PAPER.widths == autoencoder.PAPER_WIDTHS


def test_a_slice_becomes_a_vector_or_a_map_and_a_slice_again():
    x = torch.rand(2, 1, 128, 128)
    for detector, shape in ((vae.DETECTOR, (2, 128)), (vae_spatial.DETECTOR, (2, 128, 8, 8))):
        network = detector.build(PAPER)
        mean, log_sd = network.encode(x)
        assert mean.shape == log_sd.shape == shape
        assert network.decode(mean).shape == x.shape


def test_extents_are_halved_and_doubled_at_every_stage():
    extents = []
    encoder, decoder = Encoder(PAPER.widths, 128, [1]), Decoder(PAPER.widths, 128, 1)
    for part in (encoder, decoder):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda layer, given, made: extents.append((*made.shape[1:3],)))
    decoder(encoder(torch.rand(2, 1, 128, 128))[0])
    assert extents == [
        (32, 64), (64, 32), (128, 16), (128, 8), (16, 8),
        (128, 8), (128, 16), (64, 32), (32, 64), (32, 128), (1, 128),
    ]  # fmt: skip


def test_dropout_lasts_beyond_training():
    torch.manual_seed(0)
    dropout = LastingDropout(0.2).eval()
    x = torch.ones(10_000)
    assert (dropout(x) == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(LastingDropout(0.0).train()(x), x)


def test_the_adversaries_normalise_each_slice_by_itself_and_the_generator_stays_between_0_and_1():
    network = f_anogan.DETECTOR.build(PAPER).train()
    z = 5 * torch.randn(3, 128)
    made = network.generator(z)
    assert made.shape == (3, 1, 64, 64)
    assert 0 <= made.min() <= made.max() <= 1
    torch.testing.assert_close(network.generator(z[:1]), made[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(network.critic(made[:1]), network.critic(made)[:1], rtol=0, atol=1e-5)
    assert network.encoder(made).abs().max() <= 1
