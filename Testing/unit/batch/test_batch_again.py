"""A second run of a batch: what is not done again, and that it goes on after being cut short."""

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import batches
import pytest
from batches import contents, run, table, write_ct
from LabelFreeCovidSegLib import batch, output, pipeline
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.errors import CancelledError, OutputError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.segment_file import Choices
from reading import chest

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
import os, sys, threading, types
sys.path.insert(0, {support!r})
from LabelFreeCovidSegLib import cli, device, pipeline, report
from LabelFreeCovidSegLib.methods import base
import batches

def render_or_wait(result):
    if result.scan.name == os.environ.get("WAITS"):
        print("waiting", file=sys.stderr, flush=True)
        threading.Event().wait()
    return "a report"

report.render = render_or_wait
pipeline.segment = batches.StandIn()
device.choose = lambda name, precision: None
base.load = lambda name: types.SimpleNamespace(weights="toy 1")
sys.exit(cli.main())
"""


def start(scans: Path, waits: str = "") -> subprocess.Popen:
    entry = scans.parent / "entry.py"
    entry.write_text(ENTRY.format(support=str(Path(batches.__file__).parent)))
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
