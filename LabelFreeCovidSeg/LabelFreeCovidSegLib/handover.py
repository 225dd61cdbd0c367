"""What a child process is given of a MRML scene: a CT and, if the user has chosen some, lungs, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from LabelFreeCovidSegLib.errors import LungError, OutputError, ScanError
from LabelFreeCovidSegLib.lungs.base import lung_labels
from LabelFreeCovidSegLib.scan import Grid

Node = Any
"""A `vtkMRMLNode`; the wrapped classes carry no types."""


def write_volume(ct: Node, path: Path) -> None:
    """Write a volume node as it lies in its own coordinates, a parent transform not applied.

    Args:
        ct: a `vtkMRMLScalarVolumeNode` in Hounsfield units.
        path: a .nrrd file; written uncompressed, because that is ten times faster.

    Raises:
        ScanError: the node holds no image.
        OutputError: the file can't be written.
    """
    import SimpleITK as sitk

    image = grid_of(ct).image(slicer.util.arrayFromVolume(ct))
    try:
        sitk.WriteImage(image, str(path))
    except RuntimeError as error:
        raise OutputError(f"{path}: the CT can't be written there. Make room on that disk and run again.") from error


def write_lungs(segmentation: Node, ct: Node, path: Path) -> None:
    """Write the segments of a node that are lung (`lung_labels`) as one label file on the grid of `ct`.

    What overlaps belongs to the later one.

    Raises:
        LungError: it holds no segment.
        OutputError: the file can't be written.
    """
    import SimpleITK as sitk

    its = segmentation.GetSegmentation()
    segments = its.GetSegmentIDs()
    if not segments:
        raise LungError(f"'{segmentation.GetName()}' holds no segment. Choose the lungs, or let them be found.")
    labels = np.zeros(slicer.util.arrayFromVolume(ct).shape, np.uint16)
    names = [its.GetSegment(segment).GetName() for segment in segments]
    for segment, label in zip(segments, lung_labels(names), strict=True):
        if label:
            labels[slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, ct) > 0] = label
    try:
        sitk.WriteImage(grid_of(ct).image(labels), str(path))
    except RuntimeError as error:
        raise OutputError(f"{path}: the lungs can't be written there. Make room on that disk and run again.") from error


def grid_of(ct: Node) -> Grid:
    """The node's voxel grid in ITK's terms. Raises `ScanError` for a node without an image."""
    image = ct.GetImageData()
    if image is None:
        raise ScanError(f"The volume '{ct.GetName()}' holds no image. Choose a loaded chest CT.")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(ijk_to_ras(ct))
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    direction = to_lps[:3, :3] / spacing
    return Grid(
        tuple(image.GetDimensions()),
        tuple(map(float, spacing)),
        tuple(map(float, to_lps[:3, 3])),
        tuple(map(float, direction.ravel())),
    )


def ijk_to_ras(ct: Node) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(matrix)
    return matrix
