"""The lesion generator against the properties that follow from the paper's text (METHODS 3.10)."""

import numpy as np
import pytest
from LabelFreeCovidSegLib import synthesis
from LabelFreeCovidSegLib.scan import bounding_box
from LabelFreeCovidSegLib.synthesis import ABLATIONS, FINAL, UNIT_MM, V2, Texture

TAU = 1 / 3
SEED = np.random.SeedSequence(7)
CROWDED = synthesis.LesionModel(shapes=synthesis.Shapes(small_counts=(200, 400), medium_counts=(200, 400)))
"""Lesions enough for a small crop, where lambda is about 0.03."""


def crop(seed=0, shape=(24, 64, 64)):
    """A lung that fills half the crop, with bright rods as vessels."""
    rng = np.random.default_rng(seed)
    lung = np.zeros(shape, bool)
    lung[2:-2, 8:-8, 8:40] = True
    healthy = (0.05 + 0.02 * rng.random(shape)).astype(np.float32)
    healthy[:, 30:33, 20:23] = 0.9
    return healthy * lung, lung


def fill_ratio(mask, lung):
    return mask.sum() / lung.sum()


def ellipse_lungs(shape=(32, 320, 320)):
    """Two elliptic cylinders of 70 x 125 voxels semi-axes on the paper's grid: 1.76 M voxels, lambda 1."""
    k, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    lung = np.zeros(shape, bool)
    for centre in (80, 240):
        lung |= (((j - 160) / 125.0) ** 2 + ((i - centre) / 70.0) ** 2 + 0 * k) <= 1
    return lung


@pytest.mark.parametrize("seed", range(4))
def test_a_synthetic_crop_keeps_every_promise_of_the_composition(seed):
    healthy, lung = crop()
    made = synthesis.synthesize(healthy, lung, UNIT_MM, TAU, np.random.SeedSequence(seed), CROWDED)
    assert made.lesion.any()
    assert (made.image >= healthy).all()
    np.testing.assert_array_equal(made.image[~made.lesion], healthy[~made.lesion])
    assert made.image.min() >= 0
    assert made.image.max() <= 1
    assert not (made.lesion & ~lung).any()
    np.testing.assert_array_equal(made.target, (healthy >= TAU) & lung & ~made.lesion)


def test_the_target_knows_the_clean_image_only():
    lung = np.ones((16, 48, 48), bool)
    black = np.zeros(lung.shape, np.float32)
    made = synthesis.synthesize(black, lung, UNIT_MM, TAU, SEED, CROWDED)
    assert (made.image > TAU).any()
    assert not made.target.any()


def test_a_crop_with_hardly_any_lung_or_none_is_left_as_it_is():
    healthy, lung = crop()
    speck = np.zeros_like(lung)
    speck[5, 20, 20] = True
    for part in (speck, np.zeros_like(lung)):
        made = synthesis.synthesize(healthy * part, part, UNIT_MM, TAU, SEED)
        assert not (made.lesion & ~part).any()


def test_at_full_scale_the_numbers_of_ellipsoids_are_those_of_the_paper():
    rng = np.random.default_rng(1)
    draws = [synthesis.draw_semi_axes(1.0, rng) for _ in range(1000)]
    small = np.array([sum(axes.max() < 10 for axes in draw) for draw in draws])
    large = np.array([sum(axes.min() > 32 for axes in draw) for draw in draws])
    medium = np.array([len(draw) for draw in draws]) - small - large
    for counts in (small, medium):
        assert set(counts) == {5, 6, 7, 8, 9, 10}
        assert counts.mean() == pytest.approx(7.5, abs=0.2)
    assert large.mean() == pytest.approx(0.2, abs=0.03)
    assert np.mean([len(draw) for draw in draws]) == pytest.approx(15.2, abs=0.3)


def test_lesions_cover_an_eighth_of_a_large_lung():
    lung = ellipse_lungs()
    still = synthesis.Shapes(elastic_rms=(0, 0))
    ratios, pieces = [], []
    for seed in range(8):
        lesion = synthesis.draw_shapes(lung, UNIT_MM, 1.0, np.random.default_rng(seed), still)
        ratios.append(fill_ratio(lesion, lung))
        pieces.append(synthesis.ndimage.label(lesion, np.ones((3, 3, 3)))[1])
    assert np.mean(ratios) == pytest.approx(0.12, abs=0.04)
    assert np.mean(pieces) == pytest.approx(11.5, abs=3)


