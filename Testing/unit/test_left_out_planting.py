"""Lesions planted in a scan that was not made for them; the healthy phantom stands for a real one."""

import dataclasses

import numpy as np
import pytest
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.evaluation import planting
from scipy import ndimage

PLANS = (
    phantom.Plan(phantom.SOLID, 16.0, False), phantom.Plan(phantom.DENSE, 16.0, True),
    phantom.Plan(phantom.SOLID, 12.0, True), phantom.Plan(phantom.DENSE, 8.0, False),
)  # fmt: skip


@pytest.fixture(scope="module")
def healthy():
    return phantom.make(1, (120, 128, 170), (2.5, 2.0, 2.0), ())


@pytest.fixture(scope="module")
def free(healthy):
    slices = np.ones(healthy.lungs.shape[0], dtype=bool)
    slices[30:60] = False
    return slices


@pytest.fixture(scope="module")
def sick(healthy, free):
    return planting.plant(healthy.scan, healthy.lungs, free, 0, PLANS)


def test_the_same_seed_plants_the_same_and_another_seed_something_else(healthy, free, sick):
    again, other = (planting.plant(healthy.scan, healthy.lungs, free, seed, PLANS) for seed in (0, 1))
    assert again.scan.hu.tobytes() == sick.scan.hu.tobytes()
    assert again.instances.tobytes() == sick.instances.tobytes()
    assert other.instances.tobytes() != sick.instances.tobytes()


def test_the_scan_itself_stays_as_it_was(healthy, sick):
    assert sick.scan.hu is not healthy.scan.hu
    assert np.array_equal(healthy.scan.hu, phantom.make(1, (120, 128, 170), (2.5, 2.0, 2.0), ()).scan.hu)


def test_nothing_gets_darker_and_nothing_far_from_the_lungs_changes(healthy, sick):
    gain = sick.scan.hu - healthy.scan.hu
    assert gain.min() >= 0
    assert not gain[~ndimage.binary_dilation(healthy.lungs > 0, np.ones((1, 3, 3)))].any()
    assert not sick.instances[healthy.lungs == 0].any()


def test_slices_that_are_not_free_stay_as_they_are(healthy, free, sick):
    assert np.array_equal(sick.scan.hu[~free], healthy.scan.hu[~free])


def test_every_plan_that_finds_room_becomes_a_lesion_of_its_kind_and_volume(healthy, sick):
    assert [(one.kind, one.radius_mm, one.subpleural) for one in sick.planted] == [
        (plan.kind, plan.radius_mm, plan.subpleural) for plan in PLANS
    ]
    for lesion in sick.planted:
        mask = sick.instances == lesion.label
        assert set(np.unique(sick.lesions[mask])) == {lesion.kind.label}
        share = mask.sum() * healthy.scan.grid.voxel_ml / (4 / 3 * np.pi * lesion.radius_mm**3 / 1000)
        assert (0.4 if lesion.subpleural else 0.85) < share < 1.1
        core = ndimage.binary_erosion(mask) & (healthy.vessels == 0)
        assert lesion.kind.low_hu - 25 < np.median(sick.scan.hu[core]) < lesion.kind.high_hu + 25


def test_the_centre_of_a_lesion_is_given_in_the_world(sick):
    for lesion in (one for one in sick.planted if not one.subpleural):
        middle = np.argwhere(sick.instances == lesion.label).mean(axis=0)[::-1]
        world = sick.scan.grid.image(sick.instances).TransformContinuousIndexToPhysicalPoint(middle.tolist())
        assert np.linalg.norm(np.subtract(world, lesion.centre_mm)) < lesion.radius_mm


def test_subpleural_lesions_reach_the_border_of_the_lung(healthy, sick):
    border = (healthy.lungs > 0) & ~ndimage.binary_erosion(healthy.lungs > 0)
    for lesion in (one for one in sick.planted if one.subpleural):
        assert (border & (sick.instances == lesion.label)).any()


def test_what_finds_no_room_is_left_out(healthy, free):
    crowd = [phantom.Plan(phantom.SOLID, 30.0, True)] * 9
    assert 0 < len(planting.plant(healthy.scan, healthy.lungs, free, 0, crowd).planted) < 9


def uniform(healthy, noise=0.0):
    """A lung without any structure, but for noise."""
    hu = np.where(healthy.lungs > 0, -870.0, 40.0).astype(np.float32)
    hu += np.random.default_rng(0).normal(0, noise, hu.shape).astype(np.float32)
    return dataclasses.replace(healthy.scan, hu=hu)


def test_the_noise_of_the_scan_goes_on_inside_a_lesion(healthy):
    every = np.ones(healthy.lungs.shape[0], dtype=bool)
    cores = []
    for noise in (0.0, 60.0):
        sick = planting.plant(uniform(healthy, noise=noise), healthy.lungs, every, 0, PLANS[:1])
        cores.append(sick.scan.hu[ndimage.binary_erosion(sick.instances == 1, iterations=2)])
    assert np.std(cores[1] - cores[0]) == pytest.approx(60, rel=0.2)


def test_a_thick_slice_is_the_mean_of_thin_ones(healthy, monkeypatch):
    """Between the lung and a dense lesion thick slices hold many voxels that are neither."""

    def between():
        scan = uniform(healthy)
        scan = dataclasses.replace(scan, grid=dataclasses.replace(scan.grid, spacing=(2.0, 2.0, 7.5)))
        sick = planting.plant(scan, healthy.lungs, np.ones(len(scan.hu), dtype=bool), 0, PLANS[:1])
        changed = sick.scan.hu[(sick.scan.hu > scan.hu + 1) & (healthy.lungs > 0)]
        return (changed < -250).mean()

    thinned = between()
    monkeypatch.setattr(planting, "THIN_MM", 100.0)
    assert thinned > 1.3 * between()
