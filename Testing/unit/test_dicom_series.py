"""DICOM: the choice of a series, its geometry, and what is refused with the fault, the place and the way out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib.read import read
from reading import assert_is, assert_refused, chest

LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def ct(array: np.ndarray | None = None, direction: tuple[float, ...] = LPS) -> sitk.Image:
    image = sitk.GetImageFromArray(chest() if array is None else array)
    image.SetSpacing((4.0, 4.5, 5.0))
    image.SetOrigin((-150.0, -140.0, -60.0))
    image.SetDirection(direction)
    return image


def write_series(
    folder: Path,
    image: sitk.Image,
    number: int = 1,
    names: str = "{k:03}.dcm",
    positions: list[tuple[float, ...]] | None = None,
    **tags: str,
) -> list[Path]:
    """Write each slice of `image` as a DICOM file, if given at `positions`; `tags` look like t0008_0060="CT"."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "0008|0060": "CT",
        "0018|0050": "5",
        "0018|1210": "STANDARD",
        "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
        "0020|000e": f"1.2.826.0.1.3680043.2.1125.9.{number}",
        "0020|0011": str(number),
        "0028|1052": "-1024",
        "0028|1053": "1",
    } | {key[1:].replace("_", "|"): value for key, value in tags.items()}
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    paths = []
    for k in range(image.GetDepth()):
        one = image[:, :, k : k + 1]
        if positions:
            one.SetOrigin(positions[k])
        for key, value in written.items():
            one.SetMetaData(key, value)
        paths.append(folder / names.format(k=k))
        writer.SetFileName(paths[-1])
        writer.Execute(one)
    return paths


def test_a_dicom_folder_is_read_where_it_lies(tmp_path):
    write_series(tmp_path / "dicom", ct(), number=2)
    scan = read(tmp_path / "dicom")
    assert_is(scan, ct())
    assert scan.name == "dicom"
    assert scan.notes == ("Read DICOM series 2 (20 slices, 5 mm apart, 5 mm thick, kernel STANDARD).",)


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    write_series(tmp_path / "dicom", ct())
    monkeypatch.chdir(tmp_path / "dicom")
    assert read(".").name == "dicom"


def test_slices_are_sorted_by_position_not_by_name(tmp_path):
    paths = write_series(tmp_path / "dicom", ct(), names="slice{k:03}")
    for new, k in enumerate(np.random.default_rng(0).permutation(len(paths))):
        paths[k].rename(tmp_path / "dicom" / f"IM{new}")
    assert_is(read(tmp_path / "dicom"), ct())


def test_slices_in_subfolders_beside_other_files_are_found(tmp_path):
    paths = write_series(tmp_path / "disc" / "A", ct())
    (tmp_path / "disc" / "B").mkdir()
    for path in paths[::2]:
        path.rename(tmp_path / "disc" / "B" / path.name)
    (tmp_path / "disc" / "README.txt").write_text("not DICOM")
    (tmp_path / "disc" / "A" / "._000.dcm").write_bytes(b"macOS was here")
    assert_is(read(tmp_path / "disc"), ct())


def test_slice_distance_comes_from_positions_not_from_thickness(tmp_path):
    write_series(tmp_path / "dicom", ct(), t0018_0050="7.5")
    assert read(tmp_path / "dicom").grid.spacing_mm == pytest.approx((5, 4.5, 4))


def test_an_oblique_dicom_series_is_read_where_it_lies(tmp_path):
    turn = sitk.VersorRigid3DTransform()
    turn.SetRotation((1, 0.2, 0.1), 0.3)
    image = ct(direction=turn.GetMatrix())
    write_series(tmp_path / "oblique", image)
    assert_is(read(tmp_path / "oblique"), image)


def test_one_slice_file_stands_for_its_series(tmp_path):
    paths = write_series(tmp_path, ct(), number=1, names="one{k:03}.dcm")
    write_series(tmp_path, ct(chest(30)), number=2, names="two{k:03}.dcm")
    scan = read(paths[7])
    assert scan.hu.shape == (20, 48, 64)
    assert scan.notes[0] == "one007.dcm is one slice; the whole series beside it was read."