def test_lesions_have_the_same_size_in_millimetres_on_another_grid():
    fine = ellipse_lungs()
    coarse = fine[::2, ::2, ::2]
    still = synthesis.Shapes(elastic_rms=(0, 0))

    def cover(lung, spacing):
        shares = [
            fill_ratio(synthesis.draw_shapes(lung, spacing, 1.0, np.random.default_rng(seed), still), lung)
            for seed in range(8)
        ]
        return np.mean(shares)

    assert cover(coarse, (2.0, 1.6, 1.6)) == pytest.approx(cover(fine, UNIT_MM), rel=0.35)


def test_one_ellipsoid_has_the_volume_of_its_semi_axes():
    one = synthesis.Shapes(
        small_counts=(0, 0), medium_counts=(0, 0), large=(9, 9), large_probability=1, elastic_rms=(0, 0)
    )
    lung = np.ones((64, 64, 64), bool)
    volumes = []
    for seed in range(60):
        lesion = synthesis.draw_shapes(lung, (2.0, 0.8, 0.8), 1.0, np.random.default_rng(seed), one)
        whole = not any(lesion.take(end, axis).any() for axis in range(3) for end in (0, -1))
        volumes += [lesion.sum() * 2.0] if whole else []
    assert len(volumes) > 3
    np.testing.assert_allclose(volumes, 4 / 3 * np.pi * 9**3, rtol=0.04)


def test_texture_parameters_have_the_moments_of_rejection_sampling():
    rng = np.random.default_rng(3)
    drawn = [synthesis.draw_texture(rng) for _ in range(20_000)]
    upper = np.array([t.a_upper for t in drawn])
    lower = np.array([t.a_lower for t in drawn])
    sigma_b = np.array([t.sigma_b for t in drawn])
    assert upper.mean() == pytest.approx(0.250, abs=0.002)
    assert lower.mean() == pytest.approx(0.050, abs=0.002)
    assert (upper - lower).min() > 0.15
    assert upper.min() >= 0.15
    assert lower.max() <= 0.15
    assert (sigma_b > 2).mean() == pytest.approx(0.30, abs=0.01)
    assert sigma_b.mean() == pytest.approx(0.7 * 1.4 + 0.3 * 3.5, abs=0.02)


def test_each_ablation_draws_what_its_row_says_and_comes_to_an_end():
    def drawn(row):
        rng = np.random.default_rng(4)
        return [synthesis.draw_texture(rng, ABLATIONS[row].textures) for _ in range(400)]

    for row in ABLATIONS:
        assert all(one.a_upper - one.a_lower >= ABLATIONS[row].textures.a_min_gap for one in drawn(row))
    assert {(one.a_lower, one.a_upper) for one in drawn("fixed-a")} == {(0.2, 0.2)}
    assert {(one.sigma_b, one.mean_bright) for one in drawn("fixed-b")} == {(2.0, 150 / 255)}
    assert min(one.a_lower for one in drawn("viii")) >= 0.05
    assert max(one.a_upper for one in drawn("ix")) > 0.3
    spheres = synthesis.draw_semi_axes(1.0, np.random.default_rng(0), ABLATIONS["fixed-g"].shapes)
    assert np.array(spheres).tolist() == [[12.0] * 3] * 5


def test_without_rotation_the_axes_of_an_ellipsoid_are_those_of_the_scan():
    lung = np.ones((33, 33, 33), bool)

    def filled(turned):
        """Which share of their boxes ellipsoids fill, on average."""
        shapes = synthesis.Shapes(
            small_counts=(0, 0), medium_counts=(0, 0), large=(4, 12), large_probability=1, elastic_rms=(0, 0),
            turned=turned,
        )  # fmt: skip
        shares = []
        for seed in range(20):
            lesion = synthesis.draw_shapes(lung, UNIT_MM, 1.0, np.random.default_rng(seed), shapes)
            box = lesion[bounding_box(lesion)]
            inner = not any(lesion.take(end, axis).any() for axis in range(3) for end in (0, -1))
            shares += [box.mean()] if inner else []
        return np.mean(shares)

    assert filled(False) == pytest.approx(np.pi / 6, abs=0.05)  # an ellipsoid in its own box
    assert filled(True) < 0.45


