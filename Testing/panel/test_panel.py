"""What a radiologist does, with a mouse: choose, click, watch, correct, save.

The child is a stand-in script here, so that each of its ways to end can be had; `test_end_to_end.py` goes the whole way
with the program itself.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.handover import write_volume
from LabelFreeCovidSegLib.panel import estimate
from LabelFreeCovidSegLib.scene import show, shown
from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget

SUCCEED = """
from mrml import results
say(fraction=0.5, phase="Finding lesions", seconds_left=40.0)
print("a library's chatter", flush=True)
results(ct, out)
say(done={"folder": str(out), "files": {}})
"""
WARN = """
from mrml import results
results(ct, out)
(out / "measurements.json").write_text(json.dumps({"warnings": ["Look at the left lung."]}))
say(done={"folder": str(out), "files": {}})
"""
HANG = """
say(fraction=0.5, phase="Finding lesions", seconds_left=None)
threading.Event().wait()
"""
# The child is behind a launcher, as in Slicer: it writes its number where the test finds it, and waits.
LAUNCHED = """
import subprocess
code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); sys.stdin.read()"
worker = subprocess.Popen([sys.executable, "-c", code, str(Path({number!r}))])
say(fraction=0.5, phase="Finding lesions", seconds_left=None)
worker.wait()
"""
ENDS = {
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "memory ran out"),
    "out of memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); bytearray(1 << 34)",
        "MemoryError",
    ),
    "disk full": (
        'import errno; say(error={"kind": "OutputError", "message": "out: no room left on the disk. Make room."})\n'
        "sys.exit(1)",
        "no room left on the disk",
    ),
    "crash": ("import nothing_like_it", "No module named 'nothing_like_it'"),
    "false success": (
        'say(done={"folder": str(out), "files": {}})',
        "lesions.nii.gz: this file of the result is missing",
    ),
}


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in children end by POSIX signals")


@pytest.fixture
def ct(scene, patient):
    return patient.load()


@pytest.fixture
def open_panel(ct, panel):
    """The panel with the CT chosen: the only one of the scene is offered."""
    panel.widget.enter()
    assert panel.inputVolumeSelector.currentNode() is ct
    return panel


def cell(panel, row, column):
    return float(panel.measurementsTable.item(row, column).text())


def alive(number):
    """Whether a process still runs; one that has ended and was not asked about yet does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_panel_without_a_ct_says_what_it_needs(panel):
    assert not panel.segmentButton.isEnabled()
    assert panel.segmentButton.toolTip() == "Select a chest CT first."
    for section in ("result", "review", "measurements"):
        assert not getattr(panel, f"{section}CollapsibleButton").isEnabled()


def test_the_only_ct_is_offered_beside_label_maps_and_maps_of_a_result(scene, patient, panel, tmp_path, make_results):
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    ct = patient.load()
    write_volume(ct, tmp_path / "handed-over.nrrd")
    assert show(make_results(tmp_path / "handed-over.nrrd", tmp_path / "results"), ct, anomaly=True).anomaly
    panel.widget.enter()
    assert panel.inputVolumeSelector.currentNode() is ct


def test_of_several_cts_none_is_offered(scene, patient, panel):
    patient.load()
    patient.load()
    panel.widget.enter()
    assert panel.inputVolumeSelector.currentNode() is None
    assert panel.segmentButton.toolTip() == "Select a chest CT first."


def test_a_click_shows_lesions_and_numbers(open_panel, ct, child, temporary):
    child(SUCCEED)
    open_panel.click("segmentButton")
    assert open_panel.segmentButton.text() == "Cancel"
    assert open_panel.progressBar.isVisible()
    open_panel.wait(lambda: open_panel.progressBar.value() == 50)
    open_panel.wait_for_the_end()
    assert open_panel.statusLabel.text().startswith("Done in")
    assert "a library's chatter" in open_panel.logText.toPlainText()
    assert not open_panel.progressBar.isVisible()
    assert open_panel.segmentEditor.nodes["segmentation"] is shown(ct).lesions
    assert open_panel.segmentsTable.rowCount() == 2
    volume = 4 / 3 * np.pi / 1000 * np.array([5.0**3, 4.0**3])
    np.testing.assert_allclose([cell(open_panel, row, 0) for row in (1, 2)], volume, rtol=0.3)
    assert cell(open_panel, 3, 0) == pytest.approx(cell(open_panel, 1, 0) + cell(open_panel, 2, 0), abs=0.11)
    assert not list(temporary.iterdir())


