"""`evaluate`: what it keeps when it is cut short, what a failure costs, and what it leaves out."""

import types
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from evaluating import CARDS, evaluate, result, texts, write
from filelock import FileLock
from LabelFreeCovidSegLib import device, pipeline, store
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, DataSetError, LungError
from LabelFreeCovidSegLib.evaluation import datasets, run
from LabelFreeCovidSegLib.evaluation.run import Plan
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from reading import chest

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
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute("cuda", "bfloat16"))
    used = []

    def health(scan, lungs, compute, progress):
        used.append(compute)
        return (scan.hu < -400).astype(np.float32)

    knows = types.SimpleNamespace(weights="toy 1", card=CARDS["good"], health=health)
    monkeypatch.setattr(base, "load", lambda name: knows if name == "good" else types.SimpleNamespace(
        weights="toy 1", card=CARDS[name]))  # fmt: skip
    for path in (data / "ct").iterdir():
        hu = sitk.GetArrayFromImage(sitk.ReadImage(path))
        hu[5:10, 22:24, 15:19] = -450  # healthy
        write(path, hu)
    (table,), _ = evaluate(data, protocols=("C_bright",))
    (row,) = table.rows
    assert used == [Compute()] * 3  # what the segmentation ran on in the end, not what was asked for
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
