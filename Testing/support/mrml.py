"""Fixtures of the tests with MRML: a real scene from slicer-core, results made with SimpleITK for CTs that lie
awkwardly in the world, and a stand-in for the program that computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

# Lesions and lungs of the made patient are balls in the world: (centre in LPS millimetres, radius in millimetres).
CENTRE = np.array([11.0, -37.0, 820.0])
BALLS = {
    "ground-glass-opacity": (np.add(CENTRE, [-6.0, 1.0, 2.0]), 5.0),
    "consolidation": (np.add(CENTRE, [7.0, -2.0, -3.0]), 4.0),
    "right-lung": (np.add(CENTRE, [-8.0, 0.0, 0.0]), 8.0),
    "left-lung": (np.add(CENTRE, [9.0, 0.0, 0.0]), 8.0),
}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Any]:
    """An empty scene with the logics that `slicer.util` and scene files use."""
    with open_scene(tmp_path) as opened:
        yield opened


@contextmanager
def open_scene(folder: Path) -> Iterator[Any]:
    """An empty scene with the logics that `slicer.util` and scene files use; `folder` is for its temporary files."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetTemporaryPath(str(folder))
    application.GetColorLogic().SetMRMLScene(scene)
    application.GetColorLogic().AddDefaultColorNodes()
    logics = {}
    for name, logic in (
        ("Volumes", slicer.vtkSlicerVolumesLogic()),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
    ):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        logics[name] = logic
    # Scene bundles are unpacked in the cache folder, which is emptied at will: never a shared one.
    (folder / "cache").mkdir()
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(folder / "cache"))
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLApplicationLogic(application)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    application.SetMRMLSceneDataIO(scene, remote, manager)
    slicer.mrmlScene = scene
    slicer.modules = SimpleNamespace(
        volumes=SimpleNamespace(logic=lambda: logics["Volumes"]),
        segmentations=SimpleNamespace(logic=lambda: logics["Segmentations"]),
    )
    yield scene
    scene.Clear(True)
    del slicer.mrmlScene, slicer.modules


@dataclass(frozen=True)
class Patient:
    """A CT file, the truth about it, and the way to load it and to make its results."""

    file: Path

    def load(self) -> Any:
        """The CT as Slicer's own reader loads it; it flips the slices of a left-handed file."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
        storage.SetFileName(str(self.file))
        assert storage.ReadData(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        return node

    def centres(self, name: str) -> np.ndarray:
        """LPS positions (n, 3) of the voxels of the file that belong to a ball, sorted."""
        image = sitk.ReadImage(str(self.file))
        return _sorted(_positions(image)[_ball(image, name).ravel()])


def results(ct_file: Path, folder: Path) -> Path:
    """What the child process leaves for the CT in `ct_file`."""
    image = sitk.ReadImage(str(ct_file))
    folder.mkdir(exist_ok=True)
    for file, names in (
        ("lesions.nii.gz", ("ground-glass-opacity", "consolidation")),
        ("lungs.nii.gz", ("right-lung", "left-lung")),
    ):
        labels = sum(label * _ball(image, name) for label, name in enumerate(names, start=1))
        _write(labels.astype(np.uint8), image, folder / file)
    score = np.where(_ball(image, "consolidation"), 0.9, 0.1).astype(np.float32)
    _write(score, image, folder / "anomaly.nii.gz")
    return folder


def _write(array: np.ndarray, like: sitk.Image, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))


def _positions(image: sitk.Image) -> np.ndarray:
    index = np.indices(image.GetSize()[::-1]).reshape(3, -1)[::-1]
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    return (axes @ index).T + image.GetOrigin()


def _ball(image: sitk.Image, name: str) -> np.ndarray:
    centre, radius = BALLS[name]
    inside = np.linalg.norm(_positions(image) - centre, axis=1) <= radius
    return inside.reshape(image.GetSize()[::-1])


def _sorted(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 2).T)]


def _rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    euler = sitk.Euler3DTransform()
    euler.SetRotation(*np.radians(degrees))
    return np.array(euler.GetMatrix()).reshape(3, 3)


AXIAL = np.eye(3)
LEFT_HANDED = np.diag([1.0, 1.0, -1.0])
SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
OBLIQUE = _rotation((11.0, -7.0, 19.0))
DIRECTIONS = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "left-handed": LEFT_HANDED,
    "oblique": OBLIQUE,
    "oblique and left-handed": OBLIQUE @ LEFT_HANDED,
    "oblique, sagittal and left-handed": OBLIQUE @ SAGITTAL @ LEFT_HANDED,
}


def make_patient(folder: Path, direction: np.ndarray) -> Patient:
    """A small anisotropic CT around `CENTRE` with these axes."""
    size, spacing = np.array([44, 37, 18]), np.array([0.9, 1.1, 2.5])
    rng = np.random.default_rng(5)
    image = sitk.GetImageFromArray(rng.integers(-1000, 100, size[::-1]).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel())
    image.SetOrigin(CENTRE - direction @ (spacing * (size - 1) / 2))
    file = folder / "ct.nrrd"
    sitk.WriteImage(image, str(file))
    return Patient(file)


@pytest.fixture(params=DIRECTIONS)
def any_patient(request: pytest.FixtureRequest, tmp_path: Path) -> Patient:
    """Each way a CT may lie in turn."""
    return make_patient(tmp_path, DIRECTIONS[request.param])


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """An oblique, anisotropic, left-handed CT."""
    return make_patient(tmp_path, OBLIQUE @ LEFT_HANDED)


@pytest.fixture
def make_results() -> Callable[[Path, Path], Path]:
    """`results`, for test files, which can't import this one."""
    return results


@pytest.fixture
def centres() -> Callable[[Any, str], np.ndarray]:
    """World positions (LPS, transforms applied) of a segment's voxels, sorted."""

    def read(node: Any, segment_id: str) -> np.ndarray:
        image = slicer.vtkOrientedImageData()
        assert node.GetBinaryLabelmapRepresentation(segment_id, image)
        dimensions = image.GetDimensions()
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        index = np.argwhere(values.reshape(dimensions[::-1]))[:, ::-1] + np.array(image.GetExtent())[::2]
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        to_world = slicer.util.arrayFromVTKMatrix(matrix)
        parent = vtk.vtkMatrix4x4()
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, parent)
        to_world = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(parent) @ to_world
        return _sorted(index @ to_world[:3, :3].T + to_world[:3, 3])

    return read


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private temporary folders are made during the test; empty if all of them were removed."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a stand-in script compute instead of the program: it has `ct`, `out` and `say`, and can import this file.

    Of a batch `ct` is the folder of scans.
    """

    def use(code: str) -> None:
        script = tmp_path / "stand_in.py"
        script.write_text(
            "import json, os, signal, sys, threading\n"
            "from pathlib import Path\n"
            f"sys.path.append({str(Path(__file__).parent)!r})\n"
            "def say(**message): print(json.dumps(message), flush=True)\n"
            "ct, out = map(Path, sys.argv[1:])\n" + code
        )
        for name in ("segment_arguments", "batch_arguments"):
            monkeypatch.setattr(
                f"LabelFreeCovidSegLib.panel.job.{name}",
                lambda ct, out, method, device, lungs=None: [str(script), str(ct), str(out)],
            )

    return use