def test_the_time_of_a_run_is_expected_of_the_next_one(open_panel, child):
    child(SUCCEED)
    assert "on 2 processor cores" in open_panel.cardLabel.text()
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    assert "as fast as the last run here" in open_panel.cardLabel.text()


def test_a_run_has_a_start_that_does_not_grow_with_the_ct(open_panel, ct):
    size = estimate.megavoxels(ct)
    assert estimate.expected(ct, "a method", "cpu", 0.5) == (estimate.START_SECONDS + 0.5 * size, False)
    estimate.remember(ct, "a method", "cpu", 12.0)
    seconds, seen_here = estimate.expected(ct, "a method", "cpu", 0.5)
    assert (seconds, seen_here) == (pytest.approx(12.0), True)
    estimate.remember(ct, "a method", "cpu", 1.0)
    assert estimate.expected(ct, "a method", "cpu", 0.5) == (estimate.START_SECONDS, True)


def choose_folders(panel, tmp_path):
    panel.parameters.batchInput, panel.parameters.batchOutput = tmp_path / "scans", tmp_path / "results"


def test_the_time_is_remembered_for_what_ran_whatever_is_chosen_by_then(open_panel, ct, child):
    child(SUCCEED)
    ran = open_panel.parameters.method
    open_panel.click("segmentButton")
    open_panel.parameters.method = "normnet"
    open_panel.parameters.device = "cpu"
    open_panel.parameters.inputVolume = None
    open_panel.wait_for_the_end()
    assert open_panel.statusLabel.text().startswith("Done in")
    open_panel.parameters.inputVolume = ct
    seen_here = {}
    for method, device in itertools.product([ran, "normnet"], ["auto", "cpu"]):
        open_panel.parameters.method = method
        open_panel.parameters.device = device
        seen_here[method, device] = "as fast as the last run here" in open_panel.cardLabel.text()
    assert [choice for choice, seen in seen_here.items() if seen] == [(ran, "auto")]


@pytest.mark.parametrize("button", ["segmentButton", "batchButton"])
def test_what_ends_while_the_user_is_in_another_module_is_there_on_return(
    open_panel, ct, child, temporary, tmp_path, button
):
    child(WARN if button == "segmentButton" else 'say(done={"folder": str(out), "files": {}})')
    choose_folders(open_panel, tmp_path)
    open_panel.click(button)
    open_panel.widget.exit()
    assert open_panel.widget.logic.isBusy()
    open_panel.wait(lambda: not open_panel.widget.logic.isBusy())
    open_panel.widget.enter()
    if button == "segmentButton":
        assert re.fullmatch(r"Done in \d+ s. Look at the left lung.", open_panel.statusLabel.text())
        assert open_panel.segmentEditor.nodes["segmentation"] is shown(ct).lesions
    else:
        assert open_panel.batchStatusLabel.text().startswith("All scans are done.")
    assert open_panel.segmentButton.text() == "Segment lesions"
    assert open_panel.batchButton.text() == "Segment all"
    assert not list(temporary.iterdir())


def test_a_run_goes_on_although_the_user_leaves_during_the_installation(open_panel, ct, child, monkeypatch):
    child(SUCCEED)
    monkeypatch.setattr("LabelFreeCovidSegLib.panel.install.ensure", lambda tell: open_panel.widget.exit() or True)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    assert open_panel.statusLabel.text().startswith("Done in")
    assert shown(ct) is not None


def test_a_run_and_a_batch_wait_for_each_other(open_panel, child, tmp_path):
    child(HANG)
    choose_folders(open_panel, tmp_path)
    open_panel.click("batchButton")
    assert not open_panel.segmentButton.isEnabled()
    assert open_panel.segmentButton.toolTip() == "A batch is running. Wait for it or cancel it first."
    open_panel.wait(lambda: not open_panel.widget.sections[6]._settling.active)
    open_panel.click("batchButton")
    open_panel.wait_for_the_end()
    assert open_panel.batchStatusLabel.text().startswith("Cancelled.")
    open_panel.click("segmentButton")
    assert not open_panel.batchButton.isEnabled()
    assert open_panel.batchButton.toolTip() == "A CT is being segmented. Wait for it or cancel it first."


@pytest.mark.parametrize(
    ("button", "bar", "cancel"),
    [("segmentButton", "progressBar", "Cancel"), ("batchButton", "batchProgressBar", "Cancel batch")],
)
def test_a_double_click_starts_and_does_not_cancel(open_panel, child, temporary, tmp_path, button, bar, cancel):
    child(HANG)
    choose_folders(open_panel, tmp_path)
    open_panel.double_click(button)
    open_panel.wait(lambda: getattr(open_panel, bar).value() == 50 or not open_panel.widget.logic.isBusy())
    assert getattr(open_panel, button).text() == cancel
    assert len(list(temporary.iterdir())) == 1


