"""The two domains of slices: synthetic opacities with labels, and patients without."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import uda
from LabelFreeCovidSegLib.quantify import CONSOLIDATION, GROUND_GLASS
from LabelFreeCovidSegLib.scan import AIR_HU
from LabelFreeCovidSegLib.training import domains, scanlist
from LabelFreeCovidSegLib.training import uda as recipe
from LabelFreeCovidSegLib.training.domains import Slices, labelled, unlabelled
from LabelFreeCovidSegLib.training.pneumonia import infect
from LabelFreeCovidSegLib.training.variety import framed, varied

SPACING_MM = (4.0, 3.0, 3.0)
CANVAS = (64, 80)


def lungs():
    """Two ellipsoids of lung, 1.7 L in all, in soft tissue: HU and mask."""
    k, j, i = np.ogrid[-24:24, -30:30, -40:40]
    mask = np.zeros((48, 60, 80), bool)
    for side in (-20, 20):
        mask |= (k / 22) ** 2 + (j / 24) ** 2 + ((i - side) / 14) ** 2 <= 1
    return np.where(mask, -860.0, 40.0).astype(np.float32), mask


def infected(seed):
    hu, lung = lungs()
    made = infect(hu, lung, SPACING_MM, np.random.default_rng(seed))
    return made.hu, made.classes


def block(healthy=True):
    hu, lung = lungs()
    return {"hu": hu.astype(np.int16), "labels": lung.astype(np.uint8)} if healthy else {"hu": hu.astype(np.int16)}


# Opacities


def test_lesions_depend_on_the_seed_alone_and_lie_in_the_lung():
    hu, lung = lungs()
    ill, classes = infected(3)
    for one, again in zip(infected(3), (ill, classes), strict=True):
        np.testing.assert_array_equal(one, again)
    assert (ill >= hu - 1e-3).all()
    np.testing.assert_array_equal(ill[~lung], hu[~lung])
    assert set(np.unique(classes)) <= {0, GROUND_GLASS, CONSOLIDATION}
    assert not classes[~lung].any()
    assert (infected(4)[1] != classes).any()


def test_consolidation_is_denser_than_ground_glass_and_both_than_lung():
    seen = {0: [], GROUND_GLASS: [], CONSOLIDATION: []}
    for seed in range(8):
        ill, classes = infected(seed)
        _, lung = lungs()
        for label, values in seen.items():
            values.append(ill[(classes == label) & lung])
    healthy, glass, solid = (float(np.median(np.concatenate(values))) for values in seen.values())
    assert healthy < -850
    assert -800 < glass < -300
    assert -350 < solid < 50


def test_some_lungs_have_both_classes_some_one_and_some_none():
    hu, lung = (array[20:26] for array in lungs())
    found = {
        tuple(np.unique(infect(hu, lung, SPACING_MM, np.random.default_rng(seed)).classes).tolist())
        for seed in range(40)
    }
    assert found == {(0,), (0, 1), (0, 2), (0, 1, 2)}


# Slices


def test_a_slice_lies_in_the_middle_of_the_canvas_and_air_around_it():
    hu, labels = np.full((10, 20), 40.0, np.float32), np.ones((10, 20), np.uint8)
    image, moved = framed(hu, labels, (16, 32))
    rows, columns = np.nonzero(moved)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 12, 6, 25)
    np.testing.assert_allclose(image[moved > 0], uda.window(np.array(40.0)))
    np.testing.assert_allclose(image[moved == 0], uda.window(np.array(AIR_HU)))


@pytest.mark.parametrize("seed", range(5))
def test_labels_go_with_the_slice_when_it_is_changed(seed):
    hu, lung = lungs()
    image, labels = varied(hu[24], lung[24].astype(np.uint8), CANVAS, np.random.default_rng(seed))
    body = np.pad(np.ones((44, 60), bool), ((10, 10), (10, 10)))  # within the slice, however it is turned
    dark = (image < -0.3) & body
    assert 2 * (dark & (labels > 0) & body).sum() / (dark.sum() + (body & (labels > 0)).sum()) > 0.9
    assert (image.shape, labels.shape) == (CANVAS, CANVAS)
    assert -1 <= image.min() <= image.max() <= 1


def test_a_source_slice_has_labels_of_lung_and_lesions():
    slices = Slices.of([block()])
    seen = set()
    for seed in range(16):
        image, labels = labelled(slices, SPACING_MM, CANVAS, np.random.SeedSequence(seed))
        assert (image.shape, labels.shape, labels.dtype) == (CANVAS, CANVAS, np.uint8)
        seen |= set(np.unique(labels).tolist())
    assert seen == {uda.BACKGROUND, uda.LUNG, uda.GROUND_GLASS, uda.CONSOLIDATION}


def test_slices_with_more_lung_can_be_drawn_more_often():
    labels = np.zeros((3, 4, 10), np.uint8)
    labels[0, 0, :1] = labels[1, 0, :9] = 1
    slices = Slices.of([{"hu": np.zeros(labels.shape, np.int16), "labels": labels}])
    rng = np.random.default_rng(0)
    drawn = np.bincount([slices.draw_large(rng)[1] for _ in range(500)], minlength=3)
    assert drawn[2] == 0
    assert drawn[1] / 500 == pytest.approx(0.9, abs=0.05)


def test_slices_without_lung_are_not_drawn_from_the_source_domain():
    assert len(Slices.of([block()]).places) == 45
    assert len(Slices.of([block(healthy=False)]).places) == 48


def test_a_target_slice_is_shown_without_lesions_being_added():
    image = unlabelled(Slices.of([block(healthy=False)]), SPACING_MM, CANVAS, np.random.SeedSequence(0))
    grey = np.unique(np.round(image[20:40, 20:60], 2))
    assert len(grey) < 40  # lung, tissue and the borders between them
    assert image.dtype == np.float32


def test_what_is_nearer_to_a_lung_that_is_not_healthy_is_not_known():
    sides = np.zeros((2, 10, 21), np.uint8)
    sides[:, 2:8, 2:8], sides[:, 2:8, 13:19] = 1, 2
    labels = domains.known_lung(sides, (1,), SPACING_MM)
    assert (labels[:, :, 11:] == uda.UNKNOWN).all()
    assert set(np.unique(labels[:, :, :10])) == {0, uda.LUNG}
    assert uda.UNKNOWN not in domains.known_lung(sides, (1, 2), SPACING_MM)


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0), lesions=())
    path = tmp_path_factory.mktemp("scans") / "ct.nii.gz"
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), path)
    return scanlist.ListedScan("chest", path, exclude=((28, 31),))


def test_a_near_healthy_scan_gives_labelled_blocks_without_its_findings_and_a_patients_unlabelled_ones(chest):
    near_healthy = domains.slice_blocks(chest, SPACING_MM)
    assert len(near_healthy) == 2
    for one in near_healthy:
        assert one["hu"].dtype == np.int16
        assert one["hu"].shape == one["labels"].shape
        inside = one["hu"][one["labels"] == uda.LUNG]
        assert np.median(inside) < -700
    (patient,) = domains.slice_blocks(replace(chest, exclude=(), covid=True), SPACING_MM)
    assert set(patient) == {"hu"}
    assert len(patient["hu"]) > sum(len(one["hu"]) for one in near_healthy)


# Whole slices, for equalised pictures


def whole(healthy=True):
    """As `block`, in a body with air around it."""
    margin = ((0, 0), (20, 20), (20, 20))
    made = {name: np.pad(array, margin, constant_values=0) for name, array in block(healthy).items()}
    outside = np.pad(np.zeros(block()["hu"].shape, bool), margin, constant_values=True)
    outside[:, 12:-12, 12:-12] = False
    return made | {
        "hu": np.where(outside, -1000, made["hu"]).astype(np.int16),
        "lungs": np.pad(block()["labels"], margin),
    }


def test_whole_slices_are_equalised_after_lesions_were_planted():
    slices, plain = Slices.of([whole()]), Slices.of([whole() | {"hu": whole()["hu"] // 2}])
    seen = set()
    for seed in range(6):
        image, labels = labelled(slices, SPACING_MM, (128, 128), np.random.SeedSequence(seed))
        again, _ = labelled(slices, SPACING_MM, (128, 128), np.random.SeedSequence(seed))
        np.testing.assert_array_equal(image, again)
        seen |= set(np.unique(labels).tolist())
        if (lesion := (labels > uda.LUNG) & (labels != uda.UNKNOWN)).any():
            assert np.median(image[lesion]) > np.median(image[labels == uda.LUNG])
    assert seen == {uda.BACKGROUND, uda.LUNG, uda.GROUND_GLASS, uda.CONSOLIDATION}
    # Half the contrast makes the same picture: no grey stands for a density.
    one, other = (unlabelled(each, SPACING_MM, (128, 128), np.random.SeedSequence(0)) for each in (slices, plain))
    assert np.abs(one - other).mean() < 0.05


def test_of_equalised_patients_too_slices_with_hardly_any_lung_are_not_drawn():
    lung = whole(healthy=False)
    share = (lung["lungs"] > 0).mean(axis=(1, 2))
    assert len(Slices.of([lung]).places) == np.count_nonzero(share > 0.004) < np.count_nonzero(share)


def test_for_equalised_pictures_whole_slices_are_cached_with_the_lungs_of_both_domains(chest, monkeypatch):
    def by_density(scan, way):
        right = np.arange(scan.hu.shape[2]) < scan.hu.shape[2] / 2
        return LungMask(np.where((scan.hu > -950) & (scan.hu < -600), 2 - right, 0).astype(np.uint8), way)

    monkeypatch.setattr(domains, "find_lungs", by_density)
    preset = replace(uda.PRESETS["small-clahe256"], spacing_mm=SPACING_MM)
    listed = replace(chest, exclude=())
    (near_healthy,), (patient,) = (recipe.blocks(replace(listed, covid=covid), preset) for covid in (False, True))
    assert set(near_healthy) == {"hu", "labels", "lungs"}
    assert set(patient) == {"hu", "lungs"}
    assert near_healthy["hu"].shape[1:] == (86, 114)  # of 3 mm, as in the scan
    np.testing.assert_array_equal(near_healthy["labels"] == uda.LUNG, near_healthy["lungs"] > 0)
