"""What the tests of files and of DICOM folders share: a small chest, and what reading or refusing it must come to."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.read import read


def chest(slices: int = 20, dtype: type = np.int16) -> np.ndarray:
    """(slices, 48, 64) HU: air, a soft body, two lungs, and a voxel that tells the slices apart."""
    hu = np.full((slices, 48, 64), -1000, dtype)
    hu[:, 6:42, 8:56] = 40
    hu[:, 12:36, 12:28] = hu[:, 12:36, 36:52] = -850
    hu[:, 7, 9] = 100 + np.arange(slices)
    return hu


def assert_is(scan, image: sitk.Image) -> None:
    """The scan is that image, value by value and place by place."""
    again = scan.native_image(scan.hu)
    assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    assert again.GetSpacing() == pytest.approx(image.GetSpacing())
    assert again.GetOrigin() == pytest.approx(image.GetOrigin())
    assert again.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)


def assert_refused(path: Path, *words: str) -> str:
    """Read `path`; it must be refused with a message that holds its name and all `words`, and leave no file behind."""
    parent = path.parent
    before = {file: file.lstat().st_mtime_ns for file in parent.rglob("*")}
    with pytest.raises(ScanError) as caught:
        read(path)
    message = str(caught.value)
    for word in (path.name, *words):
        assert word in message
    assert not re.search("ITK|Exception|0x[0-9a-f]{6}", message)
    assert {file: file.lstat().st_mtime_ns for file in parent.rglob("*")} == before
    return message
