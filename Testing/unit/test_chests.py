"""Chests made ill: what disease may touch, what remains a lung, and what the scanner and the room may not add."""

from dataclasses import replace

import numpy as np
import pytest
from LabelFreeCovidSegLib.training import chests, illness, surroundings
from LabelFreeCovidSegLib.training.chests import Chest, vary
from LabelFreeCovidSegLib.training.fields import smooth_noise, widen
from scipy import ndimage

SPACING = (6.0, 5.0, 5.0)
SHAPE = (32, 40, 56)
NEVER = replace(
    illness.SEVERE, denser=0.0, emphysema=0.0, ground_glass=0.0, patches=0.0, lobar=0.0, segmental=0.0, focal=0.0,
    effusion=0.0, diseased=1.0, bronchogram=0.0, aerated=0.0, enhanced=0.0, like_neighbour=0.0, atelectasis=0.0,
    cavity=0.0, pushed=0.0,
)  # fmt: skip
STILL = chests.Body(size=(1.0, 1.0), turn_degrees=(0.0, 0.0), elastic_mm=(0.0, 0.0), shift_mm=(0, 0, 0))


@pytest.fixture(scope="module")
def chest():
    """Muscle all through the crop, in it two lungs of air; the right one smaller, half lung at their borders."""
    k, j, i = np.ogrid[:30, :32, :44]

    def lung(column, radius):
        return ((k - 15) / 12) ** 2 + ((j - 16) / 12) ** 2 + ((i - column) / radius) ** 2

    right, left = lung(11, 7.5), lung(32, 8.5)
    labels = np.where(right <= 1, 1, np.where(left <= 1, 2, 0)).astype(np.uint8)
    air = np.clip((1.3 - np.minimum(right, left)) / 0.4, 0, 1)
    return Chest((40 - 890 * air).astype(np.float32), labels, np.ones(labels.shape, bool))


def ill(chest, seed=0, **chances):
    return illness.fall_ill(chest.hu, chest.labels, SPACING, np.random.default_rng(seed), replace(NEVER, **chances))


def rim_of(chest):
    beside = ndimage.binary_dilation(chest.labels > 0, np.ones((3, 3, 3))) & (chest.labels == 0)
    low, high = illness.RIM_HU
    return beside & (chest.hu > low) & (chest.hu < high)


