"""Masks that experts drew, opened: turned with their scan, told by their labels, refused where they do not fit."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluating import write
from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation import expert
from LabelFreeCovidSegLib.evaluation.datasets import Case, Mask
from LabelFreeCovidSegLib.read import read
from reading import chest


def ct_and_mask(root: Path, mask: np.ndarray, flip: bool = False) -> Case:
    for name, array in (("ct", chest()), ("mask", mask)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.5, 5.0))
        if flip:  # as NIfTI files often lie: i to the right, j to the front
            image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, root / f"{name}.nrrd")
    return Case("a", root / "ct.nrrd", Mask(root / "mask.nrrd"))


@pytest.mark.parametrize("flip", [False, True])
def test_masks_are_turned_with_their_scan(tmp_path, flip):
    mask = np.zeros((20, 48, 64), np.uint8)
    mask[3, 7, 9] = 1  # where the chest has a voxel of 103 HU
    case = ct_and_mask(tmp_path, mask, flip)
    scan = read(case.image)
    (value,) = scan.hu[expert.of_scan(case, scan).lesions > 0]
    assert value == 103


def test_a_mask_on_another_grid_is_refused(tmp_path):
    case = ct_and_mask(tmp_path, np.zeros((20, 48, 64), np.uint8))
    write(tmp_path / "mask.nrrd", np.zeros((20, 48, 64), np.uint8), (4.0, 4.5, 6.0))
    with pytest.raises(DataSetError, match=r"mask.nrrd .* does not lie on the grid of ct.nrrd"):
        expert.of_scan(case, read(case.image))


def test_a_case_known_to_be_healthy_has_an_empty_truth(tmp_path):
    case = replace(ct_and_mask(tmp_path, np.ones((20, 48, 64), np.uint8)), lesions=None)
    truth = expert.of_scan(case, read(case.image))
    assert truth.lesions.shape == (20, 48, 64)
    assert not truth.lesions.any()


def test_unknown_classes_are_refused(tmp_path):
    case = ct_and_mask(tmp_path, np.full((20, 48, 64), 3, np.uint8))
    with pytest.raises(DataSetError, match="classes are 1"):
        expert.of_scan(replace(case, classes=case.lesions), read(case.image))


def test_a_picture_and_a_mask_of_different_sizes_are_refused(tmp_path):
    case = Case("a", write(tmp_path / "a.png", np.zeros((6, 7), np.uint8)), hu=False, mm=False)
    case = replace(case, lesions=Mask(write(tmp_path / "mask.png", np.zeros((7, 6), np.uint8))))
    with pytest.raises(DataSetError, match=r"mask.png: 6 x 7 pixels, but a.png has 7 x 6"):
        expert.of_picture(case)


def test_grey_pictures_stored_as_colour_are_read_and_coloured_ones_refused(tmp_path):
    colour = np.zeros((6, 7, 3), np.uint8)
    colour[2, 3] = 80
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), tmp_path / "grey.png")
    colour[2, 3] = (80, 0, 0)
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), tmp_path / "red.png")
    picture, _ = expert.of_picture(Case("a", tmp_path / "grey.png", hu=False, mm=False))
    assert picture.grey[0, 2, 3] == 80
    with pytest.raises(DataSetError, match=r"red.png: a coloured picture"):
        expert.of_picture(Case("a", tmp_path / "red.png", hu=False, mm=False))


def test_labels_of_a_png_with_a_palette_are_its_indices(tmp_path):
    labels = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 3, 2, 8, 3, 0, 0, 0),
        b"PLTE": bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 0]),  # black once more, as some programs fill it up
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in labels)),
        b"IEND": b"",
    }
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    (tmp_path / "classes.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    case = Case("a", tmp_path / "classes.png", classes=Mask(tmp_path / "classes.png"), hu=False, mm=False)
    assert np.array_equal(expert.of_picture(case)[1].classes[0], labels)


def test_a_windowed_volume_keeps_its_grid(tmp_path):
    grey = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    case = Case("a", write(tmp_path / "a.nii.gz", grey), Mask(write(tmp_path / "m.nii.gz", grey)), hu=False)
    picture, truth = expert.of_picture(case)
    assert picture.grid.spacing == pytest.approx((4.0, 4.5, 5.0))
    assert np.array_equal(picture.grey > 0, truth.lesions > 0)


def test_pictures_and_masks_are_turned_upright_and_greys_brought_to_8_bits(tmp_path):
    grey = np.arange(-100, 950, 25, dtype=np.float32).reshape(6, 7)
    mask = np.eye(6, 7, dtype=np.uint8)
    case = Case("a", write(tmp_path / "a.nii.gz", grey[None]), Mask(write(tmp_path / "m.png", mask)), index=0, hu=False)
    picture, truth = expert.of_picture(replace(case, orientation="LA"))
    np.testing.assert_allclose(picture.grey[0], (grey[::-1] + 100) * (255 / 1025), rtol=1e-5)
    np.testing.assert_array_equal(truth.lesions[0], mask[::-1])
    picture, truth = expert.of_picture(replace(case, orientation="PL"))
    assert (picture.grid.shape, picture.grid.direction[0]) == ((1, 7, 6), 1.0)
    np.testing.assert_array_equal(truth.lesions[0], mask.T)


def test_a_damaged_mask_is_named(tmp_path):
    case = ct_and_mask(tmp_path, np.zeros((20, 48, 64), np.uint8))
    (tmp_path / "mask.nrrd").write_bytes(b"NRRD")
    with pytest.raises(DataSetError, match=r"mask.nrrd: can't be read"):
        expert.of_scan(case, read(case.image))


def test_a_mask_that_is_cut_short_is_named(tmp_path):
    case = ct_and_mask(tmp_path, np.zeros((20, 48, 64), np.uint8))
    drawn = write(tmp_path / "mask.nii.gz", np.random.default_rng(0).integers(0, 2, (20, 48, 64), np.uint8))
    drawn.write_bytes(drawn.read_bytes()[:1000])
    with pytest.raises(DataSetError, match=r"mask\.nii\.gz: can't be read \(.*cut short"):
        expert.of_scan(replace(case, lesions=Mask(drawn)), read(case.image))
