"""Reading volume files: what is read, and what is refused with the fault, the place and the way out."""

import gzip
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib.read import read
from reading import assert_is, assert_refused, chest

LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]


def ct(
    array: np.ndarray | None = None,
    spacing: tuple[float, ...] = (5.0, 5.0, 5.0),
    direction: tuple[float, ...] = LPS,
) -> sitk.Image:
    image = sitk.GetImageFromArray(chest() if array is None else array)
    image.SetSpacing(spacing)
    image.SetOrigin((-150.0, -140.0, -60.0))
    image.SetDirection(direction)
    return image


def write(path: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "Thorax für Üb 1.nrrd"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_every_format_gives_the_same_scan(tmp_path, name, dtype):
    image = ct(chest(dtype=dtype))
    sitk.WriteImage(image, tmp_path / name)
    scan = read(tmp_path / name)
    assert scan.hu.dtype == np.float32
    assert scan.name == name
    assert scan.notes == ()
    assert_is(scan, image)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_capital_letters_in_the_suffix_are_read_too(tmp_path, suffix):
    sitk.WriteImage(ct(), tmp_path / f"ct{suffix}")
    capital = (tmp_path / f"ct{suffix}").rename(tmp_path / f"CT{suffix.upper()}")
    assert_is(read(capital), ct())


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_an_oblique_left_handed_file_is_read_where_it_lies(tmp_path, suffix):
    turn = sitk.VersorRigid3DTransform()
    turn.SetRotation((0.3, 0.5, 0.8), 0.4)
    direction = np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag([1, 1, -1])
    image = ct(direction=tuple(direction.ravel()))
    sitk.WriteImage(image, tmp_path / f"oblique{suffix}")
    assert_is(read(tmp_path / f"oblique{suffix}"), image)


def test_the_scale_of_a_nifti_file_is_applied(tmp_path):
    path = tmp_path / "scaled.nii"
    sitk.WriteImage(ct((chest() + 1024) // 2), path)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2, -1024], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    assert_is(read(path), ct(chest() // 2 * 2))


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    image = sitk.JoinSeries([ct()])
    sitk.WriteImage(image, tmp_path / "joined.nrrd")
    assert_is(read(tmp_path / "joined.nrrd"), ct())


def test_padding_below_air_is_air(tmp_path):
    array = chest()
    array[:, :4] = -3024
    sitk.WriteImage(ct(array), tmp_path / "padded.nrrd")
    hu = read(tmp_path / "padded.nrrd").hu
    assert hu.min() == -1024
    assert (hu[:, :4] == -1024).all()


def test_a_file_without_orientation_says_what_was_assumed(tmp_path):
    sitk.WriteImage(ct(), tmp_path / "ct.nii")
    data = bytearray((tmp_path / "ct.nii").read_bytes())
    data[252:256] = bytes(4)  # qform_code, sform_code
    (tmp_path / "ct.nii").write_bytes(data)
    (note,) = read(tmp_path / "ct.nii").notes
    assert "does not say how the patient lies" in note

    sitk.WriteImage(ct(), tmp_path / "ct.nrrd")
    header, voxels = (tmp_path / "ct.nrrd").read_bytes().split(b"\n\n", 1)
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space")]
    (tmp_path / "ct.nrrd").write_bytes(b"\n".join([*lines, b"spacings: 5 5 5"]) + b"\n\n" + voxels)
    (note,) = read(tmp_path / "ct.nrrd").notes
    assert "does not say how the patient lies" in note


def test_a_link_is_followed_and_keeps_its_own_name(tmp_path):
    sitk.WriteImage(ct(), tmp_path / "ct.nrrd")
    link = tmp_path / "link.nrrd"
    try:
        link.symlink_to(tmp_path / "ct.nrrd")
    except OSError:
        pytest.skip("links can't be made here")
    assert read(link).name == "link.nrrd"


def test_an_8_bit_picture_is_called_a_windowed_picture(tmp_path):
    grey = ((np.clip(chest(), -1000, 500) + 1000) * (255 / 1500)).astype(np.uint8)
    assert_refused(write(tmp_path / "ct.nii.gz", ct(grey)), "0..176", "windowed picture", "not HU", "DICOM series")


def test_a_mask_is_not_hu(tmp_path):
    assert_refused(write(tmp_path / "lesions.nii.gz", ct((chest() < -800).astype(np.uint8))), "0..1", "mask")


def test_a_ct_that_lost_its_rescale_is_told_so(tmp_path):
    stored = (chest() + 1024).astype(np.uint16)
    assert_refused(write(tmp_path / "stored.nrrd", ct(stored)), "rescale", "lost", "slope and intercept")


def test_padding_does_not_pass_for_air(tmp_path):
    stored = chest() + 1024
    stored[:, :6] = -2000
    assert_refused(write(tmp_path / "stored.nrrd", ct(stored)), "rescale", "lost")


def test_mr_is_not_hu(tmp_path):
    mr = np.random.default_rng(0).gamma(2.0, 200.0, chest().shape).astype(np.int16)
    assert_refused(write(tmp_path / "mr.nii", ct(mr)), "values span", "MR", "rescale", "Export")


def test_a_normalised_volume_is_not_hu(tmp_path):
    assert_refused(
        write(tmp_path / "norm.nii", ct((chest() / 1000).astype(np.float32))), "-1..0.04", "normalised", "Export"
    )


def test_a_scan_without_soft_tissue_is_not_a_chest(tmp_path):
    assert_refused(write(tmp_path / "air.nrrd", ct(np.where(chest() > 0, -500, chest()))), "soft tissue", "0.0%")


@pytest.mark.parametrize("value", [0, -1024, 40])
def test_one_value_everywhere_is_no_picture(tmp_path, value):
    assert_refused(write(tmp_path / "flat.nrrd", ct(np.full_like(chest(), value))), "nothing but one value", "Export")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused(tmp_path, value):
    array = chest().astype(np.float32)
    array[3, 4, 5] = value
    for name in ("ct.nrrd", "ct.nii", "ct.nii.gz"):  # of NIfTI, ITK would make 0 of it
        assert_refused(write(tmp_path / name, ct(array)), "NaN or infinite", "-1024")


def test_colour_is_refused(tmp_path):
    image = sitk.Image([64, 48, 20], sitk.sitkVectorUInt8, 3)
    assert_refused(write(tmp_path / "rgb.nrrd", image), "several numbers", "colour", "Export")


def test_complex_values_are_refused(tmp_path):
    assert_refused(write(tmp_path / "k.nii", sitk.Image([64, 48, 20], sitk.sitkComplexFloat32)), "complex", "Export")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_2d_image_is_refused(tmp_path, suffix):
    assert_refused(write(tmp_path / f"slice{suffix}", ct()[:, :, 5]), "2-D", "whole CT")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_4d_image_is_refused(tmp_path, suffix):
    assert_refused(write(tmp_path / f"time{suffix}", sitk.JoinSeries([ct(), ct()])), "4-D", "64 x 48 x 20 x 2", "frame")


def test_few_slices_are_refused(tmp_path):
    assert_refused(
        write(tmp_path / "thin.nrrd", ct(chest(9), (5, 5, 10))), "64 x 48 x 9", "too small", "at least 10 slices"
    )


def test_a_small_field_of_view_is_refused(tmp_path):
    assert_refused(write(tmp_path / "small.nrrd", ct(spacing=(1, 1, 5))), "too small", "60 mm", "whole scan")


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_unit_of_length_that_cant_be_is_refused(tmp_path, scale):
    assert_refused(write(tmp_path / "unit.nrrd", ct(spacing=(5 * scale,) * 3)), "unit of length", "mm", "Export")


@pytest.mark.parametrize("offset", [0.0, -1.0, 1e18, 1e30, np.nan, np.inf])
def test_a_nifti_file_whose_voxels_do_not_begin_behind_its_header_is_refused(tmp_path, offset):
    path = write(tmp_path / "ct.nii", ct())
    data = bytearray(path.read_bytes())
    data[108:112] = struct.pack("<f", offset)
    path.write_bytes(data)
    assert_refused(path, "no complete NIfTI-1 file")


def test_a_nifti_file_in_metres_that_are_millimetres_is_refused(tmp_path):
    path = write(tmp_path / "metres.nii", ct())
    data = bytearray(path.read_bytes())
    data[123] = 1  # xyzt_units: metre
    path.write_bytes(data)
    assert_refused(path, "5000 x 5000 x 5000 mm", "unit of length")


@pytest.mark.parametrize(("qform", "shear"), [(0, 0.2), (1, 0.2), (0, 2e-3), (1, 2e-3), (0, 8e-4)])
def test_a_sheared_nifti_file_is_refused_even_if_its_qform_is_straight(tmp_path, qform, shear):
    path = write(tmp_path / "sheared.nii", ct())
    data = bytearray(path.read_bytes())
    data[252:256] = np.array([qform, 1], "<i2").tobytes()
    data[280:328] = np.array([[-5, 0, 0, 0], [0, -5, 5 * shear, 0], [0, 0, 5, 0]], "<f4").tobytes()
    path.write_bytes(data)
    assert_refused(path, "right angles", "sheared", "Resample")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_sheared_file_is_refused_beyond_one_in_a_thousand(tmp_path, suffix):
    image = ct()
    image.SetDirection((1, 0, 0, 0, 1, 0.02, 0, 0, 1))
    assert_refused(write(tmp_path / f"sheared{suffix}", image), "right angles", "gantry tilt", "Resample")
    image.SetDirection((1, 0, 0, 0, 1, 0.0008, 0, 0, 1))
    assert read(write(tmp_path / f"straight{suffix}", image)).hu.shape == (20, 48, 64)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    path.touch()
    assert_refused(path, "empty", "again")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_cut_short_is_refused(tmp_path, suffix, compressed, share):
    path = tmp_path / f"ct{suffix}"
    noisy = chest() + np.random.default_rng(0).integers(-20, 20, chest().shape).astype(np.int16)
    sitk.WriteImage(ct(noisy), path, compressed)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert_refused(path, "cut short", "again")


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_header_without_its_data_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"ct{suffix}", ct())
    next(file for file in tmp_path.iterdir() if file != path).unlink()
    assert_refused(path, "no complete", "again")


def test_a_nifti_file_whose_length_fits_but_whose_bytes_rotted_is_refused(tmp_path):
    path = write(tmp_path / "ct.nii.gz", ct())
    plain = gzip.decompress(path.read_bytes())
    rotten = bytearray(gzip.compress(plain, 0))
    rotten[len(rotten) // 2] ^= 255
    path.write_bytes(rotten)
    assert_refused(path, "damaged", "again")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_kind_of_file_under_a_known_suffix_is_refused(tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(b"This is a letter. " * 100)
    assert_refused(path, "another format", "again")


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert_refused(tmp_path / "nowhere.nii.gz", "does not exist", "Check the path")


def test_an_unknown_suffix_is_answered_with_the_known_ones(tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    assert_refused(tmp_path / "report.pdf", "not a scan format", "DICOM folder", *SUFFIXES)


def test_a_picture_file_is_called_a_picture(tmp_path):
    assert_refused(write(tmp_path / "slice.png", sitk.Image([64, 64], sitk.sitkUInt8)), "2-D picture", "DICOM folder")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "folder"])
def test_what_may_not_be_opened_is_refused(name):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that is closed to other users anyway
        Path(folder).chmod(0o755)
        path = Path(folder, name)
        path.mkdir() if name == "folder" else write(path, ct())
        path.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            assert_refused(path, "can't be opened", "Permission denied", "copy it")
        finally:
            if root:
                os.seteuid(0)
            path.chmod(0o755)