def test_a_sample_has_the_shape_and_types_asked_for(chest):
    for seed in range(6):
        made = vary(chest, SHAPE, SPACING, np.random.default_rng(seed))
        assert (made.hu.shape, made.labels.shape, made.known.shape) == (SHAPE,) * 3
        assert (made.hu.dtype, made.labels.dtype, made.known.dtype) == (np.float32, np.uint8, bool)
        assert np.isfinite(made.hu).all()
        assert made.hu.min() >= -1024
        assert set(np.unique(made.labels)) <= {0, 1, 2}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_chest(chest):
    one, again, other = (vary(chest, SHAPE, SPACING, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.hu.tobytes() == again.hu.tobytes()
    assert one.labels.tobytes() == again.labels.tobytes()
    assert one.hu.tobytes() != other.hu.tobytes()


def test_the_chest_that_was_given_is_left_as_it_was(chest):
    before = chest.hu.tobytes(), chest.labels.tobytes(), chest.known.tobytes()
    for seed in range(4):
        vary(chest, SHAPE, SPACING, np.random.default_rng(seed))
    assert before == (chest.hu.tobytes(), chest.labels.tobytes(), chest.known.tobytes())


def test_a_chest_without_lungs_is_refused(chest):
    with pytest.raises(ValueError, match="empty mask"):
        vary(replace(chest, labels=np.zeros_like(chest.labels)), SHAPE, SPACING, np.random.default_rng(0))


def test_nothing_happens_to_a_healthy_lung_that_breathes_deeply(chest):
    hu, labels = ill(chest)
    np.testing.assert_array_equal(hu, chest.hu)
    np.testing.assert_array_equal(labels, chest.labels)


@pytest.mark.parametrize(
    "disease", ["denser", "emphysema", "ground_glass", "patches", "lobar", "segmental", "focal", "effusion"]
)
def test_disease_changes_the_lung_and_its_half_filled_rim_but_nothing_else(chest, disease):
    for seed in range(5):
        hu, labels = ill(chest, seed, **{disease: 1.0, "atelectasis": 1.0, "cavity": 1.0})
        outside = (chest.labels == 0) & ~rim_of(chest)
        np.testing.assert_array_equal(hu[outside], chest.hu[outside])
        assert (hu[chest.labels > 0] != chest.hu[chest.labels > 0]).any()
        if disease != "effusion":
            np.testing.assert_array_equal(labels, chest.labels)


@pytest.mark.parametrize("kind", ["lobar", "segmental"])
@pytest.mark.parametrize("side", [1, 2])
def test_a_consolidation_covers_the_share_drawn_and_is_as_dense_as_soft_tissue(chest, side, kind):
    shares = []
    for seed in range(7):
        hu, _ = ill(chest, seed, **{kind: 1.0, f"{kind}_share": (0.5, 0.5)})
        inside = hu[chest.labels == side]
        assert 0 < np.percentile(inside, 99) < 100
        shares.append(np.mean(inside > -100))
    assert np.median(shares) == pytest.approx(0.5, abs=0.12)  # a soft edge leaves less that is so dense


def test_a_consolidated_segment_lies_at_the_pleura(chest):
    for seed in range(5):
        hu, _ = ill(chest, seed, segmental=1.0, segmental_share=(0.1, 0.1))
        for side in (1, 2):
            lung = chest.labels == side
            depth = ndimage.distance_transform_edt(lung, SPACING)
            dense = lung & (hu > -100) & (chest.hu < -500)
            assert depth[dense].min() <= max(SPACING)
            assert np.argwhere(dense).std(0).mean() < 0.8 * np.argwhere(lung).std(0).mean()


def test_a_consolidated_lung_has_no_dark_outline(chest):
    hu, _ = ill(chest, lobar=1.0, lobar_share=(1.0, 1.0))
    beside = rim_of(chest)
    assert chest.hu[beside].mean() < -150
    assert np.mean(hu[beside] < -100) < 0.06


def test_lung_like_its_neighbour_cannot_be_told_from_it_by_density(chest):
    for seed in range(4):
        hu, _ = ill(chest, seed, lobar=1.0, lobar_share=(1.0, 1.0), like_neighbour=1.0)
        assert np.median(hu[chest.labels > 0]) == pytest.approx(40, abs=5)


def test_bronchi_stay_dark_in_some_consolidations(chest):
    solid, _ = ill(chest, lobar=1.0, lobar_share=(1.0, 1.0))
    open_, _ = ill(chest, lobar=1.0, lobar_share=(1.0, 1.0), bronchogram=1.0)
    # Fully solid where the level lies; away from it, no air is left without bronchi.
    dark = [np.mean(hu[chest.labels > 0] < -150) for hu in (solid, open_)]
    assert dark[0] + 0.002 < dark[1] < 0.35


def test_vessels_stay_brighter_than_the_consolidation_around_them(chest):
    hu = chest.hu.copy()
    hu[15, 16, 8:14] = 250
    solid, _ = ill(replace(chest, hu=hu), lobar=1.0, lobar_share=(1.0, 1.0))
    np.testing.assert_array_equal(solid[15, 16, 8:14], 250)


def test_ground_glass_is_denser_than_air_and_thinner_than_blood(chest):
    for seed in range(4):
        hu, _ = ill(chest, seed, ground_glass=1.0, ground_glass_share=(1.0, 1.0))
        inner = ndimage.binary_erosion(chest.labels > 0, iterations=3)
        assert (hu[inner] > chest.hu[inner]).mean() > 0.9
        assert hu[inner].max() < 0


def test_blood_that_bulges_from_the_middle_is_no_lung(chest):
    for seed in range(5):
        hu, labels = ill(chest, seed, pushed=1.0, pushed_mm=(12.0, 16.0), pushed_off_mm=0.0)
        lost = (chest.labels > 0) & (labels == 0)
        assert lost.any()
        np.testing.assert_array_equal(labels[~lost], chest.labels[~lost])
        for side, toward in ((1, 1), (2, -1)):
            here, there = lost & (chest.labels == side), labels == side
            assert here.sum() < 0.3 * there.sum()
            if here.any():
                assert toward * (np.nonzero(here)[2].mean() - np.nonzero(there)[2].mean()) > 0
        assert np.median(hu[lost]) > -100  # on this grid much of it is its edge


def test_fluid_is_no_lung_lies_at_the_back_and_looks_like_water(chest):
    for seed in range(5):
        hu, labels = ill(chest, seed, effusion=1.0)
        fluid = (chest.labels > 0) & (labels == 0)
        assert fluid.any()
        np.testing.assert_array_equal(labels[~fluid], chest.labels[~fluid])
        for side in (1, 2):
            here, there = fluid & (chest.labels == side), labels == side
            assert np.nonzero(here)[1].mean() > np.nonzero(there)[1].mean() + 3
        assert -25 < np.median(hu[fluid]) < 30


def test_lung_pressed_by_fluid_is_dense_and_remains_lung(chest):
    chances = {"effusion": 1.0, "atelectasis": 1.0, "effusion_share": (0.2, 0.2), "atelectasis_share": (0.25, 0.25)}
    hu, labels = ill(chest, **chances)
    assert np.mean(hu[labels > 0] > 30) > 0.15


def test_a_wide_cavity_is_air_in_a_solid_wall(chest):
    hu, _ = ill(chest, focal=1.0, focal_mm=(25.0, 30.0), cavity=1.0, cavity_wall_mm=(8.0, 8.0))
    inside = hu[chest.labels > 0]
    assert (inside < -900).any()
    assert (inside > -100).any()


def test_dependent_density_grows_towards_the_back(chest):
    hu, _ = ill(chest, denser=1.0, denser_hu=(0.0, 0.0), dependent_hu=(300.0, 300.0))
    gained = hu - chest.hu
    inner = ndimage.binary_erosion(chest.labels > 0, iterations=2)
    front, back = (inner & (np.arange(32)[:, None] < 12)), (inner & (np.arange(32)[:, None] > 20))
    assert gained[back].mean() > gained[front].mean() + 50


def test_a_chest_at_rest_is_copied_to_the_middle(chest, monkeypatch):
    monkeypatch.setattr(chests, "BODY", STILL)
    moved, aside, past_mm = chests.move(chest, chest.hu.shape, SPACING, np.random.default_rng(0))
    assert ndimage.center_of_mass(moved.labels > 0) == pytest.approx([14.5, 15.5, 21.5], abs=0.7)
    assert (moved.labels > 0).sum() == pytest.approx((chest.labels > 0).sum(), rel=0.03)  # half a voxel apart
    assert moved.hu.min() == pytest.approx(chest.hu.min(), abs=1)
    assert aside.mean() < 0.1
    assert past_mm.max() < 2 * SPACING[0]


def test_size_is_what_is_asked_for(chest, monkeypatch):
    volumes = []
    for size in (0.8, 1.0, 1.25):
        monkeypatch.setattr(chests, "BODY", replace(STILL, size=(size, size)))
        moved, _, _ = chests.move(chest, (48, 56, 72), SPACING, np.random.default_rng(0))
        volumes.append((moved.labels > 0).sum())
    assert volumes[0] / volumes[1] == pytest.approx(0.8**3, rel=0.06)
    assert volumes[2] / volumes[1] == pytest.approx(1.25**3, rel=0.06)


def test_what_lies_beyond_the_source_is_no_lung_and_cut_off_lung_is_unknown(chest, monkeypatch):
    monkeypatch.setattr(chests, "BODY", STILL)
    cut = Chest(chest.hu[10:], chest.labels[10:], chest.known[10:])
    moved, _, past_mm = chests.move(cut, (40, 40, 56), SPACING, np.random.default_rng(0))
    assert past_mm.max() > 0
    assert not moved.labels[past_mm > 0].any()
    below = slice(0, int(np.flatnonzero(moved.labels.any(axis=(1, 2)))[0]))
    column = moved.labels[below.stop] > 0
    assert not moved.known[below][:, column].any()
    assert moved.known[moved.labels > 0].all()


def test_the_known_region_moves_with_the_lung_it_belongs_to(chest, monkeypatch):
    monkeypatch.setattr(chests, "BODY", replace(STILL, turn_degrees=(8.0, 8.0), size=(1.2, 1.2)))
    moved, _, _ = chests.move(replace(chest, known=chest.labels != 2), SHAPE, SPACING, np.random.default_rng(0))
    assert not moved.known[moved.labels == 2].any()
    assert moved.known[moved.labels == 1].all()


def test_a_field_of_view_hides_voxels_and_labels_together(chest, monkeypatch):
    monkeypatch.setattr(
        chests, "VIEW", chests.FieldOfView(cut=1.0, cut_share=(0.25, 0.25), circle=1.0, radius_mm=(80.0, 80.0))
    )
    seen = chests.frame(chest, SPACING, np.random.default_rng(0))
    hidden = seen.hu == -1024
    assert not seen.labels[hidden].any()
    np.testing.assert_array_equal(seen.labels[~hidden], chest.labels[~hidden])
    np.testing.assert_array_equal(seen.hu[~hidden], chest.hu[~hidden])
    before, after = (np.flatnonzero(labels.any(axis=(1, 2))) for labels in (chest.labels, seen.labels))
    quarter = len(before) / 4
    assert after[0] - before[0] == pytest.approx(quarter, abs=1)
    assert before[-1] - after[-1] == pytest.approx(quarter, abs=1)


def test_a_scan_keeps_what_lies_outside_its_circle_constant(chest):
    hu = chest.hu.copy()
    hu[:, :, :6] = -1024
    for seed in range(4):
        assert (chests.rescan(hu, SPACING, np.random.default_rng(seed))[:, :, :6] <= -950).all()


def moved_apart(chest, monkeypatch, seed=0):
    """The chest in a sample twice as wide as the crop."""
    monkeypatch.setattr(chests, "BODY", STILL)
    return chests.move(chest, (30, 64, 88), SPACING, np.random.default_rng(seed))


def test_a_body_is_put_around_the_crop_and_air_around_the_body(chest, monkeypatch):
    monkeypatch.setattr(surroundings, "TABLE", 0.0)
    monkeypatch.setattr(surroundings, "ARMS", 0.0)
    monkeypatch.setattr(surroundings, "TRUNK_MM", (1.0, 20.0))
    moved, aside, past_mm = moved_apart(chest, monkeypatch)
    for seed in range(4):
        hu = surroundings.dress(moved.hu, moved.labels, aside, past_mm, SPACING, np.random.default_rng(seed))
        np.testing.assert_array_equal(hu[moved.labels > 0], moved.hu[moved.labels > 0])
        corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.mean(corners < -900) > 0.9
        # The crop passes into what is made up over two or three voxels of the coarse outline.
        deep = ndimage.binary_erosion(~aside, np.ones((1, 11, 11))) & (past_mm == 0)
        np.testing.assert_allclose(hu[deep], moved.hu[deep], atol=1)


def test_a_lung_close_to_the_edge_of_its_crop_stays_as_it_is(chest, monkeypatch):
    tight = Chest(*(part[:, 4:-4, 3:-3] for part in (chest.hu, chest.labels, chest.known)))
    moved, aside, past_mm = moved_apart(tight, monkeypatch)
    hu = surroundings.dress(moved.hu, moved.labels, aside, past_mm, SPACING, np.random.default_rng(0))
    np.testing.assert_array_equal(hu[moved.labels > 0], moved.hu[moved.labels > 0])


def test_made_up_tissue_is_fat_muscle_or_skin(chest, monkeypatch):
    monkeypatch.setattr(surroundings, "TABLE", 0.0)
    monkeypatch.setattr(surroundings, "ARMS", 0.0)
    monkeypatch.setattr(surroundings, "TRUNK_MM", (60.0, 60.0))
    moved, aside, past_mm = moved_apart(chest, monkeypatch)
    hu = surroundings.dress(moved.hu, moved.labels, aside, past_mm, SPACING, np.random.default_rng(0))
    near = aside & ndimage.binary_dilation(~aside, np.ones((1, 5, 5)))
    assert hu[near].min() > -130
    assert hu[near].max() < 80


def test_bowel_gas_keeps_clear_of_the_lungs_and_lies_over_its_fluid(chest, monkeypatch):
    monkeypatch.setattr(surroundings, "STOMACH", 1.0)
    monkeypatch.setattr(surroundings, "COLON", 1.0)
    deep = np.pad(chest.hu, ((12, 0), (0, 0), (0, 0)), constant_values=40)
    labels = np.pad(chest.labels, ((12, 0), (0, 0), (0, 0)))
    away = ndimage.distance_transform_edt(labels == 0, SPACING)
    gas_seen = 0
    for seed in range(8):
        hu = surroundings.swallow_air(deep, labels, SPACING, np.random.default_rng(seed))
        np.testing.assert_array_equal(hu[labels > 0], deep[labels > 0])
        gas = (hu < -500) & (deep > -400)
        gas_seen += gas.any()
        assert away[gas].min(initial=np.inf) > 5
    assert gas_seen >= 4


def test_contrast_brightens_tissue_between_the_lungs_only(chest, monkeypatch):
    monkeypatch.setattr(surroundings, "CONTRAST", 1.0)
    monkeypatch.setattr(surroundings, "WASHED", 0.0)
    hu = chest.hu.copy()
    hu[15, 16, 12:18] = 50  # a vessel in the lung
    gained = [surroundings.enhance(hu, chest.labels, SPACING, np.random.default_rng(seed)) - hu for seed in range(12)]
    for more in gained:
        assert not more[chest.labels > 0].any()
        assert more.min() > -1e-3
    mean = np.mean(gained, axis=0)
    assert mean[12:19, 13:20, 20:23].max() > 30
    assert mean[12:19, 13:20, 20:23].mean() > 3 * mean[:, :2, :3].mean()


def test_contrast_is_taken_away_between_the_lungs_only(chest, monkeypatch):
    monkeypatch.setattr(surroundings, "CONTRAST", 0.0)
    monkeypatch.setattr(surroundings, "WASHED", 1.0)
    hu = chest.hu.copy()
    hu[15, 16, 21], hu[15, 16, 12], hu[15, 1, 1] = 250, 250, 250  # between the lungs, in one, and far off
    washed = surroundings.enhance(hu, chest.labels, SPACING, np.random.default_rng(0))
    assert washed[15, 16, 21] < 100
    np.testing.assert_array_equal(washed[chest.labels > 0], hu[chest.labels > 0])
    assert washed[15, 1, 1] > 240
    assert washed.max(initial=0) <= hu.max()


def test_smooth_noise_has_unit_variance_and_no_steps():
    field = smooth_noise((60, 70, 80), (1.0, 1.0, 1.0), 8.0, np.random.default_rng(0))
    assert field.std() == pytest.approx(1, abs=0.15)
    assert abs(np.diff(field, axis=2)).max() < 0.8


def test_widening_a_coarse_ramp_gives_the_fine_one():
    fine = np.add.outer(np.add.outer(np.arange(9.0), 2 * np.arange(9.0)), 3 * np.arange(9.0)).astype(np.float32)
    np.testing.assert_allclose(widen(fine[::4, ::4, ::4], fine.shape, 4), fine, atol=1e-4)
