"""Pictures as people have them: in what order, which way round, and what is refused."""

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import pictures
from LabelFreeCovidSegLib.errors import ScanError

GREY = (np.add.outer(np.arange(70), 2 * np.arange(90)) % 256).astype(np.uint8)  # rows and columns differ


def write(path, pixels):
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))
    return path


def test_numbers_in_names_count_as_numbers_and_other_files_are_left_alone(tmp_path):
    for name in ("s10.png", "s2.PNG", "S1.jpg", "notes.txt", ".s3.png"):
        (tmp_path / name).touch()
    (tmp_path / "s4.png").mkdir()
    assert [path.name for path in pictures.find(tmp_path)] == ["S1.jpg", "s2.PNG", "s10.png"]


@pytest.mark.parametrize(("names", "fault"), [((), "no picture in it"), (("a.png", "A.jpg"), "the same name")])
def test_a_folder_without_pictures_or_with_two_of_one_name_is_refused(tmp_path, names, fault):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ScanError, match=fault):
        pictures.find(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(ScanError, match="is no folder"):
        pictures.find(write(tmp_path / "a.png", GREY))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grey_picture_reads_the_same_with_any_number_of_channels(tmp_path, channels):
    pixels = GREY if channels == 1 else np.repeat(GREY[..., None], channels, axis=2)
    if channels == 4:
        pixels[..., 3] = 255
    np.testing.assert_array_equal(pictures.read(write(tmp_path / "a.png", pixels)).grey, GREY)


def test_a_jpeg_in_rgb_is_grey_too(tmp_path):
    smooth = np.repeat((128 + 100 * np.sin(np.arange(90) / 9)).astype(np.uint8)[None], 70, axis=0)
    found = pictures.read(write(tmp_path / "a.jpg", np.repeat(smooth[..., None], 3, axis=2))).grey
    assert np.abs(found.astype(int) - smooth).max() < 10


def red_mark():
    pixels = np.repeat(GREY[..., None], 3, axis=2)
    pixels[10:20, 10:20] = (255, 0, 0)
    return pixels


def see_through():
    pixels = np.repeat(GREY[..., None], 4, axis=2)
    pixels[..., 3] = np.where(GREY > 9, 255, 0)
    return pixels


@pytest.mark.parametrize(
    ("pixels", "fault"),
    [
        (red_mark(), "has colours"),
        (see_through(), "is transparent"),
        (GREY.astype(np.uint16) * 200, "16 bits"),
        (np.where(GREY > 99, 255, 0).astype(np.uint8), "only 2 grey levels, like a mask"),
        (GREY[:40], "90 x 40 pixels are too few"),
    ],
)
def test_what_is_no_grey_slice_is_refused_by_name(tmp_path, pixels, fault):
    with pytest.raises(ScanError, match=f"^a.png: .*{fault}"):
        pictures.read(write(tmp_path / "a.png", pixels))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(tmp_path, name, share):
    path = write(tmp_path / name, GREY)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ScanError, match=rf"^{name}: no complete (PNG|JPEG) file"):
        pictures.read(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_lies_behind_the_end_of_a_picture_makes_no_difference(tmp_path, name):
    path = write(tmp_path / name, GREY)
    before = pictures.read(path).grey
    path.write_bytes(path.read_bytes() + bytes(5000))
    np.testing.assert_array_equal(pictures.read(path).grey, before)


def test_the_end_of_a_thumbnail_is_not_that_of_the_picture(tmp_path):
    path = write(tmp_path / "a.jpg", GREY)
    content = path.read_bytes()
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    path.write_bytes(content[:2] + thumbnail + b"\xff\xff" + content[2:])  # which fill
    pictures.read(path)
    path.write_bytes(content[:2] + thumbnail + content[2 : len(content) // 2])
    with pytest.raises(ScanError, match=r"^a\.jpg: no complete JPEG file"):
        pictures.read(path)


IN_FILE = {
    "LP": lambda a: a, "LA": lambda a: a[::-1], "RP": lambda a: a[:, ::-1], "RA": lambda a: a[::-1, ::-1],
    "PL": lambda a: a.T, "AL": lambda a: a.T[:, ::-1], "PR": lambda a: a.T[::-1], "AR": lambda a: a.T[::-1, ::-1],
}  # fmt: skip


@pytest.mark.parametrize("orientation", pictures.ORIENTATIONS)
def test_a_picture_that_lies_another_way_is_set_upright_and_back(orientation):
    picture = pictures.Picture("a.png", np.ascontiguousarray(IN_FILE[orientation](GREY)))
    upright = picture.upright(orientation)
    np.testing.assert_array_equal(upright.hu[0], GREY)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(upright.native_image(upright.hu))[0], picture.grey)


@pytest.mark.parametrize("white", [1, 2, 255])
def test_a_mask_is_what_is_bright_in_it(tmp_path, white):
    mask = GREY > 99
    path = write(tmp_path / "a.png", (mask * white).astype(np.uint8))
    np.testing.assert_array_equal(pictures.read_mask(path, GREY.shape), mask)


def test_a_black_mask_is_empty(tmp_path):
    assert not pictures.read_mask(write(tmp_path / "a.png", np.zeros_like(GREY)), GREY.shape).any()


def test_a_mask_of_another_size_is_refused(tmp_path):
    with pytest.raises(ScanError, match=r"different sizes \(90 x 70 and 80 x 70\)"):
        pictures.read_mask(write(tmp_path / "a.png", GREY), (70, 80))