@pytest.mark.parametrize(
    ("loser", "tags", "reason"),
    [
        (chest(15), {}, "fewer slices"),
        (chest(4), {}, "too small"),
        (chest(30), {"t0008_0008": "DERIVED\\SECONDARY\\REFORMATTED"}, "derived from another series"),
        (chest(30), {"t0018_0015": "ABDOMEN"}, "not marked as chest"),
        (chest(20), {}, "higher series number"),
    ],
)
def test_the_better_series_is_chosen_and_the_other_named(tmp_path, loser, tags, reason):
    write_series(tmp_path, ct(loser), number=9, names="a{k}.dcm", **({"t0018_0015": "CHEST"} | tags))
    write_series(tmp_path, ct(), number=5, names="b{k}.dcm", t0018_0015="CHEST")
    scan = read(tmp_path)
    assert_is(scan, ct())
    assert "series 5" in scan.notes[0]
    assert "series 9" in scan.notes[1]
    assert reason in scan.notes[1]


def test_an_axial_series_is_preferred_to_a_coronal_one(tmp_path):
    write_series(tmp_path, ct(chest(30), direction=(1, 0, 0, 0, 0, 1, 0, -1, 0)), number=1, names="a{k}.dcm")
    write_series(tmp_path, ct(), number=2, names="b{k}.dcm")
    scan = read(tmp_path)
    assert_is(scan, ct())
    assert "not axial" in scan.notes[1]


def test_a_complete_series_is_preferred_to_a_larger_one_with_a_gap(tmp_path):
    write_series(tmp_path, ct(chest(30)), number=1, names="a{k}.dcm")[13].unlink()
    write_series(tmp_path, ct(), number=2, names="b{k}.dcm")
    scan = read(tmp_path)
    assert_is(scan, ct())
    assert "missing, repeated, shifted or uneven slices" in scan.notes[1]


