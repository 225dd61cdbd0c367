"""`evaluate`: what it writes, what it keeps when it is cut short, and what a failure costs."""

import csv
import io
import os
import re
import types
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from filelock import FileLock
from LabelFreeCovidSegLib import cli, device, phantom, pipeline, quantify, store
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, DataSetError, LungError
from LabelFreeCovidSegLib.evaluation import datasets, judge, page, run, tables
from LabelFreeCovidSegLib.evaluation.datasets import Case, Mask
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS, Unit
from LabelFreeCovidSegLib.evaluation.run import FILES, Plan
from LabelFreeCovidSegLib.evaluation.statistics import Summary
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.anomaly import threshold
from LabelFreeCovidSegLib.methods.base import SUPERVISED, Card
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Scan
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from reading import chest
from slice_pictures import Slice, chest_slice

LESION = np.s_[5:10, 15:21, 15:19]
CARDS = {"good": Card("good", "Good", "", ""), "taught": Card("taught", "Taught", "", "", kind=SUPERVISED)}


class StandIn:
    """In the place of `pipeline.segment`: "good" marks what is denser than -600 HU, "taught" than -400 HU.

    Attributes:
        seen: (method, scan) that it was asked for, in order.
        faults: scan -> what to raise.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.faults: dict[str, Exception] = {}

    def __call__(self, scan, method, lungs, device_name, precision, progress):
        self.seen.append((method, scan.name))
        if scan.name in self.faults:
            raise self.faults[scan.name]
        progress(0.5, "Standing in")
        return result(scan, method, lungs)


def result(scan: Scan, method: str, lungs: str = "classical") -> pipeline.Result:
    labels = np.zeros(scan.hu.shape, np.uint8)
    labels[..., : labels.shape[2] // 2], labels[..., labels.shape[2] // 2 :] = 1, 2
    labels[scan.hu > 0] = 0
    lesion = (scan.hu > {"good": -600, "taught": -400}[method]) & (labels > 0)
    mask = LungMask(labels, lungs)
    numbers = quantify.measure(lesion.astype(np.uint8), mask, scan.grid.voxel_ml)
    score = np.where(labels > 0, (scan.hu + 1024) / 1024, 0).astype(np.float32)
    made_by = pipeline.Run(CARDS[method], "toy 1", Compute(), {}, {}, ())
    return pipeline.Result(scan, mask, lesion.astype(np.uint8), score, numbers, made_by)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(pipeline, "segment", stand_in)
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute())
    monkeypatch.setattr(base, "card", lambda name: CARDS[name])
    monkeypatch.setattr(base, "load", lambda name: types.SimpleNamespace(weights="toy 1", card=CARDS[name]))
    return stand_in


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.5, 5.0)[: image.GetDimension()])
    sitk.WriteImage(image, path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Three chests: one lesion is found, half of one, and one that is too faint for "taught"."""
    folder = tmp_path / "chests"
    for name, hu, drawn in (("a", -300, LESION), ("b", -300, np.s_[5:10, 15:21, 15:23]), ("c", -500, LESION)):
        ct, lesions = chest(), np.zeros(chest().shape, np.uint8)
        ct[LESION], lesions[drawn] = hu, 1
        write(folder / "ct" / f"{name}.nii.gz", ct)
        write(folder / "lesions" / f"{name}.nii.gz", lesions)
    return folder


METHODS = ("good", "taught")


def evaluate(data: Path, out: str = "out", methods=METHODS, protocols=("volume",), reporter=None):
    plan = Plan(methods, [datasets.find(str(data))], protocols)
    return run.run(plan, data.parent / out, Session(reporter or Plain()))


def texts(data: Path, out: str = "out") -> dict[str, str]:
    return {name: (data.parent / out / name).read_text(encoding="utf-8") for name in FILES}


# What it writes


