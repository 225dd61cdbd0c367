"""nnU-Net v2 as a supervised row: its own package, in an environment of its own, driven as a subprocess.

Isensee, Jaeger, Kohl, Petersen, Maier-Hein: nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation. Nature Methods 18 (2021) 203-211.

It learns from phantoms with their lesions, and from no expert's mask. Here is what it needs to be asked: cases as it
wants them on disk, its three commands, and the way back onto a scan's grid. Its package brings many others along, so it
is never imported; `make nnunet-env` installs it beside.

    python -m LabelFreeCovidSegLib.evaluation.nnunet WORKSPACE [--cases 40] [--device cuda] [--trial]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, OutputError, TrainingError, WeightsError
from LabelFreeCovidSegLib.methods.base import SUPERVISED, Card, Prediction
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.session import Session

if TYPE_CHECKING:
    from LabelFreeCovidSegLib.device import Compute
    from LabelFreeCovidSegLib.evaluation.planted import Known
    from LabelFreeCovidSegLib.lungs import LungMask
    from LabelFreeCovidSegLib.scan import Scan

CARD = Card(
    name="nnunet",
    title="nnU-Net",
    summary="nnU-Net v2, taught with the lesions of phantoms.",
    citation="Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nat Methods 2021;18(2):203-211. doi:10.1038/s41592-020-01008-z",
    networks=("nnunet",),  # never in the model store, so that `evaluate` runs it only when it is asked to
    kind=SUPERVISED,
)

VARIABLE = "LABELFREECOVIDSEG_NNUNET"
"""Environment variable that names the workspace which `evaluate` takes the trained model from."""
NUMBER, DATASET = "501", "Dataset501_PhantomLesions"
CONFIGURATION, FOLD = "3d_fullres", "all"
ENDING = ".nii.gz"
LABELS = {"background": 0, "ground glass": 1, "consolidation": 2}
CASES, FIRST_SEED = 40, 50_000
"""Phantoms to learn from; the sample, and those that others are judged on, have small seeds."""
TRAINERS = Path(__file__).parent / "nnunet_trainers"
"""Trainers that nnU-Net's package does not have."""
LAST_LINES = 8
"""Of the output of a command that failed."""


@dataclass(frozen=True)
class Recipe:
    """What nnU-Net knows one way of training by."""

    trainer: str
    plans: str
    planning: tuple[str, ...] = ()


FULL = Recipe("nnUNetTrainer", "nnUNetPlans")
"""nnU-Net's own."""
TRIAL = Recipe(
    "nnUNetTrainerTrial",
    "nnUNetPlansTrial",
    ("-gpu_memory_target", "1", "-overwrite_plans_name", "nnUNetPlansTrial"),
)
"""A network and patches as for 1 GB instead of 8, and `nnunet_trainers/trial.py`: minutes on a CPU."""


@dataclass(frozen=True)
class Workspace:
    """A folder with the three folders that nnU-Net knows by environment variables, and the logs of its commands.

    Both recipes can have a model in one folder.
    """

    folder: Path
    recipe: Recipe = FULL

    @property
    def variables(self) -> dict[str, str]:
        """What nnU-Net looks for its folders, and for trainers other than its own, by."""
        folders = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")}
        return folders | {"nnUNet_extTrainer": str(TRAINERS)}

    @property
    def dataset(self) -> Path:
        """The cases to learn from, as nnU-Net wants them."""
        return self.folder / "raw" / DATASET

    @property
    def model(self) -> Path:
        """The trained network's file."""
        network = f"{self.recipe.trainer}__{self.recipe.plans}__{CONFIGURATION}"
        return self.folder / "results" / DATASET / network / f"fold_{FOLD}" / "checkpoint_final.pth"


def phantoms(count: int = CASES) -> Iterator[Known]:
    """Chests with lesions: other patients, noise, kernels and slice thicknesses."""
    from LabelFreeCovidSegLib import phantom

    for number in range(count):
        seed = FIRST_SEED + number
        rng = np.random.default_rng(seed)
        thin, shape, mm = ((1, (200, 256, 340), 1.5), (2, (60, 256, 340), 5.0))[number % 2]
        sharp = bool(rng.random() < 0.5)
        yield phantom.make(
            seed, shape, (mm, 1.0, 1.0), noise_hu=float(rng.uniform(15, 45)), sharp=sharp, thin_slices=thin
        )


