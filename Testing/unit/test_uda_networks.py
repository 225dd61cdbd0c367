"""The networks of domain adaptation have the published shapes and sizes (METHODS 4.2 and 4.6)."""

import pytest
import torch
from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.networks.uda import (
    PAPER_CHANNELS,
    PIXELS_PER_PATCH,
    Classifier,
    Discriminator,
    Extractor,
    Generator,
)

NARROW = (2, 3, 4, 5)


def parameters(*networks):
    return sum(p.numel() for network in networks for p in network.parameters())


def test_the_paper_preset_has_the_published_numbers_of_parameters():
    preset = uda.PRESETS["paper"]
    assert parameters(Extractor(preset.channels), Classifier(preset.channels)) == 3_790_212
    assert parameters(uda.build(preset)) == 3_790_212
    assert parameters(Generator(preset.channels)) == 3_577_921
    assert parameters(Discriminator(preset.critic_width)) == 1_335_044


def test_what_ships_of_the_small_preset_takes_less_than_3_mb_in_float16():
    assert 2 * parameters(uda.build(uda.PRESETS["small"])) < 3e6


def test_a_slice_of_512_pixels_has_the_shapes_of_the_paper():
    image = torch.zeros(1, 1, 512, 512)
    with torch.inference_mode():
        features = Extractor(NARROW)(image)
        assert [f.shape[1:] for f in features] == [(2, 256, 256), (3, 128, 128), (4, 64, 64), (5, 32, 32)]
        assert Classifier(NARROW)(features).shape == (1, 4, 512, 512)
        assert Generator(NARROW)(features).shape == (1, 1, 512, 512)
        judged = Discriminator(4)(image)
    assert judged.shape == (1, 4, 64, 64)
    assert 512 * 512 / judged[0, 0].numel() == PIXELS_PER_PATCH


def test_widths_of_the_paper_double_from_level_to_level():
    assert PAPER_CHANNELS == (64, 128, 256, 512)


def test_an_extent_that_four_poolings_cannot_halve_is_refused():
    with pytest.raises(ValueError, match="divisible by 16"):
        Extractor(NARROW)(torch.zeros(1, 1, 32, 40))


@pytest.mark.parametrize("levels", [(3, 4, 5), (2, 3, 4), (5,)])
def test_the_generator_sees_its_levels_only_and_stays_within_the_range_of_slices(levels):
    torch.manual_seed(0)
    generator = Generator(NARROW, levels)
    features = {n: 100 * torch.randn(1, c, 64 // 2**n, 64 // 2**n) for n, c in enumerate(NARROW, 2)}
    for feature in features.values():
        feature.requires_grad_()
    made = generator(tuple(features.values()))
    made.sum().backward()
    assert made.shape == (1, 1, 32, 32)
    assert made.abs().max() <= 1
    assert {n for n, feature in features.items() if feature.grad is not None} == set(levels)
    assert all(features[n].grad.abs().sum() > 0 for n in levels)


def test_one_slice_does_not_change_what_is_seen_in_another():
    torch.manual_seed(0)
    network, slices = uda.build(uda.PRESETS["small"]), torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        together = network(slices)
        for n in range(2):
            torch.testing.assert_close(network(slices[n : n + 1])[0], together[n], atol=1e-4, rtol=1e-4)


def test_the_discriminator_judges_a_patch_by_110_pixels():
    torch.manual_seed(0)
    # Without the normalisation, which spreads every pixel over the whole slice.
    discriminator = Discriminator(4)
    for module in discriminator.modules():
        if isinstance(module, torch.nn.InstanceNorm2d):
            module.forward = lambda x: x
    image = torch.randn(1, 1, 256, 256, requires_grad=True)
    discriminator(image)[0, :, 16, 16].sum().backward()
    rows = torch.nonzero(image.grad[0, 0].abs().sum(dim=1))
    assert 100 < rows.max() - rows.min() + 1 <= 110
