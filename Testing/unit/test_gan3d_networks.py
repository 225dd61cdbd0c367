"""The networks of the 3-D GAN: published counts, noise that matters, a discriminator that learns everywhere."""

import pytest
import torch
from LabelFreeCovidSegLib.networks.bcdu_net import BCDUNet, ConvLSTM, Projection
from LabelFreeCovidSegLib.networks.dense_unet3d import (
    RELEASED_CRITIC_CHANNELS,
    DenseUNet3D,
    Discriminator3D,
    latent_shape,
)
from torch import nn

EXTENTS = (16, 32, 48)


def count(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


def lungs(batch=1, seed=0):
    return torch.rand(batch, 1, *EXTENTS, generator=torch.Generator().manual_seed(seed))


def latent(batch=1, seed=0):
    return torch.rand(batch, *latent_shape(EXTENTS), generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return DenseUNet3D(base=2)


def test_the_generator_has_the_published_number_of_parameters():
    assert count(DenseUNet3D()) == 7_861_643


def test_what_was_alive_of_the_released_discriminator_has_its_number_of_parameters():
    assert count(Discriminator3D(RELEASED_CRITIC_CHANNELS)) == 282_378


@pytest.mark.parametrize(("lstm_kernel", "first_up_kernel", "published"), [(2, 3, 5_008_197), (3, 2, 5_166_917)])
def test_the_slice_network_has_the_published_number_of_parameters(lstm_kernel, first_up_kernel, published):
    assert count(BCDUNet(32, lstm_kernel, first_up_kernel)) == published


def test_encoder_and_contrastive_head_have_the_published_number_of_parameters():
    assert count(BCDUNet().encoder, Projection()) == 4_154_720


@pytest.mark.parametrize("base", [2, 3, 4])
def test_the_generator_keeps_the_shape_and_lies_between_0_and_1_at_any_width(base):
    made = DenseUNet3D(base)(lungs(2), latent(2))
    assert made.shape == (2, 1, *EXTENTS)
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_generator_depends_on_its_noise_and_on_nothing_else_that_is_random(generator):
    first, again, other = (generator(lungs(), latent(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_reaches_the_output_through_every_channel(generator):
    z = latent().requires_grad_()
    generator(lungs(), z).sum().backward()
    assert (z.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_the_generator_begins_close_to_a_copy(generator):
    nn.init.zeros_(generator.out.bias)
    assert (generator(lungs(), latent()) - lungs()).abs().max() < 0.1


def test_a_generator_that_was_pushed_to_leave_nothing_can_still_learn(generator):
    nn.init.constant_(generator.out.bias, -15.0)
    made = generator(lungs(), latent())
    assert not made.any()
    made.mean().backward()
    assert generator.out.bias.grad.item() == pytest.approx(1.0)
    assert all(p.grad.abs().max() > 0 for p in generator.parameters())


def test_extents_that_can_not_be_halved_four_times_are_refused(generator):
    with pytest.raises(ValueError, match="divisible by 16"):
        generator(torch.zeros(1, 1, 16, 32, 40), latent())


def test_every_convolution_of_the_discriminator_learns():
    torch.manual_seed(0)
    discriminator = Discriminator3D().eval()
    discriminator(torch.rand(2, 1, 32, 32, 32))[:, 1].sum().backward()
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv3d)]
    assert len(convolutions) == 5
    assert all(conv.weight.grad.abs().max() > 0 for conv in convolutions)


def test_the_discriminator_finds_enough_slices_in_thirty_two():
    assert Discriminator3D()(torch.rand(1, 1, 32, 64, 64)).shape == (1, 2)


def test_a_convolutional_lstm_with_1_x_1_kernels_is_an_lstm_in_every_pixel():
    torch.manual_seed(0)
    ours, theirs = ConvLSTM(3, 4, kernel=1), nn.LSTM(3, 4)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.of_input.weight[..., 0, 0])
        theirs.weight_hh_l0.copy_(ours.of_hidden.weight[..., 0, 0])
        theirs.bias_ih_l0.copy_(ours.of_input.bias)
        theirs.bias_hh_l0.zero_()
    sequence = [torch.rand(1, 3, 2, 2) for _ in range(2)]
    pixels = torch.stack([x[0].flatten(1).T for x in sequence])  # (step, pixel, channel)
    last = theirs(pixels)[0][-1]
    torch.testing.assert_close(ours(sequence)[0].flatten(1).T, last)


def test_a_convolutional_lstm_with_an_even_kernel_keeps_the_extents():
    assert ConvLSTM(3, 4, kernel=2)([torch.rand(1, 3, 6, 8)] * 2).shape == (1, 4, 6, 8)


def test_a_slice_network_that_was_pushed_to_find_nothing_can_still_learn():
    torch.manual_seed(0)
    network = BCDUNet(base=4)
    nn.init.constant_(network.decoder.out[0].bias, -20.0)
    network(torch.rand(3, 1, 16, 24)).mean().backward()
    assert network.decoder.out[0].weight.grad.abs().max() > 0
    assert network.encoder.levels[0][0].weight.grad.abs().max() > 0


def test_the_slice_network_answers_for_every_pixel_between_minus_1_and_1():
    torch.manual_seed(0)
    answer = BCDUNet(base=4)(torch.rand(3, 1, 16, 24))
    assert answer.shape == (3, 1, 16, 24)
    assert answer.abs().max() <= 1
    with pytest.raises(ValueError, match="divisible by 8"):
        BCDUNet(base=4)(torch.rand(1, 1, 16, 20))
