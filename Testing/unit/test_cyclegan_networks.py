"""The networks of the cycle-GAN have the published shapes, sizes and reach (METHODS 1.3, 1.4 and 1.9)."""

import pytest
import torch
from LabelFreeCovidSegLib.methods import cyclegan
from LabelFreeCovidSegLib.networks import patchgan, unet2d
from LabelFreeCovidSegLib.networks.patchgan import PatchGAN
from LabelFreeCovidSegLib.networks.unet2d import UNet2D


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_paper_preset_has_the_published_numbers_of_parameters():
    paper = cyclegan.PRESETS["paper"]
    with torch.device("meta"):
        assert parameters(cyclegan.build(paper)) == 30_604_353
        assert parameters(UNet2D(kernel=4)) == 54_403_457
        assert parameters(PatchGAN(paper.critic_widths)) == 2_762_689


def test_eight_stages_take_256_pixels_to_one_and_back():
    network = UNet2D((2,) * 8)
    innermost = []
    network.down[-1].register_forward_hook(lambda module, given, made: innermost.append(made.shape))
    made = network(torch.randn(2, 1, 256, 256))
    assert made.shape == (2, 1, 256, 256)
    assert innermost == [(2, 2, 1, 1)]  # which instance norm would refuse
    assert made.abs().max() <= 1


def test_what_ships_of_the_small_preset_takes_less_than_5_mb_in_float16():
    small = cyclegan.PRESETS["small"]
    network = cyclegan.build(small)
    assert small.side % network.stride == 0
    assert 2 * parameters(network) < 5e6


def test_a_slice_that_the_stages_can_t_halve_is_refused():
    with pytest.raises(ValueError, match="must be divisible by 8"):
        UNet2D((2, 2, 2))(torch.zeros(1, 1, 20, 24))


def test_every_kernel_size_gives_back_the_size_of_the_slice():
    for kernel in (3, 4):
        assert UNet2D((2, 2, 2), kernel)(torch.zeros(1, 1, 16, 24)).shape == (1, 1, 16, 24)


def test_every_weight_of_both_networks_matters():
    torch.manual_seed(0)
    for network in (UNet2D((2, 3, 4)), PatchGAN((2, 3, 4, 5))):
        network(torch.randn(1, 1, 32, 32)).square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())
        assert all(p.grad.any() for name, p in network.named_parameters() if name.endswith("weight"))


def test_the_brightness_of_a_slice_is_not_normalised_away():
    torch.manual_seed(0)
    network, given = UNet2D((4, 4, 4)), torch.randn(1, 1, 16, 16)
    assert (network(given) - network(0.3 * given + 0.5)).abs().max() > 1e-3


def test_the_discriminator_judges_30_by_30_patches():
    assert PatchGAN((2, 2, 2, 2))(torch.zeros(1, 1, 256, 256)).shape == (1, 1, 30, 30)


def test_a_verdict_depends_on_70_by_70_pixels(monkeypatch):
    monkeypatch.setattr(
        patchgan.functional, "instance_norm", lambda x: x
    )  # which makes everything depend on everything
    torch.manual_seed(0)
    given = torch.randn(1, 1, 128, 128, requires_grad=True)
    verdicts = PatchGAN((8, 8, 8, 8))(given)
    verdicts[0, 0, 7, 7].backward()
    touched = given.grad[0, 0] != 0
    j, i = touched.any(dim=1).nonzero()[:, 0], touched.any(dim=0).nonzero()[:, 0]
    assert (len(j), len(i)) == (70, 70)
    assert (int(j[-1] - j[0]), int(i[-1] - i[0])) == (69, 69)


def test_the_published_widths_are_the_defaults():
    paper = cyclegan.PRESETS["paper"]
    assert paper.widths == unet2d.PAPER_WIDTHS
    assert paper.critic_widths == patchgan.PAPER_WIDTHS