def test_what_is_no_ct_slice_is_left_out_and_counted(tmp_path):
    write_series(tmp_path, ct(), number=1)
    write_series(tmp_path, ct(chest(2)), number=2, names="scout{k}.dcm", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    write_series(tmp_path, ct(chest(3)), number=3, names="mr{k}.dcm", t0008_0060="MR")
    scan = read(tmp_path)
    assert_is(scan, ct())
    assert scan.notes[1] == "Not read: 3 of modality MR, 2 localizer."


def test_phases_of_one_series_are_told_apart_by_their_acquisition(tmp_path):
    second = chest()
    second[:, 20, 30] = 77
    write_series(tmp_path, ct(second), names="second{k}.dcm", t0020_0012="2")
    write_series(tmp_path, ct(), names="first{k}.dcm", t0020_0012="1")
    scan = read(tmp_path)
    assert_is(scan, ct())
    assert "acquisition 1" in scan.notes[0]
    assert "acquisition 2" in scan.notes[1]


def test_steps_of_one_scan_with_acquisitions_of_their_own_stay_one_volume(tmp_path):
    whole = ct()
    write_series(tmp_path, whole[:, :, :8], names="a{k}.dcm", t0020_0012="1")
    write_series(tmp_path, whole[:, :, 8:], names="b{k}.dcm", t0020_0012="2")
    assert_is(read(tmp_path), whole)


def test_interleaved_acquisitions_stay_one_volume(tmp_path):
    whole = ct()
    write_series(tmp_path / "even", whole, t0020_0012="1")
    write_series(tmp_path / "odd", whole, t0020_0012="2")
    for k in range(20):
        (tmp_path / ("even", "odd")[(k + 1) % 2] / f"{k:03}.dcm").unlink()
    scan = read(tmp_path)
    assert_is(scan, whole)
    assert len(scan.notes) == 1


def test_no_tag_that_identifies_a_patient_reaches_the_notes(tmp_path):
    write_series(tmp_path, ct(), t0010_0010="Doe^Jane", t0010_0020="4711", t0008_103e="Doe Jane chest")
    told = " ".join(read(tmp_path).notes)
    assert "Doe" not in told
    assert "4711" not in told


def test_reading_leaves_the_folder_as_it_was(tmp_path):
    write_series(tmp_path, ct())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    read(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_folder_without_dicom_is_told_what_it_holds(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(12):
        sitk.WriteImage(sitk.Image([8, 8], sitk.sitkUInt8), folder / f"{n}.png")
    assert_refused(folder, "without DICOM", "it holds 12 .png files", "slices of a CT series")


def test_an_empty_folder_is_told_so(tmp_path):
    (tmp_path / "nothing").mkdir()
    assert_refused(tmp_path / "nothing", "without DICOM", "it is empty")


def test_a_folder_of_mr_is_told_so(tmp_path):
    write_series(tmp_path / "study", ct(), t0008_0060="MR")
    assert_refused(tmp_path / "study", "no CT slices", "20 of modality MR", "chest CT series")


def test_a_single_mr_slice_is_told_so(tmp_path):
    path = write_series(tmp_path, ct(), t0008_0060="MR")[0]
    assert_refused(path, "no CT slices", "of modality MR")


def test_a_multi_frame_file_is_told_the_way_out(tmp_path):
    image = ct()
    image.SetMetaData("0008|0060", "CT")
    (tmp_path / "enhanced").mkdir()
    path = tmp_path / "enhanced" / "frames.dcm"
    sitk.WriteImage(image, path)
    assert_refused(path, "multi-frame", "Slicer", ".nrrd")
    assert_refused(path.parent, "multi-frame", "Slicer", ".nrrd")


def test_localizers_alone_are_no_scan(tmp_path):
    write_series(tmp_path / "scouts", ct(chest(2)), t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    assert_refused(tmp_path / "scouts", "no CT slices", "2 localizer")


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    write_series(tmp_path / "dicom", ct(), number=3)[11].unlink()
    assert_refused(
        tmp_path / "dicom", "missing slices", "series 3", "10 mm between 010.dcm (at -10.00 mm) and 012.dcm", "Export"
    )


def test_one_slice_alone_is_too_little(tmp_path):
    path = write_series(tmp_path, ct(chest(1)))[0]
    assert_refused(path, "1 slices,", "too little", "all slices")


def test_a_file_that_is_there_twice_is_named(tmp_path):
    paths = write_series(tmp_path / "dicom", ct())
    shutil.copy(paths[4], tmp_path / "dicom" / "copy.dcm")
    assert_refused(tmp_path / "dicom", "duplicate slices", "004.dcm", "copy.dcm", "alone into a folder")


def test_halves_that_overlap_by_one_slice_are_not_taken_for_a_scan(tmp_path):
    shifted = [(-150.0, -140.0, -10.0 + 5 * k) for k in range(11)]
    write_series(tmp_path / "dicom", ct(chest(11)), names="lower{k:03}.dcm", t0020_0012="1")
    write_series(tmp_path / "dicom", ct(chest(11)), names="upper{k:03}.dcm", positions=shifted, t0020_0012="2")
    assert_refused(tmp_path / "dicom", "duplicate slices", "lower010.dcm", "upper000.dcm")


@pytest.mark.parametrize(("extra", "good"), [(0.24, True), (0.26, False)])
def test_gaps_may_deviate_by_5_percent(tmp_path, extra, good):
    write_series(tmp_path / "dicom", ct(), positions=[(0, 0, 5 * k + (extra if k > 7 else 0)) for k in range(20)])
    if good:
        assert read(tmp_path / "dicom").hu.shape == (20, 48, 64)
    else:
        assert_refused(
            tmp_path / "dicom", "uneven", "5.26 mm between 007.dcm", "008.dcm", "5 mm is usual", "regularization"
        )


@pytest.mark.parametrize(("extra", "good"), [(0.09, True), (0.11, False)])
def test_gaps_of_thin_slices_may_deviate_by_a_tenth_of_a_millimetre(tmp_path, extra, good):
    array = np.repeat(chest(1), 80, axis=0)
    write_series(tmp_path / "dicom", ct(array), positions=[(0, 0, k + (extra if k > 7 else 0)) for k in range(80)])
    if good:
        assert read(tmp_path / "dicom").hu.shape == (80, 48, 64)
    else:
        assert_refused(tmp_path / "dicom", "uneven", "1.11 mm between 007.dcm")


def test_a_tilted_gantry_is_named_with_the_way_out(tmp_path):
    slope = np.tan(np.radians(12))
    positions = [(0, 5 * k * slope, 5 * k) for k in range(20)]
    write_series(tmp_path / "dicom", ct(), positions=positions, t0018_1120="12")
    assert_refused(
        tmp_path / "dicom", "gantry", "12.00 degrees", "0018,1120: 12", "geometry regularization", "harden", ".nrrd"
    )


def test_a_slice_shifted_sideways_is_refused(tmp_path):
    positions = [(3.0 * (k == 9), 0.0, 5.0 * k) for k in range(20)]
    write_series(tmp_path / "dicom", ct(), positions=positions)
    assert_refused(tmp_path / "dicom", "sideways", "3.00 mm")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_slice_cut_short_is_named(tmp_path, share):
    path = write_series(tmp_path / "dicom", ct())[-1]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert_refused(tmp_path / "dicom", "019.dcm", "cut short", "again")


def test_a_dicom_picture_is_not_hu(tmp_path):
    grey = ((np.clip(chest(), -1000, 500) + 1000) // 6).astype(np.uint8)
    write_series(tmp_path / "dicom", ct(grey), t0028_1052="0")
    assert_refused(tmp_path / "dicom", "windowed picture", "not HU")
