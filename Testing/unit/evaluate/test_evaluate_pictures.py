"""`evaluate` of pictures without HU."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluating import texts, write
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.evaluation import datasets, judge, run
from LabelFreeCovidSegLib.evaluation.datasets import Case, Mask
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS
from LabelFreeCovidSegLib.evaluation.run import Plan
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.anomaly import threshold
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from slice_pictures import Slice, chest_slice

WINDOW = (-1350.0, 150.0)
CPU = Choices("threshold", device="cpu")


def write_picture(folder: Path, name: str, grey: np.ndarray, one: Slice) -> None:
    for kind, pixels in (("ct", grey), ("lesions", one.lesion & one.lung), ("lungs", one.lung)):
        write(folder / kind / f"{name}.png", np.ascontiguousarray(pixels).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two slices of a chest, the second without its lesion, as pictures of lungs and soft tissue."""
    folder, ill = tmp_path / "pictures", chest_slice()
    well = replace(ill, hu=np.where(ill.lesion, -860, ill.hu), lesion=np.zeros_like(ill.lesion))
    for name, one in (("v_1", ill), ("v_2", well)):
        write_picture(folder, name, one.window(*WINDOW), one)
    return folder


def of_pictures(folder: Path, description: str = "", out: str = "out", lungs="lungnet", **how):
    (folder / "dataset.toml").write_text(description)
    methods, protocols = how.get("methods", ("threshold",)), how.get("protocols", ("volume",))
    plan = Plan(methods, [datasets.find(str(folder))], protocols, Choices(lungs=lungs, device="cpu"))
    return run.run(plan, folder.parent / out, Session(Plain()))


def numbers(folder: Path, out: str = "out") -> list[list[str]]:
    return [line[3:] for line in csv.reader(io.StringIO(texts(folder, out)["cases.csv"]))]


def test_pictures_are_measured_where_neither_hu_nor_millimetres_are_needed(pictures):
    made, failed = of_pictures(pictures, protocols=tuple(PROTOCOLS))
    assert not failed
    measured = {table.protocol.name for table in made if table.rows}
    assert measured == {"volume", "B_slice", "D_slice", "oracle_threshold"}
    (volume, *_) = made
    assert 0.1 < volume.rows[0].numbers["DSC"].mean < 0.6  # of the lesion; all that is marked in the other is wrong
    assert volume.rows[0].numbers["lung DSC"].mean > 0.85  # half of a dome of the diaphragm is inside
    assert "HD95 (mm)" not in volume.columns
    assert "- Left out: v_1 (no HU)." in texts(pictures)["table.md"]
    assert "- Left out: v_1 (no pixel size)." in texts(pictures)["table.md"]


def test_pictures_that_lie_on_their_side_come_to_the_same_numbers(pictures):
    of_pictures(pictures)
    turned = pictures.parent / "turned"
    for kind in ("ct", "lesions", "lungs"):
        for file in (pictures / kind).iterdir():
            write(turned / kind / file.name, np.ascontiguousarray(sitk.GetArrayFromImage(sitk.ReadImage(file)).T))
    of_pictures(turned, 'orientation = "PL"', out="other")
    assert numbers(turned, "other") == numbers(pictures)


def test_a_picture_of_which_something_else_is_said_is_computed_anew(pictures):
    of_pictures(pictures)
    before = texts(pictures)["evaluation.html"]
    of_pictures(pictures, 'orientation = "LA"')
    assert texts(pictures)["evaluation.html"] != before  # its picture is upside down


def test_slices_of_a_volume_are_counted_together(pictures):
    singles = [judge.judge(case, CPU, silent) for case in datasets.find(str(pictures))[0].open(pictures)]
    (table,), _ = of_pictures(pictures, "volumes = true")
    found, truth = (np.concatenate([getattr(one, name) for one in singles]) for name in ("found", "truth"))
    expected = 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))
    assert table.cases == 1
    assert table.rows[0].numbers["DSC"].mean == pytest.approx(expected)


def test_pictures_without_lungs_or_tissue_have_empty_results_and_are_named(pictures):
    chest_ = chest_slice()
    write_picture(pictures, "v_3", np.where(chest_.lung, 215, chest_.window(*WINDOW)), chest_)
    write_picture(pictures, "v_4", np.where(chest_.lung, chest_.window(*WINDOW), 0), chest_)
    write(pictures / "lungs" / "v_3.png", np.zeros(chest_.hu.shape, np.uint8))
    (table,), failed = of_pictures(pictures, lungs="given")
    assert not failed
    assert "Nothing could be looked for in: v_3.png (no lungs), v_4.png (not calibrated)." in table.notes
    assert (table.cases, table.rows[0].numbers["DSC"].n) == (4, 4)
    rows = {
        (row["case"], row["metric"]): row["value"] for row in csv.DictReader(io.StringIO(texts(pictures)["cases.csv"]))
    }
    assert rows["v_3", "SEN"] == rows["v_4", "SEN"] == "0"
    assert rows["v_1", "lung DSC"] == rows["v_4", "lung DSC"] == "1"


def test_what_is_equalised_is_only_for_what_learnt_from_it_or_from_nothing(pictures):
    case, _ = datasets.find(str(pictures))[0].open(pictures)
    judged = judge.judge(replace(case, equalised=True), replace(CPU, lungs="given"), silent)
    grey = sitk.GetArrayFromImage(sitk.ReadImage(case.image))
    np.testing.assert_array_equal(judged.found[0], (grey >= 85) & judged.true_lungs[0])  # a third of 255
    assert judged.found_classes is None
    (table,), failed = of_pictures(pictures, "equalised = true", methods=("threshold", "normnet"))
    assert not failed
    assert [row.method for row in table.rows] == ["threshold"]
    assert any(note.startswith("Left out: normnet. The weights normnet ") for note in table.notes)


def test_a_windowed_volume_is_a_stack_of_pictures_with_pixels_of_a_known_size(tmp_path, monkeypatch):
    one = chest_slice()
    for name, plane in (("ct", one.window(*WINDOW)), ("lesions", one.lesion.astype(np.uint8))):
        write(tmp_path / f"{name}.nii.gz", np.stack([plane, plane]))
    model, seen = threshold.load(), []
    monkeypatch.setattr(base, "load", lambda name: model)
    monkeypatch.setattr(
        model,
        "predict",
        lambda scan, *more: seen.append(scan.grid.spacing) or threshold.Threshold().predict(scan, *more),
    )
    case = Case("w", tmp_path / "ct.nii.gz", Mask(tmp_path / "lesions.nii.gz"), hu=False)
    judged = judge.judge(case, CPU, silent)
    assert (judged.found.shape, judged.in_mm, judged.grid.spacing) == ((2, *one.hu.shape), True, (4.0, 4.5, 5.0))
    assert seen == [(4.0, 4.0, 3.0)]
    np.testing.assert_array_equal(judged.found[0], judged.found[1])