def test_cancelling_ends_the_child_and_leaves_the_scene_as_it_was(open_panel, scene, child, temporary):
    child(HANG)
    nodes = scene.GetNumberOfNodes()
    open_panel.click("segmentButton")
    open_panel.wait(lambda: open_panel.progressBar.value() == 50)
    open_panel.wait(lambda: not open_panel.widget.sections[1]._settling.active)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    assert open_panel.statusLabel.text() == "Cancelled. The scene is as it was."
    assert scene.GetNumberOfNodes() == nodes
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("code", "message"), ENDS.values(), ids=ENDS)
def test_every_bad_end_is_one_message_and_the_button_comes_back(open_panel, scene, child, temporary, code, message):
    child(code)
    nodes = scene.GetNumberOfNodes()
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    assert message in open_panel.statusLabel.text()
    assert open_panel.segmentButton.isEnabled()
    assert not open_panel.progressBar.isVisible()
    assert scene.GetNumberOfNodes() == nodes
    assert not list(temporary.iterdir())


def test_a_killed_launcher_takes_its_child_with_it(open_panel, child, temporary, tmp_path):
    number = tmp_path / "number"
    child(LAUNCHED.format(number=str(number)))
    open_panel.click("segmentButton")
    open_panel.wait(lambda: number.exists() and number.read_text() != "")
    worker = int(number.read_text())
    launcher = open_panel.widget.logic._job._runner._process.processId()
    os.kill(launcher, 9)
    open_panel.wait_for_the_end()
    open_panel.wait(lambda: not alive(worker), seconds=10)
    assert "memory ran out" in open_panel.statusLabel.text()
    assert not list(temporary.iterdir())


def test_a_ct_that_is_deleted_ends_its_run(open_panel, scene, ct, child, temporary):
    child(HANG)
    open_panel.click("segmentButton")
    open_panel.wait(lambda: open_panel.progressBar.value() == 50)
    scene.RemoveNode(ct)
    open_panel.wait(lambda: not open_panel.widget.logic.isBusy())
    assert not open_panel.segmentButton.isEnabled()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert not list(temporary.iterdir())


def test_a_scene_that_is_closed_ends_the_run(open_panel, scene, child, temporary):
    child(HANG)
    open_panel.click("segmentButton")
    open_panel.wait(lambda: open_panel.progressBar.value() == 50)
    scene.Clear(False)
    open_panel.wait(lambda: not open_panel.widget.logic.isBusy())
    assert not open_panel.segmentButton.isEnabled()
    assert not list(temporary.iterdir())


def test_given_lungs_go_to_the_child(open_panel, scene, ct, child, tmp_path):
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    lungs = shown(ct).lungs
    child(f"import shutil; shutil.copy(ct.parent / 'lungs.nrrd', {str(tmp_path / 'seen.nrrd')!r})\n{SUCCEED}")
    open_panel.parameters.givenLungs = lungs
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    import SimpleITK as sitk

    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seen.nrrd")))
    for label, segment in enumerate(("right-lung", "left-lung"), 1):
        np.testing.assert_array_equal(seen == label, slicer.util.arrayFromSegmentBinaryLabelmap(lungs, segment, ct) > 0)


def test_the_table_follows_a_stroke(open_panel, ct, child):
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    before, lesions = cell(open_panel, 2, 0), shown(ct).lesions
    painted = slicer.util.arrayFromSegmentBinaryLabelmap(lesions, "consolidation", ct)
    painted[:, :5, :5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, lesions, "consolidation", ct)
    assert cell(open_panel, 2, 0) == before
    open_panel.wait(lambda: cell(open_panel, 2, 0) != before)
    voxel_ml = np.prod(ct.GetSpacing()) / 1000
    assert cell(open_panel, 2, 0) == pytest.approx(painted.sum() * voxel_ml, abs=0.06)


