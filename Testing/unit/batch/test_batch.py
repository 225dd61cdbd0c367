"""Many scans: what is done, and what a failure costs."""

import json

import numpy as np
import pytest
from batches import run, table, write_ct
from LabelFreeCovidSegLib import batch, cli, output, search, store
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.errors import LungError, OutputError, ScanError, WeightsError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.segment_file import Choices
from LabelFreeCovidSegLib.session import Session
from reading import chest

VOXEL_ML = 4.0 * 4.5 * 5.0 / 1000
LUNG_ML = 20 * 24 * 16 * VOXEL_ML  # of each lung in `reading.chest`
LESION_ML = 5 * 6 * 4 * VOXEL_ML


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