def test_one_line_a_method_with_mean_sd_interval_and_kind(stand_in, data):
    evaluate(data)
    written = texts(data)
    assert set(os.listdir(data.parent / "out")) == {*FILES, run.CASES, run.LOCKS}
    rows = {(row["method"], row["metric"]): row for row in csv.DictReader(io.StringIO(written["table.csv"]))}
    good, taught = (rows[method, "DSC"] for method in METHODS)
    values = [1, 2 / 3, 1]
    assert float(good["mean"]) == pytest.approx(np.mean(values), abs=1e-5)
    assert float(good["sd"]) == pytest.approx(np.std(values), abs=1e-5)
    assert 2 / 3 - 1e-5 <= float(good["low"]) < float(good["mean"]) < float(good["high"]) <= 1
    assert (good["n"], good["kind"], good["source"]) == ("3", "label-free", "this run")
    assert float(taught["mean"]) == pytest.approx(np.mean([1, 2 / 3, 0]), abs=1e-5)
    assert taught["kind"] == "supervised"
    assert "| good | label-free | 3 | 88.9 ± 15.7 [66.7, 100.0] |" in written["table.md"]
    assert PROTOCOLS["volume"].caveat in written["table.md"]
    assert "DSC: good - taught = +33.3 points over the 3 cases" in written["table.md"]
    assert r"88.9 $\pm$ 15.7 [66.7, 100.0]" in written["table.tex"]


def test_every_case_is_in_the_list_of_cases(stand_in, data):
    evaluate(data)
    rows = list(csv.DictReader(io.StringIO(texts(data)["cases.csv"])))
    dice = {(row["method"], row["case"]): float(row["value"]) for row in rows if row["metric"] == "DSC"}
    assert dice == pytest.approx({
        ("good", "a"): 1, ("good", "b"): 2 / 3, ("good", "c"): 1,
        ("taught", "a"): 1, ("taught", "b"): 2 / 3, ("taught", "c"): 0,
    }, abs=1e-5)  # fmt: skip


class Pictures(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.found.append(dict(attrs))


def test_the_page_has_box_plots_and_the_best_median_and_worst_case_and_needs_nothing(stand_in, data):
    evaluate(data)
    text = texts(data)["evaluation.html"]
    pictures = Pictures(text)
    assert [picture["alt"] for picture in pictures.found] == ["a", "c", "b", "a", "b", "c"]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures.found)
    assert re.findall(r"(best|median|worst): (\w)", text) == [
        ("best", "a"), ("median", "c"), ("worst", "b"), ("best", "a"), ("median", "b"), ("worst", "c"),
    ]  # fmt: skip
    assert pictures.tags.count("svg") == 1
    assert pictures.tags.count("rect") == 2
    assert pictures.tags.count("circle") == 6
    assert not re.findall(r"(?:src|href)=.http", text)


def test_the_page_and_the_tables_of_all_protocols(stand_in, data):
    made, failed = evaluate(data, methods=("good",), protocols=tuple(PROTOCOLS))
    assert not failed
    assert [table.protocol.name for table in made] == list(PROTOCOLS)
    assert [row.kind for row in made[-1].rows] == ["oracle"]
    for protocol in PROTOCOLS.values():
        assert protocol.caveat in texts(data)["table.md"]


