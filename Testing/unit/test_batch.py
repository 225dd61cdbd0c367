"""Many scans: what is done, what is left alone, what a failure costs, and that a run goes on after being killed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import batch, cli, device, output, pipeline, quantify, report, search, store
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, LungError, OutputError, ScanError, WeightsError
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from reading import chest

VOXEL_ML = 4.0 * 4.5 * 5.0 / 1000
LUNG_ML = 20 * 24 * 16 * VOXEL_ML  # of each lung in `reading.chest`
LESION_ML = 5 * 6 * 4 * VOXEL_ML


def write_ct(path: Path, hu: np.ndarray | None = None) -> Path:
    """A small chest with ground glass of 5 x 6 x 4 voxels in the right lung."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if hu is None:
        hu = chest()
        hu[5:10, 15:21, 15:19] = -500
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((4.0, 4.5, 5.0))
    sitk.WriteImage(image, path)
    return path


class StandIn:
    """In the place of `pipeline.segment`: marks what is brighter than -600 HU, and fails where it is told to.

    Attributes:
        seen: names of the scans that it was given, in order.
        faults: name of a scan -> what to raise.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.faults: dict[str, BaseException] = {}

    def __call__(self, scan, method, lungs, device_name, precision, progress):
        self.seen.append(scan.name)
        if scan.name in self.faults:
            raise self.faults[scan.name]
        progress(0.5, "Standing in")
        labels = np.zeros(scan.hu.shape, np.uint8)
        labels[:, 12:36, 12:28], labels[:, 12:36, 36:52] = 1, 2
        mask = LungMask(labels, lungs)
        classes = ((scan.hu > -600) & (labels > 0)).astype(np.uint8)
        run = pipeline.Run(
            Card(method, "Stand-in", "", ""), "toy 1", Compute(), {"lungs": 1.0}, {}, ("Look at the lungs.",)
        )
        numbers = quantify.measure(classes, mask, scan.grid.voxel_ml)
        return pipeline.Result(scan, mask, classes, classes.astype(np.float32), numbers, run)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(report, "render", lambda result: "a report")  # pictures take longer than all the rest
    monkeypatch.setattr(pipeline, "segment", stand_in)
    monkeypatch.setattr(device, "choose", lambda name, precision: Compute())
    monkeypatch.setattr(base, "load", lambda name: types.SimpleNamespace(weights="toy 1"))
    return stand_in


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder with two scans."""
    write_ct(tmp_path / "scans" / "a.nii.gz")
    write_ct(tmp_path / "scans" / "deep" / "b.nrrd")
    return tmp_path / "scans"


USUAL = Choices()


def run(scans: Path, choices: Choices = USUAL, reporter: Plain | None = None) -> dict[str, batch.Row]:
    """Run the batch into `out` beside the scans; the rows by path."""
    rows = batch.run(scans, scans.parent / "out", choices, Session(reporter or Plain()))
    return {row.path: row for row in rows}


