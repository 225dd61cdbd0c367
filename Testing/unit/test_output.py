"""The files of a result: what is in them, where they lie in the patient, and that they appear all or not at all."""

import errno
import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import output, quantify, report, terminology
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, OutputError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.pipeline import Result, Run
from LabelFreeCovidSegLib.scan import Grid, Scan

SHAPE = (20, 30, 40)
TILT = np.deg2rad(20.0)
# Turned about x by 20 degrees, then y and z flipped and x reversed: oblique, and left-handed (determinant -1).
OBLIQUE = (
    -1.0, 0.0, 0.0,
    0.0, -np.cos(TILT), np.sin(TILT),
    0.0, -np.sin(TILT), -np.cos(TILT),
)  # fmt: skip


def oblique_scan(name: str = "ct.nii.gz") -> Scan:
    image = sitk.GetImageFromArray(np.full(SHAPE, -800.0, np.float32))
    image.SetSpacing((2.0, 2.5, 4.0))
    image.SetOrigin((31.0, -17.0, 211.0))
    image.SetDirection(OBLIQUE)
    return Scan.from_image(image, name, ("One series was chosen.",))


def result_of(scan: Scan) -> Result:
    """Two lungs, ground glass in the right one and consolidation in the left one, none of it symmetric."""
    lungs = np.zeros(scan.hu.shape, np.uint8)
    lungs[2:18, 4:26, 3:18], lungs[2:18, 4:26, 22:37] = 1, 2
    classes = np.zeros_like(lungs)
    classes[3:9, 5:12, 4:15] = 1
    classes[12:15, 14:24, 24:30] = 2
    score = np.where(classes, np.linspace(0, 1, classes.size).reshape(classes.shape), 0).astype(np.float32)
    mask = LungMask(lungs, "given: lungs.nrrd")
    run = Run(
        card=Card("stand-in", "Stand-in", "Knows the answer.", "Nobody, nowhere."),
        weights="stand-in 1.0 (12ab34cd)",
        compute=Compute(),
        seconds={"lungs": 1.0, "lesions": 2.0},
        versions={"LabelFreeCovidSeg": "0.1.0"},
        warnings=("Look at the lungs.",),
    )
    return Result(scan, mask, classes, score, quantify.measure(classes, mask, scan.grid.voxel_ml), run)


