"""The written results of a CT as nodes of a MRML scene, and what is known of a CT by them.

With `handover`, the way out, all of the library that touches `slicer.vtkMRML*`. It needs no torch: the results were
computed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from LabelFreeCovidSegLib.errors import OutputError
from LabelFreeCovidSegLib.handover import Node, grid_of, ijk_to_ras
from LabelFreeCovidSegLib.quantify import SIDES, Band, Measurements, Region
from LabelFreeCovidSegLib.scan import Grid, bounding_box
from LabelFreeCovidSegLib.terminology import LESIONS, LUNGS, Segment

LESION_FILE, LUNG_FILE = "lesions.nii.gz", "lungs.nii.gz"
ANOMALY_FILE = "anomaly.nii.gz"
VOLUMES = {"anomaly map": ANOMALY_FILE, "healthy": "healthy.nii.gz", "agreement": "agreement.nii.gz"}
"""Role of each volume of a result -> its file; but for the first, only some methods make one."""

# The CT refers to its results by these roles, and each result back to its CT: together with an unchanged name, that is
# how a node is known as ours. A copy is not what the CT refers to, and a renamed node is its user's.
_RESULT_ROLE = "LabelFreeCovidSeg.{}"
_CT_ROLE = "LabelFreeCovidSeg.ct"
_NAME_ATTRIBUTE = "LabelFreeCovidSeg.name"


@dataclass(frozen=True, eq=False)
class Shown:
    """The nodes of one result; the last three only where they were asked for and the method gives them."""

    lesions: Node
    lungs: Node
    anomaly: Node | None = None
    healthy: Node | None = None
    agreement: Node | None = None


def only_ct(scene: Node) -> Node | None:
    """The volume of a scene that may be a CT, no label map and no result; None if there are several."""
    kind = "vtkMRMLScalarVolumeNode"  # which label maps inherit from
    volumes = [node for node in slicer.util.getNodesByClass(kind, scene) if node.GetClassName() == kind]
    cts = [node for node in volumes if node.GetNodeReferenceID(_CT_ROLE) is None]
    return cts[0] if len(cts) == 1 else None


def shown(ct: Node) -> Shown | None:
    """What an earlier call of `show` made of this CT and is still there, in this scene or in the file it came from."""
    lesions, lungs, *volumes = (_result(ct, role) for role in ("lesions", "lungs", *VOLUMES))
    return None if lesions is None or lungs is None else Shown(lesions, lungs, *volumes)


def measure(result: Shown, ct: Node) -> Measurements:
    """Volumes of the segments as they are now; a lesion painted outside of both lungs counts as lung of no side."""
    grid = grid_of(ct)
    lung_parts, lesion_parts = _parts(result.lungs, LUNGS, ct), _parts(result.lesions, LESIONS, ct)
    hull = _hull([part.box for part in (*lung_parts, *lesion_parts)])
    lungs, lesions = _labels(lung_parts, hull), _labels(lesion_parts, hull)
    voxel_ml = grid.voxel_ml
    lung_ml = {label: np.count_nonzero(lungs == label) * voxel_ml for _name, label in SIDES}
    inside = lesions > 0
    pairs = np.bincount(3 * lungs[inside] + lesions[inside], minlength=9).reshape(3, 3) * voxel_ml
    both = Region("both", float(sum(lung_ml.values()) + pairs[0].sum()), *map(float, pairs.sum(axis=0)[1:]))
    sides = (Region(name, float(lung_ml[label]), *map(float, pairs[label, 1:])) for name, label in SIDES)
    return Measurements((both, *sides), Band())


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a volume: the box (k, j, i) that it fills, and its values."""

    box: tuple[slice, ...]
    values: np.ndarray

    @classmethod
    def of(cls, volume: np.ndarray) -> _Part:
        """All that is not zero; one voxel of a volume that is zero throughout."""
        box = bounding_box(volume) if volume.any() else (slice(0, 1),) * 3
        return cls(box, volume[box])


