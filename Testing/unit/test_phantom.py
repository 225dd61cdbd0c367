"""The phantom is the same for everyone, looks like a chest in numbers, and knows where its lesions are."""

import ast
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.scan import Scan
from scipy import ndimage

COARSE = {"shape": (75, 64, 85), "spacing_mm": (4.0, 4.0, 4.0)}
FINER = {"shape": (150, 128, 170), "spacing_mm": (2.0, 2.0, 2.0)}
FEW = (phantom.Plan(phantom.SOLID, 12.0, True), phantom.Plan(phantom.FAINT, 12.0, False))


@pytest.fixture(scope="module")
def sick() -> phantom.Phantom:
    return phantom.make(3, **FINER)


@pytest.fixture(scope="module")
def healthy() -> phantom.Phantom:
    return phantom.make(3, **FINER, lesions=())


def at(made: phantom.Phantom, x: float, y: float, z: float) -> tuple[int, int, int]:
    """The voxel (k, j, i) at a point of the body."""
    world = np.add(phantom.WORLD_MM, (x, y, z))
    i, j, k = made.image().TransformPhysicalPointToIndex(tuple(map(float, world)))
    return k, j, i


def mean_around(made: phantom.Phantom, x: float, y: float, z: float, reach: int = 2) -> float:
    k, j, i = at(made, x, y, z)
    return float(made.scan.hu[k - reach : k + reach + 1, j - reach : j + reach + 1, i - reach : i + reach + 1].mean())