def write_dataset(workspace: Workspace, cases: Iterable[Known]) -> int:
    """Write the cases to learn from as nnU-Net's raw data, and return how many there are.

    Each has `imagesTr/NAME_0000.nii.gz` (0000 is the first channel, here the only one) and `labelsTr/NAME.nii.gz`;
    `dataset.json` says what channels and labels mean. "CT" makes nnU-Net normalise by the foreground of all cases.

    Raises:
        OutputError: the folder can't be written.
    """
    import SimpleITK as sitk

    images, labels = workspace.dataset / "imagesTr", workspace.dataset / "labelsTr"
    number = 0
    try:
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(cases, 1):
            name = f"case_{number:03d}"
            write_image(case.scan, images / f"{name}_0000{ENDING}")
            sitk.WriteImage(case.scan.native_image(case.lesions), labels / f"{name}{ENDING}")
        description = {
            "channel_names": {"0": "CT"},
            "labels": LABELS,
            "numTraining": number,
            "file_ending": ENDING,
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        (workspace.dataset / "dataset.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{workspace.dataset}: can't be written ({error}). Choose another workspace.") from error
    return number


def write_image(scan: Scan, path: Path) -> None:
    """Write a scan in whole HU on the grid of its own file."""
    import SimpleITK as sitk

    sitk.WriteImage(scan.native_image(np.round(scan.hu).astype(np.int16)), path)


def train(workspace: Workspace, device: str = "cuda", progress: Progress = silent) -> None:
    """Plan, preprocess and train on all cases of the workspace.

    Raises:
        TrainingError: nothing was written to learn from, or the training left no model.
        LabelFreeCovidSegError: as `run`.
    """
    if not (workspace.dataset / "dataset.json").exists():
        raise TrainingError(f"{workspace.dataset}: no cases to learn from. Write them first.")
    recipe = workspace.recipe
    plan = ["-d", NUMBER, "-c", CONFIGURATION, "--verify_dataset_integrity", *recipe.planning]
    run(workspace, "nnUNetv2_plan_and_preprocess", plan, part(progress, 0.0, 0.05))
    fit = [NUMBER, CONFIGURATION, FOLD, "-tr", recipe.trainer, "-p", recipe.plans, "-device", device]
    run(workspace, "nnUNetv2_train", fit, part(progress, 0.05, 1.0))
    if not workspace.model.exists():
        raise TrainingError(f"{workspace.model}: missing, although the training ended well. See the log beside raw/.")


def run(workspace: Workspace, program: str, arguments: Sequence[str], progress: Progress = silent) -> None:
    """Run one of nnU-Net's commands; what it says goes to `PROGRAM.log` in the workspace.

    Raises:
        LabelFreeCovidSegError: the command is not there, or failed; the message has its last lines.
        CancelledError: as `progress` wants it; the command is stopped.
    """
    found = shutil.which(program)
    if found is None:
        raise LabelFreeCovidSegError(
            f"{program} is not on the PATH. Install nnU-Net v2 with `make nnunet-env`, and add .venv-nnunet/bin to it."
        )
    log = workspace.folder / f"{program}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [found, *arguments], env=os.environ | workspace.variables, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        _AT_WORK.add(process)
        try:
            while process.poll() is None:
                progress(0.0, f"Running {program}")
                _wait(process)
        finally:
            _end(process)
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise LabelFreeCovidSegError(
            f"{program} failed with exit code {process.returncode}. {log} has all that it said, which ends with\n"
            + "\n".join(last)
        )


_AT_WORK: set[subprocess.Popen] = set()


def stop() -> None:
    """End the commands that are at work, with all processes that they have started."""
    while _AT_WORK:
        _end(_AT_WORK.pop())


def _end(process: subprocess.Popen) -> None:
    """End a command with all that it has started, which may outlive it."""
    _AT_WORK.discard(process)
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none of them is left
            os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    process.wait()


def _wait(process: subprocess.Popen) -> None:
    """Until it ends, for a second at most."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return


def predict(workspace: Workspace, scan: Scan, device: str, progress: Progress = silent) -> np.ndarray:
    """What the trained model says of a scan: (k, j, i) uint8 on its LPS grid, with the values of `LABELS`.

    Raises:
        OutputError: the model's answer is missing or on another grid. LabelFreeCovidSegError, CancelledError: as `run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "imagesTs", Path(folder) / "found"
        given.mkdir()
        write_image(scan, given / f"scan_0000{ENDING}")
        where = ["-i", str(given), "-o", str(found), "-d", NUMBER, "-c", CONFIGURATION, "-f", FOLD]
        how = ["-tr", workspace.recipe.trainer, "-p", workspace.recipe.plans, "-device", device]
        run(workspace, "nnUNetv2_predict", [*where, *how], progress)
        return read_back(found / f"scan{ENDING}", scan)


def read_back(path: Path, scan: Scan) -> np.ndarray:
    """A predicted segmentation as (k, j, i) uint8 on the LPS grid of the scan that it is of.

    Raises:
        OutputError: it is not there, or lies on another grid.
    """
    import SimpleITK as sitk

    from LabelFreeCovidSegLib.lungs.external import coincide, summary
    from LabelFreeCovidSegLib.scan import Grid

    if not path.exists():
        raise OutputError(f"{path.name}: nnU-Net ended well but left no segmentation. Train the workspace again.")
    image = sitk.ReadImage(path)
    if not coincide(Grid.of(image), scan.native):
        raise OutputError(
            f"{path.name} ({summary(Grid.of(image))}) does not lie on the grid of {scan.name} "
            f"({summary(scan.native)}). nnU-Net must read and write with SimpleITKIO, as its dataset.json says: "
            "train the workspace again."
        )
    return scan.oriented(image).astype(np.uint8)


class NnUNet:
    """A trained nnU-Net in its workspace."""

    card = CARD

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        name = "nnunet, a trial" if workspace.recipe == TRIAL else "nnunet"
        self.weights = f"{name} ({store.sha256(workspace.model.read_bytes())[:8]})"

    def predict(self, scan: Scan, lungs: LungMask, compute: Compute, progress: Progress) -> Prediction:
        """Outline the lesions of one scan. The score is the outline itself."""
        classes = predict(self.workspace, scan, compute.device, progress) * (lungs.labels > 0)
        return Prediction((classes > 0).astype(np.uint8), (classes > 0).astype(np.float32), classes=classes)


def load() -> NnUNet:
    """The model of the workspace that `VARIABLE` names; one of nnU-Net's own recipe before one of a trial.

    Raises:
        WeightsError: it names none, or nothing was trained there.
    """
    named = os.environ.get(VARIABLE)
    if named:
        for recipe in (FULL, TRIAL):
            workspace = Workspace(Path(named).absolute(), recipe)
            if workspace.model.exists():
                return NnUNet(workspace)
    raise WeightsError(
        f"No trained nnU-Net in {named or f'the workspace that {VARIABLE} should name'}. Train one: python -m "
        "LabelFreeCovidSegLib.evaluation.nnunet WORKSPACE (docs/evaluation.md)."
    )


def _refuse_other(workspace: Workspace, cases: int) -> None:
    """Raises `TrainingError` if a workspace holds another number of cases: a trial's are too few for more than that."""
    written = json.loads((workspace.dataset / "dataset.json").read_text(encoding="utf-8"))["numTraining"]
    if written != cases:
        raise TrainingError(
            f"{workspace.dataset}: there are {written} cases, not {cases}. Pass --cases {written} to learn from these, "
            "or choose another workspace."
        )


def main() -> None:
    """Make phantoms in a workspace unless some are there, and train."""
    parser = argparse.ArgumentParser(description="Train nnU-Net v2 on the lesions of phantoms, a supervised row.")
    parser.add_argument("workspace", type=Path, help="folder for cases and model; what is written there is kept")
    parser.add_argument("--cases", type=int, default=CASES, help=f"phantoms to learn from (default: {CASES})")
    parser.add_argument("--device", choices=("cuda", "cpu", "mps"), default="cuda", help="(default: cuda)")
    parser.add_argument("--trial", action="store_true", help="100 batches of small patches, to see that all of it runs")
    arguments = parser.parse_args()
    workspace = Workspace(arguments.workspace.absolute(), TRIAL if arguments.trial else FULL)
    try:
        with Session(Plain()) as session:
            session.when_cancelled(stop)
            if not (workspace.dataset / "dataset.json").exists():
                write_dataset(workspace, phantoms(arguments.cases))
            _refuse_other(workspace, arguments.cases)
            train(workspace, arguments.device)
    except LabelFreeCovidSegError as error:
        sys.exit(str(error))
    print(f"Trained. For `evaluate --methods nnunet`, set {VARIABLE}={workspace.folder}.")


if __name__ == "__main__":
    main()