def test_a_saved_scene_comes_back_with_panel_and_result(open_panel, scene, child, tmp_path):
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    open_panel.parameters.device = "cpu"
    open_panel.parameters.lesionOpacity = 0.25
    numbers = [open_panel.measurementsTable.item(row, 0).text() for row in range(5)]
    file = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(file))
    scene.Clear(False)
    assert not open_panel.segmentButton.isEnabled()
    assert open_panel.measurementsTable.columnCount() == 0
    assert scene.ReadFromMRB(str(file))
    QApplication.processEvents()
    assert open_panel.deviceComboBox.currentText() == "Processor"
    assert open_panel.lesionOpacitySlider.property("value") == 0.25
    assert [open_panel.measurementsTable.item(row, 0).text() for row in range(5)] == numbers
    assert open_panel.segmentsTable.rowCount() == 2


def test_an_overlay_lies_over_the_ct_as_strongly_as_the_slider_says(open_panel, scene, ct, child):
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    assert composite.GetForegroundVolumeID() is None
    open_panel.overlayComboBox.setCurrentIndex(1)
    open_panel.overlayComboBox.activated.emit(1)
    open_panel.overlayOpacitySlider.setProperty("value", 0.8)
    assert composite.GetForegroundVolumeID() == shown(ct).anomaly.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)
    open_panel.overlayComboBox.activated.emit(0)
    assert composite.GetForegroundVolumeID() is None


def test_surfaces_are_made_when_they_are_wanted(open_panel, ct, child):
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    lesions = shown(ct).lesions
    assert not lesions.GetSegmentation().ContainsRepresentation("Closed surface")
    QTest.mouseClick(open_panel.surfaceCheckBox, Qt.MouseButton.LeftButton, pos=QPoint(8, 8))
    assert lesions.GetSegmentation().ContainsRepresentation("Closed surface")
    assert lesions.GetDisplayNode().GetVisibility3D()


MARGIN = 3
"""Pixels on either side of a cell's text."""
INTERACTIVE = ("QComboBox", "QPushButton", "QCheckBox", "QTableWidget", "QPlainTextEdit", "qMRMLNodeComboBox",
               "ctkSliderWidget", "ctkPathLineEdit", "qMRMLSegmentsTableView", "ctkCollapsibleButton")  # fmt: skip


def test_every_widget_has_a_tooltip_and_can_be_reached_by_keyboard(panel):
    widgets = [w for w in panel.window.findChildren(QWidget) if type(w).__name__ in INTERACTIVE and w.objectName()]
    named = [w for w in widgets if not w.objectName().startswith("qt_")]
    assert len(named) > 20
    assert [w.objectName() for w in named if not w.toolTip()] == []
    reachable = [
        w for w in named
        if any(c.focusPolicy() & Qt.FocusPolicy.TabFocus for c in [w, *w.findChildren(QWidget)])
    ]  # fmt: skip
    assert reachable == named


def test_no_text_is_cut_at_400_pixels(open_panel, child):
    child(SUCCEED)
    open_panel.click("segmentButton")
    open_panel.wait_for_the_end()
    for button in open_panel.window.findChildren(QWidget):
        if button.isVisible() and type(button).__name__ in ("QPushButton", "QCheckBox", "QLabel", "QComboBox"):
            words = button.property("text") or button.property("currentText") or ""
            if not getattr(button, "wordWrap", lambda: False)():
                assert button.fontMetrics().horizontalAdvance(words) <= button.width(), words
    assert open_panel.window.width() == 400


@pytest.mark.parametrize("state", ["verified", "damaged", "missing"])
def test_no_model_is_cut_at_400_pixels(panel, monkeypatch, state):
    monkeypatch.setattr(store.Stored, "state", state)
    panel.modelsCollapsibleButton.setProperty("collapsed", False)
    QApplication.processEvents()
    table = panel.modelsTable
    assert table.columnWidth(0) + table.columnWidth(1) + table.columnWidth(2) <= table.viewport().width()
    for row in range(table.rowCount()):
        for column in range(3):
            words, room = table.item(row, column).text(), table.visualItemRect(table.item(row, column)).size()
            box = QRect(0, 0, room.width() - 2 * MARGIN, 1000)
            needed = table.fontMetrics().boundingRect(box, Qt.TextFlag.TextWordWrap, words).size()
            assert needed.width() <= box.width(), words
            assert needed.height() <= room.height(), words
    assert panel.window.width() == 400


def test_the_models_are_listed_and_a_file_that_is_none_is_explained(panel, tmp_path):
    panel.modelsCollapsibleButton.setProperty("collapsed", False)
    assert panel.modelsTable.item(0, 1).text() == "verified"
    wrong = tmp_path / "holiday.zip"
    wrong.write_bytes(b"no zip")
    panel.widget.sections[5].install(str(wrong))
    assert "holiday.zip" in panel.modelsStatus.text()