def test_the_same_seed_makes_the_same_bytes_and_another_seed_makes_others():
    first, again, other = (phantom.make(seed, **COARSE, lesions=FEW) for seed in (5, 5, 6))
    for name in ("lungs", "lesions", "instances", "vessels"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.scan.hu.tobytes() == again.scan.hu.tobytes()
    assert first.planted == again.planted
    assert first.scan.hu.tobytes() != other.scan.hu.tobytes()
    assert first.instances.tobytes() != other.instances.tobytes()


def test_all_arrays_lie_on_the_grid_of_the_scan(sick):
    for array, dtype in (
        (sick.scan.hu, np.float32), (sick.vessels, np.float32),
        (sick.lungs, np.uint8), (sick.lesions, np.uint8), (sick.instances, np.uint8),
    ):  # fmt: skip
        assert array.shape == sick.scan.grid.shape == FINER["shape"]
        assert array.dtype == dtype
    assert sick.scan.grid.spacing_mm == FINER["spacing_mm"]


def test_tissues_have_the_densities_of_a_chest(healthy):
    lung = ndimage.binary_erosion(healthy.lungs > 0, iterations=2) & (healthy.vessels == 0)
    assert np.median(healthy.scan.hu[lung]) == pytest.approx(-860, abs=20)
    assert mean_around(healthy, 22, 38, -60) == pytest.approx(42, abs=15)  # aorta
    assert mean_around(healthy, 0, 8, 100, 1) < -950  # trachea
    assert mean_around(healthy, -60, -10, -125) == pytest.approx(58, abs=15)  # liver
    assert mean_around(healthy, 66, -35, -127) < -950  # gas in the stomach
    assert healthy.scan.hu.max() > 400  # bone


def test_lung_is_denser_towards_the_back(healthy):
    plain = (healthy.lungs > 0) & (healthy.vessels == 0)
    j = np.broadcast_to(np.arange(plain.shape[1])[None, :, None], plain.shape)
    front, back = np.percentile(j[plain], [15, 85])
    rise = np.median(healthy.scan.hu[plain & (j > back)]) - np.median(healthy.scan.hu[plain & (j < front)])
    assert 30 < rise < 90


def test_the_right_lung_is_larger_and_lies_at_small_i(healthy):
    right, left = healthy.lungs == 1, healthy.lungs == 2
    assert 1.05 < right.sum() / left.sum() < 1.4
    assert np.nonzero(right)[2].mean() + 30 < np.nonzero(left)[2].mean()
    assert 3500 < (right | left).sum() * healthy.scan.grid.voxel_ml < 6000


def test_trachea_main_bronchi_and_stomach_gas_are_not_lung(healthy):
    for gas in ((0, 8, 100), (-24, 19, 12), (-41, 19, 5), (24, 20, 10), (45, 23, -1), (66, -35, -127)):
        assert healthy.lungs[at(healthy, *gas)] == 0


def test_each_lung_is_one_piece(healthy):
    for label in (1, 2):
        sizes = np.bincount(ndimage.label(healthy.lungs == label)[0].ravel())[1:]
        assert sizes.max() > 0.999 * sizes.sum()


def test_vessels_fill_the_share_of_the_lung_that_they_fill_in_people(healthy):
    assert 0.05 < healthy.vessels[healthy.lungs > 0].mean() < 0.10


def test_lesions_lie_in_the_lungs_and_carry_the_class_of_their_kind(sick):
    assert not sick.lesions[sick.lungs == 0].any()
    assert np.array_equal(sick.lesions > 0, sick.instances > 0)
    for lesion in sick.planted:
        assert set(np.unique(sick.lesions[sick.instances == lesion.label])) == {lesion.kind.label}


def test_the_whole_mix_is_planted(sick):
    planted = [(lesion.kind, lesion.radius_mm, lesion.subpleural) for lesion in sick.planted]
    assert planted == [(plan.kind, plan.radius_mm, plan.subpleural) for plan in phantom.LESION_MIX]
    assert {(kind.name, radius) for kind, radius, _ in planted} == {
        (kind.name, radius) for kind in (phantom.FAINT, phantom.DENSE, phantom.SOLID) for radius in (5, 8, 12, 16)
    }


def test_a_lesion_inside_the_lung_has_the_volume_of_its_ball_and_lies_around_its_centre(sick):
    for lesion in (one for one in sick.planted if not one.subpleural):
        mask = sick.instances == lesion.label
        ball_ml = 4 / 3 * np.pi * lesion.radius_mm**3 / 1000
        assert mask.sum() * sick.scan.grid.voxel_ml == pytest.approx(ball_ml, rel=0.25)
        middle = np.argwhere(mask).mean(axis=0)[::-1]
        world = sick.image().TransformContinuousIndexToPhysicalPoint(middle.tolist())
        assert np.linalg.norm(np.subtract(world, lesion.centre_mm)) < lesion.radius_mm


def test_subpleural_lesions_reach_the_border_of_the_lung(sick):
    border = (sick.lungs > 0) & ~ndimage.binary_erosion(sick.lungs > 0)
    for lesion in (one for one in sick.planted if one.subpleural):
        assert (border & (sick.instances == lesion.label)).any()


def test_the_core_of_a_lesion_is_as_dense_as_its_kind_says_and_patchy():
    kinds = (phantom.FAINT, phantom.DENSE, phantom.SOLID)
    made = phantom.make(1, **FINER, lesions=[phantom.Plan(kind, 16.0, False) for kind in kinds], noise_hu=0)
    for lesion in made.planted:
        core = ndimage.binary_erosion(made.instances == lesion.label, iterations=3) & (made.vessels == 0)
        hu = made.scan.hu[core]
        hu = hu[hu > -700]  # an airway may run through it
        assert lesion.kind.low_hu <= np.percentile(hu, 5)
        assert np.percentile(hu, 90) <= lesion.kind.high_hu + 20
        assert np.std(hu) > 15


def test_without_lesions_it_is_the_same_patient_with_the_same_noise(sick, healthy):
    assert not healthy.lesions.any()
    assert healthy.planted == ()
    assert np.array_equal(healthy.lungs, sick.lungs)
    far = ndimage.distance_transform_edt(sick.instances == 0, sick.scan.grid.spacing_mm) > 8  # past the soft edges
    assert np.array_equal(healthy.scan.hu[far], sick.scan.hu[far])
    assert (sick.scan.hu[sick.instances > 0] - healthy.scan.hu[sick.instances > 0]).mean() > 200


def test_vessels_stay_visible_in_ground_glass(sick):
    inside = (sick.lesions == phantom.GROUND_GLASS) & (sick.vessels > 0.9)
    assert inside.any()
    assert np.median(sick.scan.hu[inside]) > -50


def test_thick_slices_are_means_of_thin_ones():
    thin = phantom.make(2, (76, 64, 85), (4.0, 4.0, 4.0), FEW, noise_hu=0)
    thick = phantom.make(2, (38, 64, 85), (8.0, 4.0, 4.0), FEW, noise_hu=0, thin_slices=2)
    assert np.allclose(thin.scan.hu.reshape(38, 2, 64, 85).mean(axis=1), thick.scan.hu, atol=1e-2)
    assert np.allclose(thin.scan.grid.origin[2] + 2.0, thick.scan.grid.origin[2])


def test_noise_has_the_asked_strength_and_a_sharp_kernel_makes_it_finer():
    plain, soft, sharp = (
        phantom.make(0, (5, 48, 48), (8.0, 1.0, 1.0), (), noise_hu=noise, sharp=kernel).scan.hu
        for noise, kernel in ((0, False), (30, False), (30, True))
    )

    def neighbours(noise: np.ndarray) -> float:
        return float(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1])

    assert (soft - plain).std() == pytest.approx(30, rel=0.1)
    assert (sharp - plain).std() == pytest.approx(30, rel=0.1)
    assert neighbours(sharp - plain) + 0.2 < neighbours(soft - plain)


def test_its_image_read_back_is_the_same_scan(sick, tmp_path):
    sitk.WriteImage(sick.image(), tmp_path / "phantom.nrrd")
    read = Scan.from_image(sitk.ReadImage(tmp_path / "phantom.nrrd"), "phantom.nrrd")
    assert np.array_equal(read.hu, sick.scan.hu)
    assert read.grid == sick.scan.grid


def test_more_lesions_than_the_lungs_hold_are_refused():
    with pytest.raises(ValueError, match="no room in the lungs for another consolidation of 40 mm"):
        phantom.make(0, **COARSE, lesions=[phantom.Plan(phantom.SOLID, 40.0, False)] * 9)


def test_it_shares_no_code_with_the_lesions_of_training():
    for file in Path(phantom.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        ours = {name for name in imported if name and name.startswith("LabelFreeCovidSegLib")}
        assert ours <= {"LabelFreeCovidSegLib.phantom", "LabelFreeCovidSegLib.scan"} | {
            name for name in ours if name.startswith("LabelFreeCovidSegLib.phantom.")
        }
