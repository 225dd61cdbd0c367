"""The whole way with the program itself: a CT node in, lesions found by the shipped weights, segments in the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from LabelFreeCovidSegLib import phantom

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