def test_version_two_blurs_its_noise_over_a_wider_range():
    rng = np.random.default_rng(3)
    sigma = [synthesis.draw_texture(rng, V2.textures).sigma_a for _ in range(4000)]
    assert min(sigma) < 2.1
    assert max(sigma) > 19.5


def test_the_salt_probability_fills_its_range_and_the_salt_follows_it():
    texture = Texture(5.0, 0.02, 0.25, 1.0, 0.6)
    probability = synthesis.salt_probability((24, 48, 48), texture, np.ones(3), np.random.default_rng(0))
    assert probability.min() == pytest.approx(0.02, abs=1e-6)
    assert probability.max() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("sigma_b", [0.9, 1.5, 2.5])
def test_the_bright_part_of_a_texture_has_the_mean_that_was_drawn(sigma_b):
    texture = Texture(5.0, 0.05, 0.28, sigma_b, 0.45)
    rng = np.random.default_rng(2)
    patch = synthesis.render_texture((24, 64, 64), texture, np.ones(3), rng)
    assert patch.min() >= 0
    assert patch.max() <= 1
    # The same draws again, unscaled, tell where b2 > 0.2.
    rng = np.random.default_rng(2)
    probability = synthesis.salt_probability((24, 64, 64), texture, np.ones(3), rng)
    salt = (rng.random(probability.shape, dtype=np.float32) < probability).astype(np.float32)
    blurred = synthesis.ndimage.gaussian_filter(salt, sigma_b)
    deviation = 3 * np.sqrt((probability * (1 - probability)).mean() / probability.size)
    assert abs(salt.mean() - probability.mean()) < deviation
    if (patch < 1).all():
        assert patch[blurred > 0.2].mean() == pytest.approx(0.45, abs=0.02)


def test_a_texture_without_voxels_above_the_threshold_still_gets_its_brightness():
    texture = Texture(8.0, 0.0, 0.18, 5.0, 0.6)
    patch = synthesis.render_texture((16, 48, 48), texture, np.ones(3), np.random.default_rng(5))
    assert 0.6 < patch.max() <= 1
    assert synthesis.mean_above(np.full((4, 4, 4), 0.1), 0.2) == pytest.approx(0.1)
    assert synthesis.mean_above(np.zeros((4, 4, 4)), 0.2) == 0.0


def test_the_mean_is_taken_over_what_exceeds_the_threshold():
    assert synthesis.mean_above(np.array([0.1, 0.2, 0.3, 0.5]), 0.2) == pytest.approx(0.4)


def test_each_lesion_has_a_texture_of_its_own_that_no_other_lesion_changes():
    healthy = np.zeros((20, 40, 80), np.float32)
    components = np.zeros(healthy.shape, int)
    components[4:16, 8:32, 4:36] = 1
    components[4:16, 8:32, 44:76] = 2
    first, second, other = (np.random.SeedSequence(s) for s in (1, 2, 3))
    before = synthesis.paint(healthy, components, UNIT_MM, [first, second])
    after = synthesis.paint(healthy, components, UNIT_MM, [first, other])
    np.testing.assert_array_equal(before[components == 1], after[components == 1])
    assert (before[components == 2] != after[components == 2]).mean() > 0.5
    drawn = [synthesis.draw_texture(np.random.default_rng(seed), FINAL.textures) for seed in (first, second)]
    assert all(a != b for a, b in zip(vars(drawn[0]).values(), vars(drawn[1]).values(), strict=True))


def test_the_same_seed_makes_the_same_lesions_and_another_seed_others():
    healthy, lung = crop()
    one, same, other = (
        synthesis.synthesize(healthy, lung, UNIT_MM, TAU, np.random.SeedSequence(seed), CROWDED).image
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