def table(scans: Path) -> dict[str, dict[str, str]]:
    with (scans.parent / "out" / "batch.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, bytes]:
    """What a batch has left there, but for the file that it locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != batch.LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# What it makes


def test_each_scan_gets_a_result_folder_at_its_own_path_and_a_row_with_its_numbers(stand_in, scans):
    rows = run(scans)
    out = scans.parent / "out"
    for path in ("a.nii.gz", "deep/b.nrrd"):
        assert {file.name for file in (out / path).iterdir()} == set(output.FILES)
        assert rows[path].state == "done"
    read = table(scans)
    assert list(read) == ["a.nii.gz", "deep/b.nrrd"]
    expected = {
        "state": "done", "error": "", "warnings": "1",
        "both_lung_ml": f"{2 * LUNG_ML:.2f}", "right_lung_ml": f"{LUNG_ML:.2f}", "left_lung_ml": f"{LUNG_ML:.2f}",
        "both_ground_glass_ml": f"{LESION_ML:.2f}", "right_ground_glass_ml": f"{LESION_ML:.2f}",
        "left_ground_glass_ml": "0.00", "both_consolidation_ml": "0.00",
        "right_lesion_percent": f"{100 * LESION_ML / LUNG_ML:.2f}", "left_lesion_percent": "0.00",
    }  # fmt: skip
    assert expected.items() <= read["deep/b.nrrd"].items()
    assert float(read["a.nii.gz"]["seconds"]) >= 1.0
    assert tuple(read["a.nii.gz"]) == batch.COLUMNS


def test_the_table_is_up_to_date_while_the_next_scan_is_worked_on(stand_in, scans):
    tables = []

    class Watching(Plain):
        def progress(self, fraction, phase):
            if "Standing in" in phase:
                tables.append({path: row["state"] for path, row in table(scans).items()})

    run(scans, reporter=Watching())
    assert tables == [{"a.nii.gz": "waiting", "deep/b.nrrd": "waiting"}, {"a.nii.gz": "done", "deep/b.nrrd": "waiting"}]


def test_progress_counts_the_scans_and_never_goes_back(stand_in, scans):
    steps = []

    class Noting(Plain):
        def progress(self, fraction, phase):
            steps.append((fraction, phase))

    run(scans, reporter=Noting())
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    phases = [phase for _, phase in steps]
    assert phases[0] == "Looking for scans"
    assert phases.index("Scan 1 of 2: Reading the scan") < phases.index("Scan 2 of 2: Standing in")


# What fails


def test_a_scan_that_fails_costs_no_other_and_its_message_is_in_the_table(stand_in, scans):
    stand_in.faults = {"a.nii.gz": LungError("a.nii.gz: no lungs in view.")}
    run(scans)
    read = table(scans)
    assert (read["a.nii.gz"]["state"], read["a.nii.gz"]["error"]) == ("failed", "a.nii.gz: no lungs in view.")
    assert read["a.nii.gz"]["both_lung_ml"] == ""
    assert read["deep/b.nrrd"]["state"] == "done"
    assert not (scans.parent / "out" / "a.nii.gz").exists()


def test_a_fault_of_the_program_is_a_failed_scan_too(stand_in, scans, capsys):
    stand_in.faults = {"a.nii.gz": ZeroDivisionError("a fault")}
    rows = run(scans)
    assert rows["a.nii.gz"].error == "ZeroDivisionError: a fault"
    assert rows["deep/b.nrrd"].state == "done"
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_file_and_a_link_that_leads_nowhere_are_failed_scans(stand_in, scans):
    (scans / "cut.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:200])
    (scans / "link.nrrd").symlink_to(scans / "gone.nrrd")
    rows = run(scans)
    assert "cut.nii.gz: no complete NIfTI file" in rows["cut.nii.gz"].error
    assert "link.nrrd: can't be opened" in rows["link.nrrd"].error
    assert rows["a.nii.gz"].state == rows["deep/b.nrrd"].state == "done"


def test_a_stray_file_in_the_place_of_results_costs_no_other_scan(stand_in, scans):
    out = scans.parent / "out"
    (out / "a.nii.gz" / output.MEASUREMENTS).mkdir(parents=True)
    (out / "deep").write_text("mine")
    write_ct(scans / "c.nii.gz")
    (out / batch.FINISHED).write_text("[1]")
    rows = run(scans)
    assert "was not written by this program" in rows["a.nii.gz"].error
    assert "is a file, so no results can be written into it" in rows["deep/b.nrrd"].error
    assert rows["c.nii.gz"].state == "done"


def test_a_result_that_lacks_its_numbers_is_not_finished(stand_in, scans):
    run(scans)
    path = scans.parent / "out" / "a.nii.gz" / output.MEASUREMENTS
    numbers = json.loads(path.read_text())
    del numbers["seconds"]
    path.write_text(json.dumps(numbers))
    assert "was not written by this program" in run(scans)["a.nii.gz"].error


def test_what_failed_is_tried_again_and_alone(stand_in, scans):
    stand_in.faults = {"a.nii.gz": LungError("no lungs")}
    run(scans)
    stand_in.faults, stand_in.seen = {}, []
    assert run(scans)["a.nii.gz"].state == "done"
    assert stand_in.seen == ["a.nii.gz"]


def test_labels_in_16_bits_are_no_failure(stand_in, scans):
    write_ct(scans / "a-labels.nii.gz", (chest() > -900).astype(np.int16))
    rows = run(scans)
    assert (rows["a-labels.nii.gz"].state, rows["a-labels.nii.gz"].error) == ("label image", "")
    assert "a-labels.nii.gz" not in stand_in.seen


def test_a_table_that_another_program_holds_does_not_end_the_run_until_all_is_done(stand_in, scans, monkeypatch):
    write = store.write_atomically

    def held(path, data):
        if path.name == batch.TABLE:
            raise PermissionError(13, "held open by another program")
        write(path, data)

    monkeypatch.setattr(store, "write_atomically", held)
    with pytest.raises(OutputError, match=r"batch\.csv: can't be written \(held open by another program\)"):
        run(scans)
    assert stand_in.seen == ["a.nii.gz", "b.nrrd"]
    monkeypatch.undo()


def test_missing_weights_end_the_run_before_the_first_scan(stand_in, scans, monkeypatch):
    def missing(name):
        raise WeightsError("manifest.json: no weights")

    monkeypatch.setattr(base, "load", missing)
    with pytest.raises(WeightsError):
        run(scans)
    assert not (scans.parent / "out").exists()


def test_a_folder_without_scans_and_results_among_the_scans_are_refused(stand_in, scans, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match=r"empty: no scan in it: .* Give the folder that holds the scans"):
        batch.run(tmp_path / "empty", tmp_path / "out", Choices(), Session(Plain()))
    with pytest.raises(OutputError, match="results would lie among the scans"):
        batch.run(scans, scans / "deep" / "..", Choices(), Session(Plain()))
    monkeypatch.setattr(search, "scans", lambda folder, out: [folder])  # the folder itself is a DICOM series
    with pytest.raises(OutputError, match="results would lie among the scans"):
        batch.run(scans, scans / "out", Choices(), Session(Plain()))


def test_the_command_ends_with_1_and_says_which_scan_failed_first(stand_in, scans, capsys):
    command = ["batch", str(scans), "-o", str(scans.parent / "out"), "--progress", "none"]
    assert cli.main(command) == 0
    assert "2 scans done. Table: " in capsys.readouterr().out
    write_ct(scans / "leg.nii.gz")
    stand_in.faults = {"leg.nii.gz": LungError("leg.nii.gz: no lungs in view.")}
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "1 of 3 scans failed. The first, leg.nii.gz: leg.nii.gz: no lungs in view." in said
    assert "batch.csv says how each scan stands" in said


# What is not done again


def test_what_is_finished_is_left_alone(stand_in, scans):
    run(scans)
    before = contents(scans.parent / "out")
    stand_in.seen = []
    run(scans)
    assert stand_in.seen == []
    assert contents(scans.parent / "out") == before


def another_version(scans, monkeypatch):
    monkeypatch.setattr(batch, "__version__", "99")


def other_weights(scans, monkeypatch):
    monkeypatch.setattr(base, "load", lambda name: types.SimpleNamespace(weights="toy 2"))


def result_removed(scans, monkeypatch):
    shutil.rmtree(scans.parent / "out" / "a.nii.gz")
    shutil.rmtree(scans.parent / "out" / "deep")


def file_of_each_result_removed(scans, monkeypatch):
    for path in ("a.nii.gz", "deep/b.nrrd"):
        (scans.parent / "out" / path / "report.html").unlink()


def scans_touched(scans, monkeypatch):
    for path in ("a.nii.gz", "deep/b.nrrd"):
        os.utime(scans / path, (1, 1))


def notes_spoiled(scans, monkeypatch):
    (scans.parent / "out" / ".batch.json").write_text("no JSON")


@pytest.mark.parametrize(
    "change",
    [
        another_version,
        other_weights,
        result_removed,
        file_of_each_result_removed,
        scans_touched,
        notes_spoiled,
    ],
)
def test_what_has_changed_is_done_again(stand_in, scans, monkeypatch, change):
    run(scans)
    stand_in.seen = []
    change(scans, monkeypatch)
    assert {row.state for row in run(scans).values()} == {"done"}
    assert stand_in.seen == ["a.nii.gz", "b.nrrd"]


@pytest.mark.parametrize("choices", [Choices(method="other"), Choices(lungs="lungmask")])
def test_another_method_or_way_to_find_lungs_is_another_result(stand_in, scans, choices):
    run(scans)
    stand_in.seen = []
    run(scans, choices)
    assert stand_in.seen == ["a.nii.gz", "b.nrrd"]


def test_only_the_scan_that_has_changed_is_done_again(stand_in, scans):
    run(scans)
    stand_in.seen = []
    write_ct(scans / "a.nii.gz", chest())
    run(scans)
    assert stand_in.seen == ["a.nii.gz"]
    assert table(scans)["a.nii.gz"]["both_ground_glass_ml"] == "0.00"


def test_the_voxels_of_a_detached_header_count_as_the_scan(stand_in, tmp_path):
    scans = write_ct(tmp_path / "scans" / "a.mhd").parent
    run(scans)
    stand_in.seen = []
    os.utime(scans / "a.raw" if (scans / "a.raw").exists() else scans / "a.zraw", (1, 1))
    run(scans)
    assert stand_in.seen == ["a.mhd"]


def test_a_corrected_outline_survives_a_second_run_and_a_new_version(stand_in, scans, monkeypatch):
    run(scans)
    corrected = scans.parent / "out" / "a.nii.gz" / "lesions.nii.gz"
    corrected.write_bytes(b"corrected")
    assert run(scans)["a.nii.gz"].state == "done"
    other_weights(scans, monkeypatch)
    rows = run(scans)
    assert "lesions.nii.gz was not written by this program, or was changed since" in rows["a.nii.gz"].error
    assert rows["deep/b.nrrd"].state == "done"
    assert corrected.read_bytes() == b"corrected"


# What is cut short


def test_cancelling_keeps_what_is_finished_and_leaves_nothing_else(stand_in, scans):
    class Cancelling(Plain):
        def progress(self, fraction, phase):
            if phase == "Scan 2 of 2: Writing the report":
                raise CancelledError("Cancelled.")

    with pytest.raises(CancelledError):
        run(scans, reporter=Cancelling())
    finished = {f"a.nii.gz/{name}" for name in output.FILES}
    assert set(contents(scans.parent / "out")) == {*finished, batch.TABLE, batch.FINISHED}


class Killed(BaseException):
    """Nothing that comes after it is done."""


@pytest.mark.parametrize("renamed", [0, 1, 6, 7, 11, 12])
def test_being_killed_while_one_result_takes_the_place_of_another_is_undone(stand_in, scans, monkeypatch, renamed):
    run(scans)
    other_weights(scans, monkeypatch)
    rename, calls = os.replace, []

    def rename_or_die(source, target):
        if output.staging(scans.parent / "out" / "a.nii.gz").name in f"{source}{target}":
            calls.append(source)
            if len(calls) > renamed:
                raise Killed
        rename(source, target)

    with monkeypatch.context() as killing:
        killing.setattr(os, "replace", rename_or_die)
        killing.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(scans)
    assert {row.state for row in run(scans).values()} == {"done"}
    names = {f"{path}/{name}" for path in ("a.nii.gz", "deep/b.nrrd") for name in output.FILES}
    assert set(contents(scans.parent / "out")) == {*names, batch.TABLE, batch.FINISHED}


def test_a_result_that_was_published_but_not_noted_is_not_taken_for_the_one_before(stand_in, scans, monkeypatch):
    def die(*_):
        raise Killed

    run(scans)
    with monkeypatch.context() as killing:
        other_weights(scans, killing)
        killing.setattr(batch._Finished, "add", die)
        with pytest.raises(Killed):
            run(scans)
    stand_in.seen = []
    run(scans)
    assert stand_in.seen == ["a.nii.gz"]


# The command line, with a method that waits where its environment says.
ENTRY = """
import os, sys, threading
sys.path[:0] = [{tests!r}, {support!r}]
from LabelFreeCovidSegLib import cli, device, pipeline, report
from LabelFreeCovidSegLib.methods import base
import test_batch

def render_or_wait(result):
    if result.scan.name == os.environ.get("WAITS"):
        print("waiting", file=sys.stderr, flush=True)
        threading.Event().wait()
    return "a report"

report.render = render_or_wait
pipeline.segment = test_batch.StandIn()
device.choose = lambda name, precision: None
base.load = lambda name: test_batch.types.SimpleNamespace(weights="toy 1")
sys.exit(cli.main())
"""


def start(scans: Path, waits: str = "") -> subprocess.Popen:
    entry = scans.parent / "entry.py"
    here = Path(__file__).parent
    entry.write_text(ENTRY.format(tests=str(here), support=str(here.parent / "support")))
    return subprocess.Popen(
        [sys.executable, str(entry), "batch", scans, "-o", scans.parent / "out", "--progress", "none"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "WAITS": waits},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_run_that_is_killed_while_it_writes_goes_on_where_it_was(scans):
    write_ct(scans / "z.nii.gz")
    out = scans.parent / "out"
    process = start(scans, waits="b.nrrd")
    assert any("waiting" in line for line in process.stderr)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert {path: row["state"] for path, row in table(scans).items()} == {
        "a.nii.gz": "done", "deep/b.nrrd": "waiting", "z.nii.gz": "waiting"
    }  # fmt: skip
    assert any(".unfinished-" in path for path in contents(out))
    first = {path: (out / path).stat().st_mtime_ns for path in contents(out) if path.startswith("a.nii.gz")}
    said, complained = start(scans).communicate(timeout=60)
    assert "3 scans done" in said, complained
    assert first == {path: (out / path).stat().st_mtime_ns for path in first}
    names = {f"{path}/{name}" for path in ("a.nii.gz", "deep/b.nrrd", "z.nii.gz") for name in output.FILES}
    assert set(contents(out)) == {*names, batch.TABLE, batch.FINISHED}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_signal_removes_what_is_half_written_and_keeps_what_is_finished(scans):
    process = start(scans, waits="b.nrrd")
    assert any("waiting" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    finished = {f"a.nii.gz/{name}" for name in output.FILES}
    assert set(contents(scans.parent / "out")) == {*finished, batch.TABLE, batch.FINISHED}


def test_two_batches_at_once_do_not_share_a_folder(stand_in, scans, monkeypatch):
    refused = []

    def run_again(*arguments):
        with pytest.raises(OutputError, match="another batch is at work there") as refusal:
            run(scans)
        refused.append(refusal)
        return stand_in(*arguments)

    monkeypatch.setattr(pipeline, "segment", run_again)
    assert {row.state for row in run(scans).values()} == {"done"}
    assert len(refused) == 2
    assert {row.state for row in run(scans).values()} == {"done"}
