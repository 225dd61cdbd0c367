"""nnU-Net as a row: the folder that it wants, its commands, and the way back. Its own package is not needed."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import (
    CancelledError,
    LabelFreeCovidSegError,
    OutputError,
    TrainingError,
    WeightsError,
)
from LabelFreeCovidSegLib.evaluation import nnunet
from LabelFreeCovidSegLib.evaluation.nnunet import Workspace
from LabelFreeCovidSegLib.lungs import LungMask
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.progress import silent
from LabelFreeCovidSegLib.scan import Scan

SHAPE = (6, 20, 24)
RIGHT, GLASS, SOLID = np.s_[1:5, 4:16, 2:11], np.s_[2:4, 6:10, 4:8], np.s_[1:3, 11:14, 4:8]

PREDICT = """
import sys
from pathlib import Path
import SimpleITK as sitk
given, found = (Path(sys.argv[sys.argv.index(flag) + 1]) for flag in ("-i", "-o"))
found.mkdir()
for path in given.glob("*_0000.nii.gz"):
    hu = sitk.ReadImage(str(path))
    labels = sitk.Cast(hu > -700, sitk.sitkUInt8) + sitk.Cast(hu > -300, sitk.sitkUInt8)
    sitk.WriteImage(labels, str(found / path.name.replace("_0000", "")))
"""
"""Stands in for nnUNetv2_predict: classes by density, one file a case."""
TRAIN = """
import os, sys
from pathlib import Path
trainer, plans = (sys.argv[sys.argv.index(flag) + 1] for flag in ("-tr", "-p"))
network = f"Dataset501_PhantomLesions/{trainer}__{plans}__3d_fullres"
fold = Path(os.environ["nnUNet_results"]) / network / "fold_all"
fold.mkdir(parents=True)
(fold / "checkpoint_final.pth").write_bytes(b"weights")
"""
SAYS = """
import os, sys
from pathlib import Path
with open(Path(os.environ["nnUNet_raw"]).parent / "called", "a") as file:
    print(Path(sys.argv[0]).name, *sys.argv[1:], file=file)
