"""The whole way with the program itself and the weights that ship: a CT node in, segments in the scene."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.scene import shown
from PySide6.QtCore import QTimer

# Oblique and, through its third column, left-handed.
DIRECTION = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, -1.0]])


def load(image: sitk.Image, path: Path, class_name: str) -> Any:
    """A volume node of `image`, turned, as Slicer loads it from a file."""
    turned = sitk.Flip(image, (False, False, True))
    turned.SetDirection(DIRECTION.ravel())
    turned.SetOrigin(image.TransformIndexToPhysicalPoint((0, 0, image.GetSize()[2] - 1)))
    sitk.WriteImage(turned, str(path))
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, path.stem)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def test_the_phantoms_lesions_are_outlined_in_the_scene(module, scene, tmp_path, temporary):
    patient = phantom.make(shape=(100, 128, 170), spacing_mm=(3.0, 2.0, 2.0))
    ct = load(patient.image(), tmp_path / "ct.nrrd", "vtkMRMLScalarVolumeNode")
    truth = load(patient.scan.native_image(patient.lesions), tmp_path / "truth.nrrd", "vtkMRMLLabelMapVolumeNode")

    lesions = module.LabelFreeCovidSegLogic().process(ct, device="cpu")

    found = np.maximum(
        *(
            slicer.util.arrayFromSegmentBinaryLabelmap(lesions, segment_id, ct)
            for segment_id in ("ground-glass-opacity", "consolidation")
        )
    )
    planted = slicer.util.arrayFromVolume(truth) > 0
    dice = 2 * np.count_nonzero(found[planted]) / (np.count_nonzero(found) + np.count_nonzero(planted))
    assert dice >= 0.5
    assert not list(temporary.iterdir())


def test_a_sample_of_the_sample_data_module_is_a_ct_in_the_scene(module, scene, monkeypatch):
    from LabelFreeCovidSegLib.panel import sample  # which can be imported now that there is an application

    def load_volume(path: str, properties: dict[str, str]) -> Any:  # Slicer's own needs its application
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", properties["name"])
        storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(path)
        assert storage.ReadData(node)
        return node

    monkeypatch.setattr(slicer.util, "loadVolume", load_volume, raising=False)
    monkeypatch.setattr(sample.install, "ensure", lambda tell: True)
    monkeypatch.setattr(slicer.util, "showStatusMessage", print, raising=False)
    node = sample.make("ChestWithoutLesions")
    assert node.GetName() == "ChestWithoutLesions"
    hu = slicer.util.arrayFromVolume(node)
    assert np.isclose(hu, -850, atol=100).mean() > 0.05  # lung
    assert np.isclose(hu, 40, atol=60).mean() > 0.1


def test_a_first_use(panel, scene, tmp_path, temporary):
    patient = phantom.make(shape=(100, 128, 170), spacing_mm=(3.0, 2.0, 2.0))
    ct = load(patient.image(), tmp_path / "ct.nrrd", "vtkMRMLScalarVolumeNode")
    panel.widget.enter()
    panel.deviceComboBox.activated.emit(1)

    phases, beats = [], []
    heart = QTimer()
    heart.timeout.connect(lambda: (beats.append(1), phases.append(panel.statusLabel.text().partition(",")[0])))
    heart.start(20)
    panel.click("segmentButton")
    panel.wait_for_the_end()
    heart.stop()
    assert {"Reading the scan", "Finding the lungs", "Finding lesions", "Measuring"} <= set(phases)
    assert len(beats) > 50  # other events had their turn all the time

    out = tmp_path / "out"
    command = [sys.executable, "-m", "LabelFreeCovidSegLib", "segment", str(tmp_path / "ct.nrrd"), "-o", str(out)]
    subprocess.run([*command, "--device", "cpu"], check=True, capture_output=True)
    written = load_labels(out / "lesions.nii.gz")
    result = shown(ct)
    for label, segment in enumerate(("ground-glass-opacity", "consolidation"), 1):
        mine = slicer.util.arrayFromSegmentBinaryLabelmap(result.lesions, segment, ct)
        np.testing.assert_array_equal(mine > 0, slicer.util.arrayFromVolume(written) == label)

    before = panel.measurementsTable.item(1, 0).text()
    painted = slicer.util.arrayFromSegmentBinaryLabelmap(result.lesions, "ground-glass-opacity", ct)
    painted[40:60, 40:60, 40:60] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, result.lesions, "ground-glass-opacity", ct)
    panel.wait(lambda: panel.measurementsTable.item(1, 0).text() != before)
    numbers = [panel.measurementsTable.item(row, column).text() for row in range(5) for column in range(3)]

    file = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(file), None)
    scene.Clear(False)
    assert scene.ReadFromMRB(str(file), True)
    assert panel.deviceComboBox.currentText() == "Processor"
    assert numbers == [panel.measurementsTable.item(row, column).text() for row in range(5) for column in range(3)]
    assert panel.segmentsTable.rowCount() == 2
    assert not list(temporary.iterdir())


def test_a_batch_tells_how_far_it_is_which_scan_failed_and_what_is_done(panel, tmp_path, temporary):
    scans, out = tmp_path / "scans", tmp_path / "results"
    scans.mkdir()
    patient = phantom.make(shape=(100, 128, 170), spacing_mm=(3.0, 2.0, 2.0))
    sitk.WriteImage(patient.image(), str(scans / "good.nii.gz"))
    (scans / "torn.nii.gz").write_bytes((scans / "good.nii.gz").read_bytes()[:9000])
    panel.widget.enter()
    assert not panel.batchButton.isEnabled()
    panel.parameters.batchInput, panel.parameters.batchOutput = scans, out
    panel.wait(panel.batchButton.isEnabled)

    told = []
    watch = QTimer()
    watch.timeout.connect(lambda: told.append(panel.batchStatusLabel.text()))
    watch.start(20)
    panel.click("batchButton")
    assert panel.batchButton.text() == "Cancel batch"
    assert panel.batchProgressBar.isVisibleTo(panel.batchCollapsibleButton)
    assert not panel.segmentButton.isEnabled()
    panel.wait(lambda: not panel.widget.logic.isBusy())
    watch.stop()
    assert any(message.startswith("Scan 1 of 2: Finding lesions") for message in told)
    assert "1 of 2 scans failed. The first, torn.nii.gz" in panel.batchStatusLabel.text()
    assert panel.batchButton.text() == "Segment all"
    assert (out / "good.nii.gz" / "lesions.nii.gz").is_file()
    assert [line.split(",")[:2] for line in (out / "batch.csv").read_text().splitlines()[1:]] == [
        ["good.nii.gz", "done"],
        ["torn.nii.gz", "failed"],
    ]
    assert not list(temporary.iterdir())


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Callable[[int], None]]:
    """Gives the folder for private temporary folders a file system of so many bytes."""
    mounted = []

    def mount(size: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(temporary)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can be mounted by root on Linux alone")
        mounted.append(temporary)

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the disk of `folder`, with a file in `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


@pytest.mark.parametrize(
    ("megabytes", "message"),
    [
        (1, "the CT can't be written there. Make room"),
        (30, "results may need 200 MB"),
        (260, "Free some space"),
    ],
    ids=["no room for the CT", "no room for results", "filled up by others meanwhile"],
)
def test_a_full_disk_ends_in_one_message_and_leaves_nothing(
    panel, scene, tmp_path, temporary, small_disk, megabytes, message
):
    patient = phantom.make(shape=(100, 128, 170), spacing_mm=(3.0, 2.0, 2.0))
    load(patient.image(), tmp_path / "ct.nrrd", "vtkMRMLScalarVolumeNode")
    nodes = scene.GetNumberOfNodes()
    small_disk(megabytes << 20)
    panel.widget.enter()
    panel.click("segmentButton")
    if megabytes == 260:
        panel.wait(lambda: panel.statusLabel.text().startswith("Finding lesions"))
        fill(temporary)
    panel.wait_for_the_end()
    assert message in panel.statusLabel.text()
    assert panel.segmentButton.isEnabled()
    assert scene.GetNumberOfNodes() == nodes
    assert {path.name for path in temporary.iterdir()} <= {"filler"}


def load_labels(path: Path) -> Any:
    """A label file as Slicer's own reader loads it, so that its slices lie as the CT's do."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "written")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node