@pytest.fixture
def result() -> Result:
    return result_of(oblique_scan())


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of all files below `folder`, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def points_lps(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Voxel centres in millimetres, sorted."""
    steps = np.argwhere(mask)[:, ::-1] * np.array(grid.spacing)
    return in_order(np.array(grid.origin) + steps @ np.array(grid.direction).reshape(3, 3).T)


def in_order(points: np.ndarray) -> np.ndarray:
    points = points.round(3)
    return points[np.lexsort(points.T)]


# What is in them


def test_the_segmentation_opens_in_slicer_with_names_colours_terminology_and_place(result, tmp_path):
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    files = output.write(result, tmp_path / "out")
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(files["lesions.seg.nrrd"]))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    for expected in terminology.LESIONS:
        segment = segmentation.GetSegment(expected.id)
        assert segment.GetName() == expected.name
        assert segment.GetColor() == pytest.approx(expected.color, abs=1e-5)
        entry = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", entry)
        assert str(entry) == expected.entry
        labelmap = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(expected.id, labelmap)
        size = labelmap.GetDimensions()
        mask = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(size[::-1])
        matrix = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(matrix)
        to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
        extent = labelmap.GetExtent()
        indices = np.argwhere(mask == 1)[:, ::-1] + np.array(extent[::2])
        ras = indices @ to_ras[:3, :3].T + to_ras[:3, 3]
        np.testing.assert_allclose(
            in_order(ras * (-1, -1, 1)), points_lps(result.classes == expected.label, result.scan.grid), atol=2e-3
        )


def test_a_scan_without_lesion_gives_a_segmentation_with_both_segments(result, tmp_path):
    import slicer

    none = replace(result, classes=np.zeros_like(result.classes))
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(output.write(none, tmp_path / "out")["lesions.seg.nrrd"]))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(2)] == [segment.id for segment in terminology.LESIONS]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("lesions.nii.gz", np.uint8), ("lungs.nii.gz", np.uint8), ("anomaly.nii.gz", np.float32)],
)
def test_every_volume_lies_on_the_grid_of_the_scan(result, tmp_path, name, dtype):
    image = sitk.ReadImage(str(output.write(result, tmp_path / "out")[name]))
    expected = {"lesions.nii.gz": result.classes, "lungs.nii.gz": result.lungs.labels}.get(name, result.anomaly)
    native = result.scan.native
    assert image.GetSize() == native.size
    for got, wanted in (
        (image.GetSpacing(), native.spacing),
        (image.GetOrigin(), native.origin),
        (image.GetDirection(), native.direction),
    ):
        assert got == pytest.approx(wanted, abs=1e-4)
    assert sitk.GetArrayViewFromImage(image).dtype == dtype
    np.testing.assert_allclose(result.scan.oriented(image), expected, atol=1 / 512)


def test_the_anomaly_map_keeps_eight_bits_whatever_its_scale(result, tmp_path):
    for scale in (1e-6, 1.0, 5000.0):
        scaled = replace(result, anomaly=result.anomaly * np.float32(scale))
        image = sitk.ReadImage(str(output.write(scaled, tmp_path / str(scale))["anomaly.nii.gz"]))
        np.testing.assert_allclose(result.scan.oriented(image), scaled.anomaly, atol=scale / 256)
        assert np.unique(sitk.GetArrayViewFromImage(image)).size <= 257


def test_the_numbers_say_what_how_and_where(result, tmp_path):
    files = output.write(result, tmp_path / "out")
    numbers = json.loads(files["measurements.json"].read_text(encoding="utf-8"))
    voxel_ml = 2.0 * 2.5 * 4.0 / 1000
    right = next(region for region in numbers["regions"] if region["name"] == "right")
    assert right["lung_ml"] == pytest.approx(16 * 22 * 15 * voxel_ml)
    assert right["ground_glass_ml"] == pytest.approx(6 * 7 * 11 * voxel_ml)
    assert right["lesion_percent"] == pytest.approx(100 * 6 * 7 * 11 / (16 * 22 * 15))
    assert numbers["schema"] == output.SCHEMA
    assert numbers["scan"]["name"] == "ct.nii.gz"
    assert numbers["scan"]["grid_lps_mm"]["direction"] == pytest.approx(OBLIQUE)
    assert numbers["band"] == {"consolidation_hu": -300.0, "smoothing_mm": 1.0, "island_ml": 0.1}
    assert numbers["notes"] == ["One series was chosen."]
    assert numbers["warnings"] == ["Look at the lungs."]
    assert numbers["weights"] == "stand-in 1.0 (12ab34cd)"
    for name, sha256 in numbers["files"].items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == sha256


# All or nothing


def test_nothing_but_the_result_is_left_in_a_new_folder_and_beside_it(result, tmp_path):
    files = output.write(result, tmp_path / "new" / "out")
    assert set(files) == set(output.FILES)
    assert set(contents(tmp_path)) == {f"new/out/{name}" for name in output.FILES}


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_fills_up_while_writing_leaves_everything_as_it_was(result, tmp_path, monkeypatch, earlier):
    out = tmp_path / "out"
    if earlier:
        output.write(result, out)
    before = contents(tmp_path)
    monkeypatch.setattr(report, "render", full_disk)
    with pytest.raises(OutputError, match=r"out: results can't be written there \(No space left on device\)"):
        output.write(result, out)
    assert contents(tmp_path) == before
    assert out.exists() == earlier


def test_a_volume_that_itk_wrote_only_in_part_without_a_word_is_noticed(result, tmp_path, monkeypatch):
    write = sitk.WriteImage

    def write_half(image, path, *options, **named):
        write(image, path, *options, **named)
        if path.endswith("anomaly.nii.gz"):
            os.truncate(path, os.path.getsize(path) // 2)

    monkeypatch.setattr(sitk, "WriteImage", write_half)
    with pytest.raises(OutputError, match=r"anomaly\.nii\.gz could not be written completely"):
        output.write(result, tmp_path / "out")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("failing", [0, 5, 6, 11])
def test_an_earlier_result_is_whole_again_when_any_renaming_fails(result, tmp_path, monkeypatch, failing):
    out = tmp_path / "out"
    output.write(result, out)
    (out / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    rename, calls = os.replace, iter(range(100))

    def rename_or_fail(source, target):
        if next(calls) == failing:  # six go out and six come in
            raise PermissionError(errno.EACCES, "held open by another program")
        rename(source, target)

    monkeypatch.setattr(os, "replace", rename_or_fail)
    with pytest.raises(OutputError, match="held open by another program"):
        output.write(replace(result, anomaly=result.anomaly / 2), out)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("phase", ["Writing segmentations", "Writing the report"])
def test_cancelling_while_writing_leaves_nothing(result, tmp_path, phase):
    def cancel(fraction, now):
        if now == phase:
            raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        output.write(result, tmp_path / "out", cancel)
    assert list(tmp_path.iterdir()) == []


def test_a_new_result_of_the_same_scan_replaces_the_old_one(result, tmp_path):
    out = tmp_path / "out"
    output.write(result, out)
    emptier = replace(result, classes=np.zeros_like(result.classes))
    files = output.write(emptier, out)
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(files["lesions.nii.gz"]))).any()
    assert set(contents(out)) == set(output.FILES)


# What is not this program's


def test_other_files_in_the_folder_are_not_touched(result, tmp_path):
    mine = {"ct.nii.gz": b"a scan", "corrected/lesions.nii.gz": b"a correction"}
    for name, data in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    output.write(result, tmp_path)
    output.write(result, tmp_path)
    assert mine.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("name", output.FILES)
def test_a_file_that_happens_to_have_the_same_name_is_not_replaced(result, tmp_path, name):
    (tmp_path / name).write_text("somebody's work")
    with pytest.raises(OutputError, match=f"{name} was not written by this program"):
        output.write(result, tmp_path)
    assert contents(tmp_path) == {name: b"somebody's work"}


@pytest.mark.parametrize("name", ["measurements.json", "lesions.nii.gz"])
def test_a_folder_of_the_same_name_is_not_replaced(result, tmp_path, name):
    output.write(result, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="was not written by this program, or was changed since"):
        output.write(result, tmp_path)
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("missing", ["scan", "files", "regions", "warnings", "seconds"])
def test_numbers_that_lack_what_is_read_of_them_are_not_this_programs(result, tmp_path, missing):
    path = output.write(result, tmp_path)["measurements.json"]
    numbers = json.loads(path.read_text())
    assert output.earlier(tmp_path) == numbers
    del numbers[missing]
    path.write_text(json.dumps(numbers))
    assert output.earlier(tmp_path) == {}
    with pytest.raises(OutputError, match="was not written by this program, or was changed since"):
        output.write(result, tmp_path)


def test_an_outline_that_was_corrected_in_place_is_not_replaced(result, tmp_path):
    files = output.write(result, tmp_path / "out")
    with gzip.open(files["lesions.nii.gz"], "ab") as file:
        file.write(b"corrected")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"lesions\.nii\.gz was not written by this program, or was changed since"):
        output.write(result, tmp_path / "out")
    assert contents(tmp_path) == before


def test_the_result_of_another_scan_is_not_replaced(result, tmp_path):
    output.write(result, tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"holds the results of another scan, 'ct\.nii\.gz'"):
        output.write(result_of(oblique_scan("other.nii.gz")), tmp_path / "out")
    assert contents(tmp_path) == before


def test_the_result_of_another_scan_of_the_same_name_and_grid_is_not_replaced(result, tmp_path):
    output.write(result, tmp_path / "out")
    output.write(result, tmp_path / "out")
    scan = oblique_scan()
    scan.hu[8, 8, 8] = 40.0
    with pytest.raises(OutputError, match="holds the results of another scan"):
        output.write(result_of(scan), tmp_path / "out")


# One image on its own


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_an_image_is_written_in_the_format_of_its_name(tmp_path, name):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    output.write_image(image, tmp_path / "new" / name)
    there = sitk.ReadImage(str(tmp_path / "new" / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize(("name", "fault"), [("ct.png", "ends in"), ("CT.NII.GZ", "ends in"), ("mine.nrrd", "already")])
def test_no_image_is_written_under_an_odd_name_or_over_another_one(tmp_path, name, fault):
    (tmp_path / "mine.nrrd").write_text("mine")
    with pytest.raises(OutputError, match=fault):
        output.write_image(sitk.Image(2, 2, 2, sitk.sitkInt16), tmp_path / name)
    assert contents(tmp_path) == {"mine.nrrd": b"mine"}


# Found out before computing


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out is a file"):
        output.check_folder(tmp_path / "out")
    with pytest.raises(OutputError, match="out is a file"):
        output.check_folder(tmp_path / "out" / "deeper")


def test_a_folder_that_may_not_be_written_is_an_error(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        output.check_folder(tmp_path / "out")


def test_a_nearly_full_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(OutputError, match="Free some space, or name a folder on another disk"):
        output.check_folder(tmp_path)


def test_checking_leaves_no_trace(tmp_path):
    output.check_folder(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
