"""Lung masks given as a file, and those of the lungmask package."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib.errors import LungError
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.scan import Scan

SHAPE = (30, 40, 60)


def image_of(array, spacing=(4.0, 4.0, 5.0), origin=(-120.0, -80.0, 10.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


@pytest.fixture
def scan():
    return Scan.from_image(image_of(np.zeros(SHAPE, dtype=np.float32)), "ct.nii.gz")


def two_boxes(right=1, left=2):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:27, 5:35, 5:25] = right
    labels[3:27, 5:35, 30:52] = left
    return labels


def write(folder, array, name="lungs.nii.gz", **geometry):
    path = folder / name
    sitk.WriteImage(image_of(array, **geometry), str(path))
    return path


@pytest.mark.parametrize("name", ["lungs.nii.gz", "lungs.nrrd", "lungs.seg.nrrd", "lungs.mha"])
def test_right_and_left_labels_are_kept(scan, tmp_path, name):
    mask = find_lungs(scan, write(tmp_path, two_boxes(), name))
    np.testing.assert_array_equal(mask.labels, two_boxes())
    assert mask.source == f"given: {name}"


@pytest.mark.parametrize(("right", "left"), [(2, 1), (1, 1), (255, 255), (1, 3), (7, 9)])
def test_any_other_values_are_split_into_right_and_left(scan, tmp_path, right, left):
    mask = find_lungs(scan, write(tmp_path, two_boxes(right, left)))
    np.testing.assert_array_equal(mask.labels, two_boxes())


def test_a_label_for_both_lungs_and_one_for_what_lies_on_the_left_are_no_right_and_left(scan, tmp_path):
    labels = two_boxes(1, 1)
    labels[10:20, 10:20, 40:50] = 2
    mask = find_lungs(scan, write(tmp_path, labels))
    np.testing.assert_array_equal(mask.labels, two_boxes())
    assert "All labels of lungs.nii.gz (1, 2) were taken for lung" in mask.warnings[0]


def test_what_is_left_of_a_lung_keeps_its_label(scan, tmp_path):
    labels = two_boxes(1, 0)
    labels[3:6, 5:8, 34:40] = 2  # too little to be taken for a lung by its shape
    np.testing.assert_array_equal(find_lungs(scan, write(tmp_path, labels)).labels, labels)


def test_lungs_that_touch_are_split_where_they_touch(scan, tmp_path):
    joined = two_boxes()
    joined[10:14, 5:8, 25:30] = 1
    labels = find_lungs(scan, write(tmp_path, (joined > 0).astype(np.uint8))).labels
    np.testing.assert_array_equal(labels > 0, joined > 0)
    np.testing.assert_array_equal(labels[two_boxes() > 0], two_boxes()[two_boxes() > 0])


def test_a_mask_follows_a_scan_that_is_not_lps(tmp_path):
    scan = Scan.from_image(sitk.DICOMOrient(image_of(np.zeros(SHAPE, dtype=np.float32)), "RAS"), "ct.nii.gz")
    path = tmp_path / "lungs.nii.gz"
    sitk.WriteImage(scan.native_image(two_boxes()), str(path))
    np.testing.assert_array_equal(find_lungs(scan, path).labels, two_boxes())


@pytest.mark.parametrize(
    "geometry", [{"origin": (-117.0, -80.0, 10.0)}, {"spacing": (4.0, 4.0, 5.2)}, {"origin": (-120.0, -80.0, 13.0)}]
)
def test_another_grid_is_refused_and_both_files_are_named(scan, tmp_path, geometry):
    path = write(tmp_path, two_boxes(), **geometry)
    with pytest.raises(LungError, match=r"lungs\.nii\.gz .* does not lie on the grid of ct\.nii\.gz"):
        find_lungs(scan, path)


def test_another_size_is_refused(scan, tmp_path):
    path = write(tmp_path, two_boxes()[:-1])
    with pytest.raises(LungError, match=r"60 x 40 x 29 voxels"):
        find_lungs(scan, path)


def test_a_shift_of_less_than_half_a_voxel_is_accepted(scan, tmp_path):
    mask = find_lungs(scan, write(tmp_path, two_boxes(), origin=(-119.0, -80.0, 10.0)))
    np.testing.assert_array_equal(mask.labels, two_boxes())


def test_an_empty_mask_is_refused(scan, tmp_path):
    path = write(tmp_path, np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(LungError, match=r"lungs\.nii\.gz: the lung mask is empty"):
        find_lungs(scan, path)


def test_a_file_that_is_no_image_is_refused(scan, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(LungError, match=r"notes\.txt: not a volume\. Give a \.nii, "):
        find_lungs(scan, tmp_path / "notes.txt")


def test_a_mask_that_is_cut_short_is_refused(scan, tmp_path):
    path = write(tmp_path, np.random.default_rng(0).integers(0, 2, SHAPE, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(LungError, match=r"lungs\.nii\.gz: no complete NIfTI file"):
        find_lungs(scan, path)


def test_a_missing_mask_is_named(scan, tmp_path):
    with pytest.raises(LungError, match=r"lungs\.nii\.gz: can't be opened as a lung mask \(No such file"):
        find_lungs(scan, tmp_path / "lungs.nii.gz")


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-1000, 300, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16),
        two_boxes(100, 200) - np.float32(0.5),
        np.arange(np.prod(SHAPE)).reshape(SHAPE) % 97,
    ],
    ids=["HU", "fractions", "greys"],
)
def test_an_image_is_no_mask(scan, tmp_path, array):
    with pytest.raises(LungError, match=r"an image with values from .*, no mask"):
        find_lungs(scan, write(tmp_path, array))


def test_shares_of_voxels_are_lung_from_one_half_on(scan, tmp_path):
    soft = two_boxes(1, 1) * np.float32(0.9)
    soft[soft == 0] = 0.4
    np.testing.assert_array_equal(find_lungs(scan, write(tmp_path, soft)).labels, two_boxes())


def test_more_than_any_lungs_hold_is_refused(tmp_path):
    huge = image_of(np.zeros(SHAPE, np.float32), spacing=(8.0, 8.0, 8.0))
    path = write(tmp_path, two_boxes(), spacing=(8.0, 8.0, 8.0))
    with pytest.raises(LungError, match=r"holds 15\.5 L, more than any lungs"):
        find_lungs(Scan.from_image(huge, "ct.nii.gz"), path)


def test_labels_that_may_be_other_organs_are_named(scan, tmp_path):
    labels = two_boxes()
    labels[20:24, 20:24, 26:29] = 5
    assert "(1, 2, 5) were taken for lung" in " ".join(find_lungs(scan, write(tmp_path, labels)).warnings)
    for plain in (two_boxes(), two_boxes(255, 255)):
        assert "taken for lung" not in " ".join(find_lungs(scan, write(tmp_path, plain)).warnings)


@pytest.mark.parametrize("layered", [False, True])
def test_of_segments_with_names_those_called_lung_are_the_lungs(scan, tmp_path, layered):
    labels, heart = two_boxes(), np.zeros(SHAPE, np.uint8)
    heart[5:20, 10:20, 26:29] = 1
    if layered:  # segments that overlap
        image = sitk.Compose([image_of(labels), image_of(heart)])
        placed = {"right lung": (0, 1), "Left Lung": (0, 2), "heart": (1, 1)}
    else:
        image = image_of(np.where(heart > 0, 3, labels))
        placed = {"right lung": (0, 1), "Left Lung": (0, 2), "heart": (0, 3)}
    for number, (name, (layer, label)) in enumerate(placed.items()):
        for key, value in (("Name", name), ("Layer", layer), ("LabelValue", label)):
            image.SetMetaData(f"Segment{number}_{key}", str(value))
    sitk.WriteImage(image, str(tmp_path / "chest.seg.nrrd"))
    np.testing.assert_array_equal(find_lungs(scan, tmp_path / "chest.seg.nrrd").labels, labels)


def test_segments_of_an_old_slicer_have_a_layer_each(scan, tmp_path):
    labels, heart = two_boxes(1, 1), np.zeros(SHAPE, np.uint8)
    heart[5:20, 10:20, 26:29] = 1
    image = sitk.Compose([image_of(heart), image_of(labels)])
    for number, name in enumerate(("heart", "lungs")):
        image.SetMetaData(f"Segment{number}_Name", name)
    sitk.WriteImage(image, str(tmp_path / "chest.seg.nrrd"))
    np.testing.assert_array_equal(find_lungs(scan, tmp_path / "chest.seg.nrrd").labels > 0, labels > 0)


def test_without_the_lungmask_package_its_installation_is_explained(scan, monkeypatch):
    monkeypatch.setitem(sys.modules, "lungmask", None)
    with pytest.raises(LungError, match="pip install lungmask"):
        find_lungs(scan, "lungmask")


class StandInInferer:
    """A stand-in for lungmask 0.2: takes an image, gives a (k, j, i) array with 1 right and 2 left."""

    answer = two_boxes()

    def apply(self, image):
        assert image.GetSize() == SHAPE[::-1]
        return self.answer


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("lungmask")
    module.LMInferer = StandInInferer
    monkeypatch.setitem(sys.modules, "lungmask", module)
    return module


def test_a_stand_in_for_lungmask_gives_its_labels(scan, stand_in):
    mask = find_lungs(scan, "lungmask")
    np.testing.assert_array_equal(mask.labels, two_boxes())
    assert mask.source == "lungmask R231"


def test_a_stand_in_for_lungmask_that_finds_nothing_is_an_error(scan, stand_in, monkeypatch):
    monkeypatch.setattr(StandInInferer, "answer", np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(LungError, match=r"ct\.nii\.gz: lungmask found no lungs"):
        find_lungs(scan, "lungmask")