def test_latex_has_no_bare_special_characters(stand_in, data):
    evaluate(data, methods=("good",), protocols=("B_slice", "oracle_threshold"))
    text = texts(data)["table.tex"]
    assert r"protocol B\_slice" in text
    assert "±" not in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)[%_#]", line.replace(r"\resizebox{\textwidth}{!}{%", ""))


def test_published_numbers_stand_beside_ours_with_their_source(stand_in, data, monkeypatch):
    monkeypatch.setitem(CARDS, "normnet", CARDS["good"])
    monkeypatch.setattr(judge.pipeline, "segment", lambda scan, method, *more: result(scan, "good"))
    known = replace(datasets.REGISTRY["coronacases"], find=datasets.find(str(data))[0].find, cases=3)
    plan = Plan(("normnet",), [(known, data)], ("C",))
    (table,), _ = run.run(plan, data.parent / "out", Session(Plain()))
    ours, theirs = table.rows
    assert (ours.source, theirs.kind, theirs.source) == ("this run", "published", "Yao et al. (TMI), Table III")
    assert (theirs.numbers["DSC"].mean, theirs.numbers["DSC"].sd) == (pytest.approx(0.698), pytest.approx(0.152))
    assert "69.8 ± 15.2" in texts(data)["table.md"]
    assert "validation results" in texts(data)["table.md"]


def test_published_numbers_are_of_metrics_that_protocols_give():
    lines = tables._lines()
    assert len(lines) == 237
    assert {line["protocol"] for line in lines} <= set(PROTOCOLS)
    assert {line["data"] for line in lines} <= set(datasets.REGISTRY)
    assert all(line["source"] and 0 < float(line["mean"]) <= 100 for line in lines)


# Going on


class Stopping(Plain):
    """Cancels when a phase is reached for the n-th time."""

    def __init__(self, phase: str, times: int) -> None:
        self.phase, self.left = phase, times

    def progress(self, fraction, text):
        self.left -= self.phase in text
        if self.left == 0:
            raise CancelledError("Cancelled.")


@pytest.mark.parametrize("phase", ["Reading the case", "Standing in", "Measuring by volume", "Writing the tables"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_run_that_was_cut_short_goes_on_to_the_same_tables(stand_in, data, phase, times):
    times = 1 if phase == "Writing the tables" else times
    evaluate(data, out="whole")
    stand_in.seen.clear()
    with pytest.raises(CancelledError):
        evaluate(data, reporter=Stopping(phase, times))
    evaluate(data)
    finished = len(list((data.parent / "out" / "cases").rglob("*.json")))
    assert finished == 6
    repeated = 1 if phase in ("Standing in", "Measuring by volume") else 0
    assert len(stand_in.seen) == 6 + repeated  # only the case that was being worked on is done again
    assert texts(data) == texts(data, "whole")


def test_finished_cases_are_not_computed_again(stand_in, data):
    evaluate(data)
    before = texts(data)
    stand_in.seen.clear()
    evaluate(data)
    assert stand_in.seen == []
    assert texts(data) == before


def test_a_case_whose_file_is_cut_short_is_computed_again(stand_in, data):
    evaluate(data)
    before = texts(data)
    file = data.parent / "out" / "cases" / "chests" / "good" / "b.json"
    file.write_text(file.read_text()[:200])
    stand_in.seen.clear()
    evaluate(data)
    assert stand_in.seen == [("good", "b.nii.gz")]
    assert texts(data) == before


def test_a_case_whose_mask_has_changed_is_computed_again(stand_in, data):
    evaluate(data, methods=("good",))
    write(data / "lesions" / "a.nii.gz", np.ones(chest().shape, np.uint8))
    stand_in.seen.clear()
    evaluate(data, methods=("good",))
    assert stand_in.seen == [("good", "a.nii.gz")]


def test_all_cases_are_computed_again_if_the_lung_networks_weights_have_changed(stand_in, data, monkeypatch):
    evaluate(data, methods=("good",))
    stand_in.seen.clear()
    newer = types.SimpleNamespace(entry=types.SimpleNamespace(label="lungnet 9"))
    monkeypatch.setattr(store, "find", lambda name: newer if name == "lungnet" else None)
    evaluate(data, methods=("good",))
    assert len(stand_in.seen) == 3


def test_all_cases_are_computed_again_if_only_a_threshold_of_the_weights_has_changed(stand_in, data, monkeypatch):
    monkeypatch.setitem(CARDS, "good", Card("good", "Good", "", "", networks=("toy",)))
    entry = store.Entry("toy", "1", {"toy.safetensors": "ab" * 32}, {"threshold": 0.3}, [], "CC0", True, "", "")
    monkeypatch.setattr(store, "find", lambda name: store.Stored(entry, data) if name == "toy" else None)
    evaluate(data, methods=("good",))
    stand_in.seen.clear()
    evaluate(data, methods=("good",))
    assert stand_in.seen == []
    entry.recipe["threshold"] = 0.4
    evaluate(data, methods=("good",))
    assert len(stand_in.seen) == 3


def test_all_cases_are_computed_again_in_another_precision(stand_in, data, monkeypatch):
    evaluate(data, methods=("good",))
    stand_in.seen.clear()
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute("cpu", "bfloat16"))
    evaluate(data, methods=("good",))
    assert len(stand_in.seen) == 3


def test_several_runs_into_one_folder_share_the_cases(stand_in, data):
    """Another run is at work on the first case: it comes last, and the tables are the same."""
    evaluate(data, "whole", methods=("good",))
    stand_in.seen.clear()
    lock = data.parent / "out" / run.LOCKS / "chests" / "good" / "a.lock"
    lock.parent.mkdir(parents=True)
    other = FileLock(lock)
    other.acquire()

    class Releasing(Plain):
        def progress(self, fraction, text):
            if "Waiting for another run" in text:
                other.release()

    evaluate(data, methods=("good",), reporter=Releasing())
    assert [scan for _, scan in stand_in.seen] == ["b.nii.gz", "c.nii.gz", "a.nii.gz"]
    assert texts(data) == texts(data, "whole")


def test_a_case_that_another_run_has_finished_meanwhile_is_taken_from_it(stand_in, data):
    lock = data.parent / "out" / run.LOCKS / "chests" / "good" / "a.lock"
    lock.parent.mkdir(parents=True)
    other = FileLock(lock)
    other.acquire()
    measured = []

    class Finishing(Plain):
        def progress(self, fraction, text):
            if "Waiting for another run" in text:
                other.release()
                evaluate(data, methods=("good",))
                measured.extend(stand_in.seen)

    evaluate(data, methods=("good",), reporter=Finishing())
    assert len(measured) == len(stand_in.seen) == 3


def test_a_further_protocol_keeps_what_is_measured(stand_in, data):
    evaluate(data, methods=("good",))
    evaluate(data, methods=("good",), protocols=("oracle_threshold",))
    stand_in.seen.clear()
    made, _ = evaluate(data, methods=("good",), protocols=("volume", "oracle_threshold"))
    assert stand_in.seen == []
    assert [table.protocol.name for table in made] == ["volume", "oracle_threshold"]


# What fails, and what is left out


def test_a_case_that_fails_costs_no_other_is_named_and_tried_again(stand_in, data):
    stand_in.faults = {"b.nii.gz": LungError("b.nii.gz: no lungs in view.")}
    _, failed = evaluate(data, methods=("good",))
    assert failed == {"chests/good/b": "b.nii.gz: no lungs in view."}
    assert "- Failed: chests/good/b: b.nii.gz: no lungs in view." in texts(data)["table.md"]
    assert "| good | label-free | 2 | 100.0" in texts(data)["table.md"]
    stand_in.faults, stand_in.seen = {}, []
    _, failed = evaluate(data, methods=("good",))
    assert not failed
    assert stand_in.seen == [("good", "b.nii.gz")]


def test_an_error_of_several_lines_is_one_note(stand_in, data):
    stand_in.faults = {"b.nii.gz": LungError("no lungs.\n\nGet the data\n  from there")}
    evaluate(data, methods=("good",))
    assert "- Failed: chests/good/b: no lungs. Get the data from there\n" in texts(data)["table.md"]


def test_what_learnt_from_equalised_pictures_is_left_out_of_a_ct(stand_in, data, monkeypatch):
    monkeypatch.setitem(CARDS, "good", replace(CARDS["good"], domain=base.CLAHE256))
    _, failed = evaluate(data)
    assert failed == {}
    assert "- Left out: good. The weights toy 1 were trained on locally equalised pictures" in texts(data)["table.md"]


def test_a_supervised_row_stays_one_where_the_threshold_is_the_oracles(stand_in, data):
    (table,), _ = evaluate(data, protocols=("oracle_threshold",))
    assert [(row.method, row.kind) for row in table.rows] == [("good", "oracle"), ("taught", "supervised, oracle")]


def test_health_is_measured_of_methods_that_know_it(stand_in, data, monkeypatch):
    monkeypatch.setitem(CARDS, "good", replace(CARDS["good"], knows_health=True))
    knows = types.SimpleNamespace(
        weights="toy 1", card=CARDS["good"], health=lambda scan, *more: (scan.hu < -400).astype(np.float32)
    )
    monkeypatch.setattr(base, "load", lambda name: knows if name == "good" else types.SimpleNamespace(
        weights="toy 1", card=CARDS[name]))  # fmt: skip
    for path in (data / "ct").iterdir():
        hu = sitk.GetArrayFromImage(sitk.ReadImage(path))
        hu[5:10, 22:24, 15:19] = -450  # healthy
        write(path, hu)
    (table,), _ = evaluate(data, protocols=("C_bright",))
    (row,) = table.rows
    # Bright are the lesions of "a" and "b", which it is sure are ill, and that of "c", which it takes for healthy.
    assert row.numbers["SPC"].mean == pytest.approx(2 / 3)
    assert "Left out: taught. It does not say how probably a voxel is healthy." in table.notes


def test_a_fault_of_the_program_is_a_failed_case_too(stand_in, data, capsys):
    stand_in.faults = {"b.nii.gz": ZeroDivisionError("a fault")}
    _, failed = evaluate(data, methods=("good",))
    assert failed == {"chests/good/b": "ZeroDivisionError: a fault"}
    assert "Traceback" in capsys.readouterr().err


def test_a_mask_that_does_not_fit_is_found_before_anything_is_computed(stand_in, data):
    write(data / "lesions" / "b.nii.gz", np.zeros((20, 48, 63), np.uint8))
    _, failed = evaluate(data, methods=("good",))
    assert "does not lie on the grid" in failed["chests/good/b"]
    assert ("good", "b.nii.gz") not in stand_in.seen


def test_cases_that_a_protocol_leaves_out_are_named_and_not_counted(stand_in, data):
    its, _ = datasets.find(str(data))

    def find(folder):
        first, *others = its.find(folder)
        return [replace(first, left_out={"C": "hardly any lesion"}), *others]

    plan = Plan(("good",), [(replace(its, find=find), data)], ("volume", "C"))
    (by_volume, by_c), _ = run.run(plan, data.parent / "out", Session(Plain()))
    assert (by_volume.cases, by_c.cases) == (3, 2)
    assert (by_volume.rows[0].numbers["DSC"].n, by_c.rows[0].numbers["DSC"].n) == (3, 2)
    assert "Left out: a (hardly any lesion)." in by_c.notes


def test_a_set_without_masks_and_two_sets_of_one_name_are_refused(stand_in, data):
    ricord = datasets.REGISTRY["midrc-ricord"]
    with pytest.raises(DataSetError, match="no lesion masks"):
        run.run(Plan(("good",), [(ricord, data)], ("volume",)), data.parent / "out", Session(Plain()))
    twice = [datasets.find(str(data)), datasets.find(str(data))]
    with pytest.raises(DataSetError, match="same name"):
        run.run(Plan(("good",), twice, ("volume",)), data.parent / "out", Session(Plain()))


# The experts' lungs


def test_methods_work_in_the_lungs_that_the_expert_drew_if_they_are_told_to(stand_in, data, monkeypatch):
    lungs = np.zeros(chest().shape, np.uint8)
    lungs[2:18, 8:40, 8:24], lungs[2:18, 8:40, 40:56] = 1, 2
    for name in ("a", "b"):
        write(data / "lungs" / f"{name}.nii.gz", lungs)
    write(data / "lungs" / "c.nii.gz", 0 * lungs)
    seen = []

    def segment(scan, method, mask, *more):
        seen.append(mask.labels)
        return result(scan, method, mask.source)

    monkeypatch.setattr(pipeline, "segment", segment)
    plan = Plan(("good",), [datasets.find(str(data))], ("volume",), Choices(lungs="given"))
    (table,), failed = run.run(plan, data.parent / "out", Session(Plain()))
    for mask in seen:
        np.testing.assert_array_equal(mask, lungs)
    assert "the lung mask is empty" in failed["chests/good/c"]
    assert any("given the experts' lungs" in note for note in table.notes)


def test_lungs_that_nobody_drew_can_not_be_given(stand_in, data):
    plan = Plan(("good",), [datasets.find(str(data))], ("volume",), Choices(lungs="given"))
    _, failed = run.run(plan, data.parent / "out", Session(Plain()))
    assert "a: no expert has drawn its lungs" in failed["chests/good/a"]
    assert stand_in.seen == []


# Pictures

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


def test_a_windowed_volume_is_a_picture_a_slice_with_pixels_of_a_known_size(tmp_path, monkeypatch):
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
    assert [spacing[0] for spacing in seen] == [4.0, 4.0]
    np.testing.assert_array_equal(judged.found[0], judged.found[1])


# Numbers to text


def test_a_box_by_hand():
    box = page.Box.of([0.1, 0.5, 0.52, 0.54, 0.56, 0.58, 0.6])
    assert (box.first, box.median, box.third) == pytest.approx((0.51, 0.54, 0.57))
    assert (box.low, box.high) == (0.5, 0.6)  # 0.1 lies beyond 1.5 interquartile ranges


def test_best_median_and_worst_are_by_the_mean_of_a_case():
    cases = {name: [Unit("slice 0", {"DSC": value}), Unit("slice 1", {"DSC": 0.5})] for name, value in
             (("a", 0.1), ("b", 0.9), ("c", 0.3), ("d", 0.8))}  # fmt: skip
    cases["e"] = [Unit("slice 0", {"DSC": 1.0}, counts=False)]
    series = page.series("m", "DSC", cases, dict.fromkeys(cases, "data:"))
    assert [(shown.which, shown.case) for shown in series.shown] == [("best", "b"), ("median", "c"), ("worst", "a")]
    assert len(series.values) == 8


def test_of_a_single_case_there_is_no_best_and_no_worst():
    series = page.series("m", "DSC", {"a": [Unit("slice 0", {"DSC": 0.5})]}, {"a": "data:"})
    assert [(shown.which, shown.case) for shown in series.shown] == [("only", "a")]


def test_methods_are_compared_by_cases_not_by_slices():
    def cases(**dsc):
        return {name: [Unit(f"slice {k}", {"DSC": one}) for k, one in enumerate(of)] for name, of in dsc.items()}

    (said,) = tables.compared(
        replace(PROTOCOLS["volume"], primary="DSC"),
        {"one": cases(a=[0.5, 0.5, 0.5, 0.5], b=[0.4]), "other": cases(a=[0.3, 0.3, 0.3, 0.3], b=[0.6])},
    )
    assert "one - other = +0.0 points over the 2 cases" in said


def test_half_an_interval_is_printed_as_one():
    (row,) = tables.published("uda", "medseg-9", "D_slice")
    mean, low, high = (getattr(row.numbers["infection DSC"], name) for name in ("mean", "low", "high"))
    assert mean - low == pytest.approx(high - mean)
    assert mean - low > 0
    assert np.isnan(row.numbers["infection DSC"].sd)
    assert "lung DSC" not in row.numbers


@pytest.mark.parametrize(
    ("name", "summary", "text"),
    [
        ("DSC", Summary(0.6981, 0.152, 0.61, 0.7649, 10), "69.8 ± 15.2 [61.0, 76.5]"),
        ("HD95 (mm)", Summary(12.345, 1.0, np.nan, np.nan, 1), "12.35 ± 1.00"),
        ("ACC", Summary(0.93, np.nan, np.nan, np.nan, 0), "93.0"),
        ("DSC", Summary(np.nan, np.nan, np.nan, np.nan, 0), ""),
        ("DSC", None, ""),
    ],
)
def test_numbers_as_text(name, summary, text):
    assert tables.cell(name, summary) == text


# From the command line


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0))
    for kind, array in (("ct", made.scan.hu), ("lesions", (made.lesions > 0).astype(np.uint8)), ("lungs", made.lungs)):
        (folder / kind).mkdir(parents=True)
        sitk.WriteImage(made.scan.native_image(array), folder / kind / "sample.nii.gz")
    return folder


