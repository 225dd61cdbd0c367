"""Our residual U-Net is MONAI's."""

import pytest
import torch
from LabelFreeCovidSegLib.networks.conv3d import Conv3d
from LabelFreeCovidSegLib.networks.res_unet import PAPER_CHANNELS, ResUNet


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def monai_twin(channels):
    from monai.networks.nets import UNet

    return UNet(3, 1, 2, channels, (2,) * (len(channels) - 1), num_res_units=2, norm="batch")


def in_order_of_use(network, image):
    """The leaf modules with parameters, in the order in which a forward pass meets them."""
    met = []
    leaves = [m for m in network.modules() if not list(m.children()) and list(m.parameters())]
    hooks = [leaf.register_forward_hook(lambda module, *_: met.append(module)) for leaf in leaves]
    network(image)
    for hook in hooks:
        hook.remove()
    return met


def test_the_paper_preset_has_the_published_number_of_parameters():
    assert parameters(ResUNet(PAPER_CHANNELS)) == 4_808_917


@pytest.mark.parametrize("channels", [(4, 8, 16, 32, 64), (2, 4, 8)])
def test_outputs_equal_those_of_monai_with_the_same_weights(channels):
    torch.manual_seed(0)
    ours, theirs = ResUNet(channels).eval(), monai_twin(channels).eval()
    image = torch.rand(2, 1, 16, 32, 48)
    with torch.no_grad():
        twins = in_order_of_use(theirs, image)
        for module, twin in zip(in_order_of_use(ours, image), twins, strict=True):
            for parameter in twin.parameters():
                parameter.uniform_(-0.5, 0.5)
            module.load_state_dict(twin.state_dict())
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)


def test_the_output_has_two_channels_at_the_resolution_of_the_input():
    with torch.no_grad():
        assert ResUNet((2, 2, 2, 2, 2))(torch.zeros(1, 1, 32, 48, 64)).shape == (1, 2, 32, 48, 64)


def test_an_extent_that_does_not_halve_four_times_is_refused():
    with pytest.raises(ValueError, match="divisible by 16"):
        ResUNet((2, 2, 2, 2, 2))(torch.zeros(1, 1, 32, 40, 64))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_in_bfloat16_the_gradient_of_a_convolution_is_that_of_float32_whatever_lay_in_memory(depth):
    torch.manual_seed(depth)
    convolution = Conv3d(16, 32, 3, padding=1)
    image = torch.randn(2, 16, depth, 8, 8)
    exact = torch.autograd.grad(convolution(image).square().mean(), convolution.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = convolution(image).float().square().mean()
    rubbish = [torch.full((2**n,), float("nan")) for n in range(10, 22)]
    del rubbish
    (rough,) = torch.autograd.grad(loss, convolution.weight)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02 * float(exact.abs().max()))
