"""Which files and folders count as scans."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import output, search
from LabelFreeCovidSegLib.errors import ScanError


def volume(path: Path, dtype: type = np.int16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), dtype)), path)
    return path


def series(folder: Path, slices: int = 10, modality: str = "CT") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.zeros((1, 5, 6), np.int16))
    image.SetMetaData("0008|0060", modality)
    for k in range(slices):
        sitk.WriteImage(image, folder / f"{k:03}.dcm")
    return folder


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in search.scans(folder, folder / "out")]


def test_files_of_every_format_and_folders_with_a_series_are_found_at_any_depth(tmp_path):
    names = ["a.nii.gz", "b.nii", "c/d.nrrd", "c/e/f.mha", "g.mhd", "h.NRRD"]
    for name in names:
        volume(tmp_path / name)
    series(tmp_path / "study" / "series 2")
    (tmp_path / "notes.txt").write_text("no scan")
    assert found(tmp_path) == sorted([*names, "study/series 2"])


def test_a_folder_that_is_itself_a_series_is_one_scan(tmp_path):
    assert search.scans(series(tmp_path / "dicom"), tmp_path / "out") == [tmp_path / "dicom"]


def test_what_lies_below_a_series_belongs_to_it(tmp_path):
    series(series(tmp_path / "study") / "reconstructed")
    assert found(tmp_path) == ["study"]


@pytest.mark.parametrize(("slices", "modality"), [(9, "CT"), (12, "MR"), (12, "SR")])
def test_localizers_and_other_modalities_are_no_scans(tmp_path, slices, modality):
    series(tmp_path / "series", slices, modality)
    assert found(tmp_path) == []


def test_slices_of_other_modalities_beside_a_series_do_not_hide_it(tmp_path):
    series(tmp_path / "flat", 12, "SR")
    for file in series(tmp_path / "ct", 10).iterdir():
        file.rename(tmp_path / "flat" / f"z{file.name}")
    assert found(tmp_path) == ["flat"]


def test_hidden_things_the_folder_for_results_and_masks_are_left_out(tmp_path):
    volume(tmp_path / "._ct.nii.gz")
    volume(tmp_path / ".cache" / "ct.nii.gz")
    volume(tmp_path / "out" / "ct.nii.gz")
    volume(tmp_path / "mask.nii.gz", np.uint8)
    volume(tmp_path / "drawn.seg.nrrd")
    assert found(tmp_path) == []


def test_results_of_this_program_are_left_out_but_not_what_lies_beside_them(tmp_path):
    for name in ("anomaly.nii.gz", "ct.nii.gz"):
        volume(tmp_path / name, np.float32)
    assert found(tmp_path) == ["anomaly.nii.gz", "ct.nii.gz"]
    (tmp_path / output.MEASUREMENTS).write_text(
        json.dumps({"schema": output.SCHEMA, "scan": {}, "files": {}, "regions": [], "warnings": [], "seconds": {}})
    )
    assert found(tmp_path) == ["ct.nii.gz"]


def test_a_damaged_file_counts_so_that_somebody_is_told(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(b"cut")
    assert found(tmp_path) == ["ct.nii.gz"]


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ScanError, match=r"nowhere: no folder\. Give the folder"):
        search.scans(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1, 2], True),
        ([0.0, 5000.0], True),
        ([0, 0.5, 1], False),  # probabilities
        ([-1, 0, 1], False),
        (range(256), False),  # a picture
    ],
)
def test_labels_are_few_whole_numbers_from_zero_on(tmp_path, values, labels):
    array = np.resize(np.array(values, np.float32), (8, 8, 8))
    sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "image.nii.gz")
    assert search.is_label_image(tmp_path / "image.nii.gz") is labels


def test_neither_a_folder_nor_a_damaged_file_is_a_label_image(tmp_path):
    (tmp_path / "ct.nii.gz").write_bytes(b"cut")
    assert not search.is_label_image(tmp_path)
    assert not search.is_label_image(tmp_path / "ct.nii.gz")