def test_one_command_makes_the_table_of_the_threshold_on_the_phantom(phantoms, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--methods", "threshold", "--data", str(phantoms), "-o", str(out), "--progress", "none"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (out / "table.md").read_text(encoding="utf-8").strip() in printed
    rows = {row["metric"]: float(row["mean"]) for row in csv.DictReader((out / "table.csv").open(encoding="utf-8"))}
    assert rows["lung DSC"] > 0.95
    assert 0.1 < rows["DSC"] < 0.6  # it finds lesions, and takes vessels for some
    assert rows["AUC"] > 0.9


def failing(scan, *choices):
    if scan.name == "b.nii.gz":
        raise LungError("b.nii.gz: no lungs in view.")
    return result(scan, "good")


def test_a_failed_case_ends_in_an_error_that_says_where_the_tables_are(stand_in, data, capsys, monkeypatch):
    monkeypatch.setitem(CARDS, "threshold", CARDS["good"])
    monkeypatch.setattr(judge.pipeline, "segment", failing)
    out = data.parent / "out"
    command = ["evaluate", "--methods", "threshold", "--data", str(data), "-o", str(out), "--progress", "none"]
    assert cli.main(command) == 1
    assert "1 cases failed. The first, chests/threshold/b: b.nii.gz: no lungs in view." in capsys.readouterr().err
    assert (out / "table.md").exists()


def test_the_public_sets_are_listed_without_any_other_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--list-data"])
    assert ended.value.code == 0
    assert "uestc: UESTC-COVID-19: get it from" in capsys.readouterr().out


def test_an_unknown_data_set_is_an_error(tmp_path, capsys):
    command = ["evaluate", "--data", "corona=/data", "-o", str(tmp_path / "out"), "--progress", "none"]
    assert cli.main(command) == 1
    assert "no data set 'corona'" in capsys.readouterr().err