def _parts(node: Node, segments: tuple[Segment, ...], ct: Node) -> list[_Part]:
    """Each segment that `node` has as a part of `ct`, its label (uint8) where it is and 0 elsewhere.

    Slicer's own export takes nearly a second a segment; here the arrays are read where they are, unless an edit has
    given them another geometry than the CT's.
    """
    parts = []
    for segment in segments:
        its = node.GetSegmentation().GetSegment(segment.id)
        if its is None:
            continue
        image = its.GetRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName())
        box = _box(image, ct)
        if box is None:
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment.id, ct) > 0
            box = tuple(slice(0, size) for size in mask.shape)
        elif image.GetNumberOfPoints():
            voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
            mask = voxels == its.GetLabelValue()
        else:
            continue
        parts.append(_Part(box, np.multiply(mask, segment.label, dtype=np.uint8)))
    return parts


def _hull(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box around all of them; empty without any."""
    if not boxes:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in zip(*boxes, strict=True)
    )


def _labels(parts: Sequence[_Part], hull: tuple[slice, ...]) -> np.ndarray:
    """The parts in one array of the hull's size; the later one wins where two overlap."""
    labels = np.zeros([axis.stop - axis.start for axis in hull], np.uint8)
    for part in parts:
        place = tuple(
            slice(own.start - axis.start, own.stop - axis.start) for own, axis in zip(part.box, hull, strict=True)
        )
        np.copyto(labels[place], part.values, where=part.values > 0)
    return labels


def _box(image: Any, ct: Node) -> tuple[slice, ...] | None:
    """Which voxels (k, j, i) of `ct` an oriented image covers, if it lies on them."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ours, its = (slicer.util.arrayFromVTKMatrix(m) for m in (ijk_to_ras(ct), matrix))
    first, last = np.reshape(image.GetExtent(), (3, 2)).T
    inside = (first >= 0).all() and (last < ct.GetImageData().GetDimensions()).all()
    if not inside or not np.allclose(ours, its, rtol=0, atol=1e-4):
        return None
    return tuple(slice(int(start), int(stop) + 1) for start, stop in zip(first[::-1], last[::-1], strict=True))


def show(folder: Path, ct: Node, lesions: Node | None = None, *, anomaly: bool = False, surface: bool = False) -> Shown:
    """Put the results in `folder` into the scene of `ct`, all of them or, after an error, none.

    Lesions and lungs are two nodes, so that painting a lesion never eats lung; the lungs are hidden. Both have the
    geometry of the CT, follow its parent transform and stand under its study. What an earlier call made for this CT is
    updated; what the user renamed or copied is left alone.

    Args:
        folder: where `python -m LabelFreeCovidSegLib segment` wrote.
        lesions: the segmentation node to fill, instead of the CT's own.
        anomaly: show the anomaly map as a volume, too, and if the method made them, the healthy reconstruction and the
            agreement of several methods.
        surface: make the lesions' closed surface, for 3-D views (seconds).

    Raises:
        OutputError: a file is missing, damaged or of another CT, or `ct` has left its scene.
    """
    if ct.GetScene() is None:
        raise OutputError("The CT was removed from the scene, so its result can't be shown. Load it and run again.")
    grid = grid_of(ct)
    # Whatever is wrong with the files comes to light before the first change of the scene.
    lesion_part = _read(folder / LESION_FILE, grid, _label)
    lung_part = _read(folder / LUNG_FILE, grid, _label)
    made = [role for role, file in VOLUMES.items() if file == ANOMALY_FILE or (folder / file).is_file()]
    volumes = {
        role: _read(folder / VOLUMES[role], grid, _hounsfield if role == "healthy" else _percent)
        for role in (made if anomaly else ())
    }

    with _all_or_nothing() as undo:
        lesions = lesions or _own(ct, "lesions") or _add(ct, "vtkMRMLSegmentationNode", "lesions", undo)
        _fill(lesions, ct, LESIONS, lesion_part, undo)
        _adopt(lesions, ct, "lesions", undo)
        lungs = _own(ct, "lungs")
        if lungs is None:
            lungs = _add(ct, "vtkMRMLSegmentationNode", "lungs", undo)
            lungs.GetDisplayNode().SetVisibility(False)
        _fill(lungs, ct, LUNGS, lung_part, undo)
        _adopt(lungs, ct, "lungs", undo)
        nodes = {
            role: _show_volume(part, role, ct, undo, _like(ct) if role == "healthy" else _color)
            for role, part in volumes.items()
        }
        _update_surface(lesions, surface)
        for role in VOLUMES.keys() - nodes.keys():
            _forget(ct, role, undo)
    return Shown(lesions, lungs, *map(nodes.get, VOLUMES))


def _read(path: Path, grid: Grid, form: Callable[[np.ndarray], np.ndarray]) -> _Part:
    """What is not zero of a file's image on `grid`, whose axes may run the other way.

    They do for a left-handed file of which the results were made: Slicer flips its slices when it loads the CT.

    Args:
        form: gives a copy of the values as the scene takes them. Only the lungs have values in most files, so that less
            than a third of the volume has to be gone through.
    """
    import SimpleITK as sitk

    if not path.is_file():
        raise OutputError(f"{path}: this file of the result is missing. Run the segmentation again.")
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines
    try:
        image = sitk.ReadImage(str(path))
        if code(image.GetDirection()) != code(grid.direction):
            image = sitk.DICOMOrient(image, code(grid.direction))
    except RuntimeError as error:
        raise OutputError(f"{path}: this file of the result can't be read. Run the segmentation again.") from error
    if not _same(Grid.of(image), grid):
        raise OutputError(f"{path}: this result lies on another grid than the CT. Choose the CT that it was made of.")
    part = _Part.of(sitk.GetArrayViewFromImage(image))
    return _Part(part.box, form(part.values))


def _label(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8)


def _hounsfield(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int16)


def _percent(values: np.ndarray) -> np.ndarray:
    """A share in whole percent, which takes a quarter of the memory, and a quarter of the time to show."""
    percent = values * np.float32(100)
    return np.rint(percent, out=percent).astype(np.uint8)


def _same(one: Grid, other: Grid) -> bool:
    """Whether all voxel centres coincide to within a twentieth of a voxel (NIfTI rounds to float32)."""
    tolerance_mm = 0.05 * min(other.spacing)
    return one.size == other.size and np.allclose(one.corners, other.corners, rtol=0, atol=tolerance_mm)


@contextmanager
def _all_or_nothing() -> Iterator[ExitStack]:
    """A stack of undo steps, which run in reverse if the block fails and are forgotten if it succeeds."""
    with ExitStack() as undo:
        yield undo
        undo.pop_all()


def _result(ct: Node, role: str) -> Node | None:
    """The node that the CT's last result consists of, whatever its name is by now."""
    node = ct.GetNodeReference(_RESULT_ROLE.format(role))
    return node if node is not None and node.GetNodeReferenceID(_CT_ROLE) == ct.GetID() else None


def _own(ct: Node, role: str) -> Node | None:
    """The node that an earlier run made for this CT, unless the user has made it theirs by renaming it."""
    node = _result(ct, role)
    return node if node is not None and node.GetName() == node.GetAttribute(_NAME_ATTRIBUTE) else None


def _add(ct: Node, class_name: str, role: str, undo: ExitStack) -> Node:
    """A new node with its display, in the scene of `ct`."""
    scene = ct.GetScene()
    node = scene.AddNewNodeByClass(class_name, scene.GenerateUniqueName(f"{ct.GetName()} {role}"))
    undo.callback(scene.RemoveNode, node)
    node.CreateDefaultDisplayNodes()
    undo.callback(scene.RemoveNode, node.GetDisplayNode())
    return node


def _adopt(node: Node, ct: Node, role: str, undo: ExitStack) -> None:
    """Make `node` the CT's own result: referred to, moved with it, and beside it in the subject hierarchy."""
    for holder, reference, target in ((ct, _RESULT_ROLE.format(role), node), (node, _CT_ROLE, ct)):
        undo.callback(holder.SetNodeReferenceID, reference, holder.GetNodeReferenceID(reference))
        holder.SetNodeReferenceID(reference, target.GetID())
    undo.callback(node.SetAttribute, _NAME_ATTRIBUTE, node.GetAttribute(_NAME_ATTRIBUTE))
    node.SetAttribute(_NAME_ATTRIBUTE, node.GetName())
    undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
    node.SetAndObserveTransformNodeID(ct.GetTransformNodeID())

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(ct.GetScene())
    ct_item = hierarchy.GetItemByDataNode(ct)
    study = hierarchy.GetItemParent(ct_item) if ct_item else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if not item:
        item = hierarchy.CreateItem(study, node)
        undo.callback(hierarchy.RemoveItem, item, False)
    undo.callback(hierarchy.SetItemParent, item, hierarchy.GetItemParent(item))
    hierarchy.SetItemParent(item, study)


def _forget(ct: Node, role: str, undo: ExitStack) -> None:
    """Of an earlier run, and no part of this result."""
    reference = _RESULT_ROLE.format(role)
    undo.callback(ct.SetNodeReferenceID, reference, ct.GetNodeReferenceID(reference))
    ct.SetNodeReferenceID(reference, None)


def _fill(node: Node, ct: Node, segments: tuple[Segment, ...], labels: _Part, undo: ExitStack) -> None:
    """Give `node` these segments from a part of the CT that holds labels; segments of other IDs stay."""
    segmentation = node.GetSegmentation()
    before = slicer.vtkSegmentation()
    before.DeepCopy(segmentation)
    undo.callback(segmentation.DeepCopy, before)

    node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    layer = _oriented_image(labels, ct)
    for place, segment in enumerate(segments):
        if segmentation.GetSegment(segment.id) is not None:
            segmentation.RemoveSegment(segment.id)
        segmentation.AddSegment(_vtk_segment(segment, layer), segment.id)
        segmentation.SetSegmentIndex(segment.id, place)


def _oriented_image(labels: _Part, ct: Node) -> Any:
    """A part of the CT that holds labels as a `vtkOrientedImageData`; it grows when somebody paints outside of it."""
    image = slicer.vtkOrientedImageData()
    _allocate(image, labels.box, labels.values.dtype)[:] = labels.values
    image.SetImageToWorldMatrix(ijk_to_ras(ct))
    return image


def _allocate(image: Any, box: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
    """Give a `vtkImageData` the extent `box` (k, j, i) and return its voxels, which hold anything."""
    image.SetExtent([index for axis in reversed(box) for index in (axis.start, axis.stop - 1)])
    image.AllocateScalars(get_vtk_array_type(dtype), 1)
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _vtk_segment(segment: Segment, layer: Any) -> Any:
    """`segment` as a `vtkSegment`: the voxels of `layer` that have its label. The layer is shared, not copied."""
    result = slicer.vtkSegment()
    result.SetName(segment.name)
    result.SetColor(segment.color)
    result.SetTag(result.GetTerminologyEntryTagName(), segment.entry)
    result.SetLabelValue(segment.label)
    result.AddRepresentation(slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName(), layer)
    return result


def _update_surface(node: Node, wanted: bool) -> None:
    """Make the closed surface if it is `wanted`, or anew if there was one."""
    name = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    if node.GetSegmentation().ContainsRepresentation(name):
        node.RemoveClosedSurfaceRepresentation()
        wanted = True
    if wanted:
        node.CreateClosedSurfaceRepresentation()


def _show_volume(part: _Part, role: str, ct: Node, undo: ExitStack, look: Callable[[Node], None]) -> Node:
    """A part of the CT as a volume node on the whole grid, 0 elsewhere.

    Args:
        look: sets its display node up, before there are values: with values, each change looks through them all.
    """
    node = _own(ct, role) or _add(ct, "vtkMRMLScalarVolumeNode", role, undo)
    undo.callback(node.SetAndObserveImageData, node.GetImageData())
    node.SetAndObserveImageData(vtk.vtkImageData())  # a new image: the undo step keeps the old one
    look(node.GetScalarVolumeDisplayNode())
    node.CopyOrientation(ct)
    image = vtk.vtkImageData()
    voxels = _allocate(image, tuple(slice(0, size) for size in grid_of(ct).shape), part.values.dtype)
    voxels[:] = 0
    voxels[part.box] = part.values
    node.SetAndObserveImageData(image)
    _adopt(node, ct, role, undo)
    return node


def _color(display: Node) -> None:
    """Show a share as an overlay: transparent below 5 %, brightest at 100 %."""
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 100.0)
    display.SetThreshold(5.0, 255.0)
    display.SetApplyThreshold(True)


def _like(ct: Node) -> Callable[[Node], None]:
    """Show a volume as the CT is shown."""
    its = ct.GetDisplayNode()
    return lambda display: display.CopyContent(its) if its is not None else None