"""


@dataclass(frozen=True)
class Known:
    """A scan with lesions, oblique and stored head first."""

    scan: Scan
    lesions: np.ndarray = field(repr=False)


def known():
    hu = np.full(SHAPE, 40.0, np.float32)
    hu[RIGHT] = -860.4
    lesions = np.zeros(SHAPE, np.uint8)
    for label, (box, density) in enumerate(((GLASS, -500), (SOLID, -20)), 1):
        hu[box], lesions[box] = density, label
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((2.0, 2.5, 5.0))
    image.SetDirection((1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96))
    image.SetOrigin((11.0, -7.0, 300.0))
    scan = Scan.from_image(sitk.DICOMOrient(image, "RAI"), "made up")
    return Known(scan, scan.oriented(sitk.DICOMOrient(_like(lesions, image), "RAI")))


def _like(array, image):
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    return made


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts scripts on the PATH under the names of nnU-Net's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")

    def put(name, code):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)

    return put


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    return Workspace(tmp_path / "work")


@pytest.fixture
def trained(workspace, monkeypatch):
    workspace.model.parent.mkdir(parents=True)
    workspace.model.write_bytes(b"weights")
    monkeypatch.setenv(nnunet.VARIABLE, str(workspace.folder))
    return workspace


def test_the_folder_is_as_nnunet_wants_it(workspace):
    case = known()
    assert nnunet.write_dataset(workspace, [case, case]) == 2
    dataset = workspace.folder / "raw" / "Dataset501_PhantomLesions"
    assert sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*.*")) == [
        "dataset.json",
        "imagesTr/case_001_0000.nii.gz",
        "imagesTr/case_002_0000.nii.gz",
        "labelsTr/case_001.nii.gz",
        "labelsTr/case_002.nii.gz",
    ]
    assert json.loads((dataset / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ground glass": 1, "consolidation": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def test_image_and_labels_lie_on_one_grid_the_files_own(workspace):
    case = known()
    nnunet.write_dataset(workspace, [case])
    image = sitk.ReadImage(str(workspace.dataset / "imagesTr" / "case_001_0000.nii.gz"))
    labels = sitk.ReadImage(str(workspace.dataset / "labelsTr" / "case_001.nii.gz"))
    for one in (image, labels):
        assert one.GetSize() == case.scan.native.size
        np.testing.assert_allclose(one.GetOrigin(), case.scan.native.origin, atol=1e-4)
        np.testing.assert_allclose(one.GetDirection(), case.scan.native.direction, atol=1e-6)
    hu, classes = (sitk.GetArrayFromImage(one) for one in (image, labels))
    assert hu.dtype == np.int16
    assert set(np.unique(hu[classes == 1])) == {-500}
    assert set(np.unique(hu[classes == 2])) == {-20}
    assert -860 in hu


def test_phantoms_that_it_learns_from_are_not_those_that_others_are_judged_on(monkeypatch):
    asked = []
    monkeypatch.setattr("LabelFreeCovidSegLib.phantom.make", lambda *given, **more: asked.append((given, more)))
    list(nnunet.phantoms(4))
    assert [given[0] for given, _ in asked] == [50_000, 50_001, 50_002, 50_003]
    assert {given[2][0] for given, _ in asked} == {1.5, 5.0}
    assert all(shape[0] * spacing[0] == 300 for (_, shape, spacing), _ in asked)


def test_it_is_planned_and_trained_by_its_own_commands(workspace, programs):
    nnunet.write_dataset(workspace, [known()])
    programs("nnUNetv2_plan_and_preprocess", SAYS)
    programs("nnUNetv2_train", SAYS + TRAIN)
    nnunet.train(workspace, "cpu")
    assert (workspace.folder / "called").read_text().splitlines() == [
        "nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity",
        "nnUNetv2_train 501 3d_fullres all -tr nnUNetTrainer -p nnUNetPlans -device cpu",
    ]
    assert workspace.model.read_bytes() == b"weights"


def test_a_trial_has_small_plans_a_short_trainer_and_a_model_of_its_own(workspace, programs, monkeypatch):
    nnunet.write_dataset(workspace, [known()])
    programs("nnUNetv2_plan_and_preprocess", SAYS)
    programs("nnUNetv2_train", SAYS + TRAIN)
    trial = Workspace(workspace.folder, nnunet.TRIAL)
    nnunet.train(trial, "cpu")
    planned, trained = (workspace.folder / "called").read_text().splitlines()
    assert planned.endswith("-gpu_memory_target 1 -overwrite_plans_name nnUNetPlansTrial")
    assert trained.endswith("-tr nnUNetTrainerTrial -p nnUNetPlansTrial -device cpu")
    (searched,) = (Path(value) for name, value in trial.variables.items() if name == "nnUNet_extTrainer")
    assert "class nnUNetTrainerTrial(" in (searched / "trial.py").read_text()
    assert trial.model.exists()
    assert not workspace.model.exists()
    monkeypatch.setenv(nnunet.VARIABLE, str(workspace.folder))
    assert base.load("nnunet").weights.startswith("nnunet, a trial (")
    nnunet.train(workspace, "cpu")
    assert base.load("nnunet").weights.startswith("nnunet (")


def test_without_cases_or_without_a_model_training_says_what_is_missing(workspace, programs):
    with pytest.raises(TrainingError, match="no cases to learn from"):
        nnunet.train(workspace)
    nnunet.write_dataset(workspace, [known()])
    for name in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train"):
        programs(name, SAYS)
    with pytest.raises(TrainingError, match=r"checkpoint_final.pth: missing"):
        nnunet.train(workspace)


def test_a_command_that_fails_is_an_error_with_its_last_lines(workspace, programs):
    programs(
        "nnUNetv2_train", "import sys\nprint('epoch 1')\nprint('CUDA out of memory', file=sys.stderr)\nsys.exit(3)"
    )
    with pytest.raises(LabelFreeCovidSegError, match="nnUNetv2_train failed with exit code 3") as raised:
        nnunet.run(workspace, "nnUNetv2_train", [])
    assert "CUDA out of memory" in str(raised.value)
    assert "nnUNetv2_train.log" in str(raised.value)
    assert "epoch 1" in (workspace.folder / "nnUNetv2_train.log").read_text()


def test_a_command_that_is_not_there_is_an_error_with_the_way_to_it(workspace, programs):
    with pytest.raises(LabelFreeCovidSegError, match=r"not on the PATH\. Install nnU-Net v2 with `make nnunet-env`"):
        nnunet.run(workspace, "nnUNetv2_train", [])


def test_a_command_can_be_cancelled(workspace, programs):
    programs("nnUNetv2_train", "import time\ntime.sleep(600)")

    def stop(fraction, phase):
        raise CancelledError(phase)

    with pytest.raises(CancelledError, match="Running nnUNetv2_train"):
        nnunet.run(workspace, "nnUNetv2_train", [], stop)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_processes_that_a_command_has_started_end_with_it(workspace, programs):
    programs(
        "nnUNetv2_train",
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.path.join(os.environ['nnUNet_raw'], '..', 'child'), 'w').write(str(child.pid))\n"
        "child.wait()",
    )
    (workspace.folder / "raw").mkdir()
    started = workspace.folder / "child"

    def stop(fraction, phase):
        if started.exists() and started.read_text():
            raise CancelledError(phase)

    with pytest.raises(CancelledError):
        nnunet.run(workspace, "nnUNetv2_train", [], stop)
    assert ends(int(started.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_command_leaves_behind_when_it_ends_by_itself_ends_too(workspace, programs):
    programs(
        "nnUNetv2_train",
        "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)",
    )
    nnunet.run(workspace, "nnUNetv2_train", [])
    child = int((workspace.folder / "nnUNetv2_train.log").read_text())
    assert ends(child)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_training_that_is_ended_ends_its_commands(workspace, programs):
    programs("nnUNetv2_plan_and_preprocess", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    nnunet.write_dataset(workspace, [known()])
    starter = subprocess.Popen(
        [sys.executable, "-m", "LabelFreeCovidSegLib.evaluation.nnunet", workspace.folder, "--cases", "1"],
        stderr=subprocess.PIPE,
    )
    log = workspace.folder / "nnUNetv2_plan_and_preprocess.log"
    while not (log.exists() and log.read_text()):
        time.sleep(0.05)
        assert starter.poll() is None, starter.stderr.read()
    starter.terminate()
    starter.communicate(timeout=60)
    assert starter.returncode == 3
    assert ends(int(log.read_text()))


def test_the_cases_of_a_trial_are_not_taken_for_those_of_the_full_recipe(workspace, programs, monkeypatch):
    nnunet.write_dataset(workspace, [known()])
    monkeypatch.setattr(sys, "argv", ["nnunet", str(workspace.folder)])
    with pytest.raises(SystemExit, match=r"there are 1 cases, not 40\. Pass --cases 1"):
        nnunet.main()


def ends(pid):
    """Whether a process is gone soon."""
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def alive(pid):
    """Whether a process is there and no zombie, which has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_scan_is_segmented_on_its_own_grid_within_the_lungs(trained, programs):
    programs("nnUNetv2_predict", SAYS + PREDICT)
    case = known()
    in_lung = case.scan.hu < 0
    method = base.load("nnunet")
    found = method.predict(case.scan, LungMask(in_lung.astype(np.uint8), "given"), Compute("cpu", "float32"), silent)
    np.testing.assert_array_equal(found.classes, case.lesions)
    np.testing.assert_array_equal(found.lesion, case.lesions > 0)
    assert (found.classes.dtype, found.lesion.dtype, found.score.dtype) == (np.uint8, np.uint8, np.float32)
    called = (trained.folder / "called").read_text().split()
    assert " ".join(called[5:]) == "-d 501 -c 3d_fullres -f all -tr nnUNetTrainer -p nnUNetPlans -device cpu"
    assert method.weights == f"nnunet ({hashlib.sha256(b'weights').hexdigest()[:8]})"


def test_a_segmentation_that_is_missing_or_on_another_grid_is_an_error(tmp_path):
    case = known()
    with pytest.raises(OutputError, match="left no segmentation"):
        nnunet.read_back(tmp_path / "scan.nii.gz", case.scan)
    image = case.scan.native_image(case.lesions)
    image.SetOrigin((0.0, 0.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    with pytest.raises(OutputError, match="does not lie on the grid of made up"):
        nnunet.read_back(tmp_path / "scan.nii.gz", case.scan)


def test_without_a_trained_model_the_row_says_how_to_get_one(workspace, monkeypatch):
    monkeypatch.delenv(nnunet.VARIABLE, raising=False)
    with pytest.raises(WeightsError, match=nnunet.VARIABLE):
        base.load("nnunet")
    monkeypatch.setenv(nnunet.VARIABLE, str(workspace.folder))
    with pytest.raises(WeightsError, match="Train one"):
        base.load("nnunet")


def test_it_is_a_supervised_row_that_evaluate_takes_only_when_asked():
    from LabelFreeCovidSegLib.evaluation import command

    assert base.card("nnunet").kind == base.SUPERVISED
    assert {"normnet", "threshold"} <= set(command.ready())
    assert "nnunet" not in command.ready()
