"""Results in a real MRML scene: in the right place, under the right names, and nobody's work overwritten."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from LabelFreeCovidSegLib import handover, terminology
from LabelFreeCovidSegLib import scene as bridge
from LabelFreeCovidSegLib.errors import OutputError

IDS = ("ground-glass-opacity", "consolidation", "right-lung", "left-lung")


@pytest.fixture
def folder(ct, tmp_path, make_results):
    """Results made from the CT as the bridge handed it over."""
    handover.write_volume(ct, tmp_path / "handed-over.nrrd")
    return make_results(tmp_path / "handed-over.nrrd", tmp_path / "results")


def snapshot(scene) -> str:
    """Everything a scene file would say about the scene."""
    scene.SetSaveToXMLString(1)
    scene.Commit()
    scene.SetSaveToXMLString(0)
    return scene.GetSceneXMLString()


def voxels(node, segment_id, ct) -> np.ndarray:
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, ct)


def test_every_voxel_of_every_segment_lies_on_the_truth_however_the_ct_lies(
    scene, any_patient, tmp_path, make_results, centres
):
    ct = any_patient.load()
    handover.write_volume(ct, tmp_path / "handed-over.nrrd")
    shown = bridge.show(make_results(tmp_path / "handed-over.nrrd", tmp_path / "results"), ct)
    for segment_id in IDS:
        node = shown.lungs if "lung" in segment_id else shown.lesions
        np.testing.assert_allclose(centres(node, segment_id), any_patient.centres(segment_id), atol=1e-3)


def test_results_of_the_file_itself_fit_the_ct_that_slicer_flipped_while_loading(
    scene, patient, tmp_path, make_results, centres
):
    ct = patient.load()
    shown = bridge.show(make_results(patient.file, tmp_path / "results"), ct)
    for segment_id in ("ground-glass-opacity", "consolidation"):
        np.testing.assert_allclose(centres(shown.lesions, segment_id), patient.centres(segment_id), atol=1e-3)


def test_segments_have_names_colours_and_codes_and_the_lungs_are_hidden(ct, folder):
    shown = bridge.show(folder, ct)
    for node, expected in ((shown.lesions, terminology.LESIONS), (shown.lungs, terminology.LUNGS)):
        segmentation = node.GetSegmentation()
        assert list(segmentation.GetSegmentIDs()) == [segment.id for segment in expected]
        for want in expected:
            segment = segmentation.GetSegment(want.id)
            assert segment.GetName() == want.name
            assert segment.GetColor() == pytest.approx(want.color)
            entry = vtk.reference("")
            assert segment.GetTag("TerminologyEntry", entry)
            assert entry == want.entry
        assert node.GetNodeReference("referenceImageGeometryRef") is ct
    assert shown.lesions.GetDisplayNode().GetVisibility()
    assert not shown.lungs.GetDisplayNode().GetVisibility()


def test_results_stand_under_the_study_of_the_ct(scene, ct, folder):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient_item = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Somebody")
    study = hierarchy.CreateStudyItem(patient_item, "Chest")
    hierarchy.CreateItem(study, ct)
    shown = bridge.show(folder, ct, anomaly=True)
    for node in (shown.lesions, shown.lungs, shown.anomaly):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_results_move_with_a_ct_that_was_sorted_into_another_study(scene, ct, folder):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    shown = bridge.show(folder, ct)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Follow-up")
    hierarchy.CreateItem(study, ct)
    bridge.show(folder, ct)
    for node in (shown.lesions, shown.lungs):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_ct_outside_the_subject_hierarchy_is_served_too(scene, ct, folder):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert not hierarchy.GetItemByDataNode(ct)
    shown = bridge.show(folder, ct)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(shown.lesions)) == hierarchy.GetSceneItemID()


def test_results_follow_a_ct_that_was_moved_by_a_transform(scene, ct, tmp_path, make_results, patient, centres):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    matrix = vtk.vtkMatrix4x4()
    slicer.util.updateVTKMatrixFromArray(
        matrix, np.array([[0.0, -1.0, 0.0, 30.0], [1.0, 0.0, 0.0, -4.0], [0.0, 0.0, 1.0, 11.0], [0.0, 0.0, 0.0, 1.0]])
    )
    transform.SetMatrixTransformToParent(matrix)
    ct.SetAndObserveTransformNodeID(transform.GetID())
    handover.write_volume(ct, tmp_path / "handed-over.nrrd")
    shown = bridge.show(make_results(tmp_path / "handed-over.nrrd", tmp_path / "results"), ct, anomaly=True)

    # By hand: RAS (r, a, s) -> (-a + 30, r - 4, s + 11), so LPS (l, p, s) -> (-p - 30, l + 4, s + 11).
    left, posterior, superior = patient.centres("consolidation").T
    moved = np.stack([-posterior - 30, left + 4, superior + 11], axis=1)
    found = centres(shown.lesions, "consolidation")
    order = np.lexsort(np.round(moved, 2).T)
    np.testing.assert_allclose(found, moved[order], atol=1e-3)
    assert shown.lungs.GetParentTransformNode() is transform
    assert shown.anomaly.GetParentTransformNode() is transform

    ct.SetAndObserveTransformNodeID(None)
    assert bridge.show(tmp_path / "results", ct).lesions.GetParentTransformNode() is None


def test_the_anomaly_map_lies_on_the_ct_and_is_transparent_where_nothing_is(ct, folder):
    assert bridge.show(folder, ct).anomaly is None
    node = bridge.show(folder, ct, anomaly=True).anomaly
    np.testing.assert_array_equal(_ijk_to_ras(node), _ijk_to_ras(ct))
    consolidation = voxels(bridge.show(folder, ct).lesions, "consolidation", ct) > 0
    score = slicer.util.arrayFromVolume(node)
    assert score.dtype == np.uint8
    np.testing.assert_array_equal(score > 50, consolidation)
    display = node.GetScalarVolumeDisplayNode()
    assert display.GetWindowLevelMin() == 0
    assert display.GetWindowLevelMax() == 100
    assert display.GetApplyThreshold()
    assert 0 < display.GetLowerThreshold() < 10
    assert display.GetColorNode().GetName() == "Iron"


def _ijk_to_ras(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def test_a_surface_is_made_on_request_and_made_anew_by_the_next_run(ct, folder, tmp_path, make_results):
    def points(node) -> int:
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation("consolidation", surface)
        return surface.GetNumberOfPoints()

    lesions = bridge.show(folder, ct).lesions
    assert not lesions.GetSegmentation().ContainsRepresentation("Closed surface")
    bridge.show(folder, ct, surface=True)
    assert points(lesions) > 0
    _change(folder / "lesions.nii.gz", np.zeros_like)
    bridge.show(folder, ct)
    assert points(lesions) == 0


def _change(file, change) -> None:
    """Replace the array of an image file by `change(array)`."""
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))


def test_painting_a_lesion_leaves_the_lung_as_it_was(ct, folder):
    shown = bridge.show(folder, ct)
    before = {segment_id: voxels(shown.lungs, segment_id, ct).copy() for segment_id in ("right-lung", "left-lung")}
    painted = voxels(shown.lesions, "consolidation", ct) | before["left-lung"]
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, shown.lesions, "consolidation", ct)
    np.testing.assert_array_equal(voxels(shown.lesions, "consolidation", ct), painted)
    for segment_id, lung in before.items():
        assert lung.any()
        np.testing.assert_array_equal(voxels(shown.lungs, segment_id, ct), lung)


def test_the_segment_editor_paints_one_class_over_the_other_and_leaves_the_lungs(scene, ct, folder):
    shown = bridge.show(folder, ct)
    lung = voxels(shown.lungs, "right-lung", ct).copy()
    ground_glass = voxels(shown.lesions, "ground-glass-opacity", ct).copy()
    assert (ground_glass & lung).any()
    editor = slicer.vtkSlicerSegmentEditorLogic()
    editor.SetMRMLScene(scene)
    editor.SetSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.SetSegmentationNode(shown.lesions)
    editor.SetSourceVolumeNode(ct)
    stroke = slicer.vtkOrientedImageData()
    shown.lesions.GetBinaryLabelmapRepresentation("ground-glass-opacity", stroke)
    editor.ModifySegmentByLabelmap(shown.lesions, "consolidation", stroke, editor.ModificationModeAdd, False, False)
    assert not voxels(shown.lesions, "ground-glass-opacity", ct).any()
    assert voxels(shown.lesions, "consolidation", ct)[ground_glass > 0].all()
    np.testing.assert_array_equal(voxels(shown.lungs, "right-lung", ct), lung)


def test_lesions_can_be_painted_where_none_were_found(scene, ct, folder):
    _change(folder / "lesions.nii.gz", np.zeros_like)
    shown = bridge.show(folder, ct)
    assert not bridge.measure(shown, ct).regions[0].lesion_ml
    stroke = slicer.vtkOrientedImageData()
    shown.lungs.GetBinaryLabelmapRepresentation("right-lung", stroke)
    editor = slicer.vtkSlicerSegmentEditorLogic()
    editor.SetMRMLScene(scene)
    editor.SetSegmentEditorNode(scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.SetSegmentationNode(shown.lesions)
    editor.SetSourceVolumeNode(ct)
    editor.ModifySegmentByLabelmap(shown.lesions, "consolidation", stroke, editor.ModificationModeAdd, False, False)
    np.testing.assert_array_equal(voxels(shown.lesions, "consolidation", ct), voxels(shown.lungs, "right-lung", ct))
    right = bridge.measure(shown, ct).regions[1]
    assert right.consolidation_ml == right.lung_ml > 0


def test_segments_take_no_more_room_than_they_need(ct, folder):
    shown = bridge.show(folder, ct)
    for node, ids in ((shown.lesions, IDS[:2]), (shown.lungs, IDS[2:])):
        where = np.argwhere(sum(voxels(node, segment_id, ct) for segment_id in ids))[:, ::-1]
        image = slicer.vtkOrientedImageData()
        assert node.GetBinaryLabelmapRepresentation(ids[0], image)
        extent = np.reshape(image.GetExtent(), (3, 2))
        assert (extent[:, 0] <= where.min(axis=0)).all()
        assert (extent[:, 1] >= where.max(axis=0)).all()
        assert image.GetNumberOfPoints() < ct.GetImageData().GetNumberOfPoints() / 2


def test_running_again_updates_the_nodes_of_the_first_run(scene, ct, folder):
    first = bridge.show(folder, ct, anomaly=True)
    ground_glass = voxels(first.lesions, "ground-glass-opacity", ct).copy()
    count = scene.GetNumberOfNodes()
    _change(folder / "lesions.nii.gz", lambda labels: np.where(labels == 1, 2, 0).astype(np.uint8))
    again = bridge.show(folder, ct, anomaly=True)
    assert (again.lesions, again.lungs, again.anomaly) == (first.lesions, first.lungs, first.anomaly)
    assert scene.GetNumberOfNodes() == count
    assert not voxels(again.lesions, "ground-glass-opacity", ct).any()
    np.testing.assert_array_equal(voxels(again.lesions, "consolidation", ct), ground_glass)


def test_a_segment_that_the_user_added_survives_the_next_run(ct, folder):
    lesions = bridge.show(folder, ct).lesions
    nodule = voxels(lesions, "consolidation", ct).copy()
    lesions.GetSegmentation().AddEmptySegment("nodule", "Nodule")
    slicer.util.updateSegmentBinaryLabelmapFromArray(nodule, lesions, "nodule", ct)
    lesions.GetSegmentation().CollapseBinaryLabelmaps(False)
    bridge.show(folder, ct)
    np.testing.assert_array_equal(voxels(lesions, "nodule", ct), nodule)
    assert list(lesions.GetSegmentation().GetSegmentIDs())[-1] == "nodule"


def test_what_the_user_renamed_is_never_overwritten(ct, folder):
    first = bridge.show(folder, ct).lesions
    first.SetName("Corrected by me")
    mine = voxels(first, "consolidation", ct).copy()
    _change(folder / "lesions.nii.gz", np.zeros_like)
    second = bridge.show(folder, ct).lesions
    assert second is not first
    assert mine.any()
    np.testing.assert_array_equal(voxels(first, "consolidation", ct), mine)
    assert bridge.show(folder, ct).lesions is second


@pytest.mark.parametrize("name", ["CT lesions Copy", "CT lesions"])
def test_a_copy_that_the_user_made_is_never_overwritten(scene, ct, folder, name):
    first = bridge.show(folder, ct).lesions
    copy = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    copy.Copy(first)
    copy.SetName(name)
    mine = voxels(copy, "consolidation", ct).copy()
    _change(folder / "lesions.nii.gz", np.zeros_like)
    assert bridge.show(folder, ct).lesions is first
    assert mine.any()
    np.testing.assert_array_equal(voxels(copy, "consolidation", ct), mine)


def test_a_copied_ct_gets_results_of_its_own(scene, ct, folder):
    first = bridge.show(folder, ct)
    twin = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    twin.Copy(ct)
    second = bridge.show(folder, twin)
    assert second.lesions is not first.lesions
    assert bridge.show(folder, ct).lesions is first.lesions


def test_a_node_that_the_caller_names_is_filled(scene, ct, folder):
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "For the study")
    shown = bridge.show(folder, ct, mine)
    assert shown.lesions is mine
    assert mine.GetName() == "For the study"
    assert voxels(mine, "consolidation", ct).any()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "lungs.nii.gz: this file of the result is missing"),
        (lambda file: file.write_bytes(b"nothing"), "lungs.nii.gz: this file of the result can't be read"),
        (lambda file: sitk.WriteImage(sitk.Image(9, 9, 9, sitk.sitkUInt8), str(file)), "on another grid than the CT"),
    ],
    ids=["missing", "damaged", "of another CT"],
)
@pytest.mark.parametrize("earlier_run", [False, True])
def test_a_result_with_a_bad_file_leaves_the_scene_as_it_was(scene, ct, folder, damage, message, earlier_run):
    if earlier_run:
        bridge.show(folder, ct)
    damage(folder / "lungs.nii.gz")
    before = snapshot(scene)
    with pytest.raises(OutputError, match=message):
        bridge.show(folder, ct)
    assert snapshot(scene) == before


@pytest.mark.parametrize("earlier_run", [False, True])
def test_an_error_in_the_middle_leaves_the_scene_as_it_was(scene, ct, folder, earlier_run, monkeypatch):
    if earlier_run:
        earlier = bridge.show(folder, ct, anomaly=True)
        mine = voxels(earlier.lesions, "consolidation", ct).copy()
        score = slicer.util.arrayFromVolume(earlier.anomaly).copy()
    _change(folder / "lesions.nii.gz", np.zeros_like)
    _change(folder / "anomaly.nii.gz", lambda score: 2 * score)
    before = snapshot(scene)

    def fail(node, wanted):
        raise MemoryError

    monkeypatch.setattr(bridge, "_update_surface", fail)
    with pytest.raises(MemoryError):
        bridge.show(folder, ct, anomaly=True)
    assert snapshot(scene) == before
    if earlier_run:
        np.testing.assert_array_equal(voxels(earlier.lesions, "consolidation", ct), mine)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(earlier.anomaly), score)


def test_a_ct_that_left_the_scene_gets_no_result(scene, ct, folder):
    scene.RemoveNode(ct)
    before = snapshot(scene)
    with pytest.raises(OutputError, match="CT was removed from the scene"):
        bridge.show(folder, ct)
    assert snapshot(scene) == before


def test_a_seg_nrrd_file_gives_back_what_was_written(scene, ct, folder, tmp_path, centres):
    shown = bridge.show(folder, ct)
    for node, ids in ((shown.lesions, IDS[:2]), (shown.lungs, IDS[2:])):
        storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetFileName(str(tmp_path / "written.seg.nrrd"))
        assert storage.WriteData(node)
        back = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        assert storage.ReadData(back)
        assert list(back.GetSegmentation().GetSegmentIDs()) == list(ids)
        for segment_id in ids:
            np.testing.assert_allclose(centres(back, segment_id), centres(node, segment_id), atol=1e-3)
            _assert_same_segment(back, node, segment_id)


def _assert_same_segment(one, other, segment_id) -> None:
    first, second = (node.GetSegmentation().GetSegment(segment_id) for node in (one, other))
    assert first.GetName() == second.GetName()
    assert first.GetColor() == pytest.approx(second.GetColor(), abs=1e-4)
    entries = vtk.reference(""), vtk.reference("")
    assert first.GetTag("TerminologyEntry", entries[0])
    assert second.GetTag("TerminologyEntry", entries[1])
    # Slicer writes codes without a value as empty fields; what has a value must come back unchanged.
    assert [part for part in str(entries[0]).split("~") if part.strip("^")] == [
        part for part in str(entries[1]).split("~") if part.strip("^")
    ]


def test_an_mrb_file_gives_back_the_scene_and_the_next_run_finds_its_nodes(scene, ct, folder, tmp_path, centres):
    shown = bridge.show(folder, ct, anomaly=True)
    truth = {
        segment_id: centres(shown.lungs if "lung" in segment_id else shown.lesions, segment_id) for segment_id in IDS
    }
    file = tmp_path / "scene.mrb"
    assert scene.WriteToMRB(str(file), None)
    scene.Clear(False)
    assert scene.ReadFromMRB(str(file), True)

    ct = slicer.util.getNode("CT")
    lesions, lungs = slicer.util.getNode("CT lesions"), slicer.util.getNode("CT lungs")
    for segment_id, expected in truth.items():
        found = centres(lungs if "lung" in segment_id else lesions, segment_id)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not lungs.GetDisplayNode().GetVisibility()
    again = bridge.show(folder, ct, anomaly=True)
    assert (again.lesions, again.lungs) == (lesions, lungs)
    assert again.anomaly is slicer.util.getNode("CT anomaly map")


def test_the_result_of_a_ct_is_found_again_and_measured(ct, folder, patient):
    assert bridge.shown(ct) is None
    made = bridge.show(folder, ct)
    found = bridge.shown(ct)
    assert (found.lesions, found.lungs, found.anomaly) == (made.lesions, made.lungs, None)
    voxel_ml = np.prod(ct.GetSpacing()) / 1000
    numbers = {region.name: region for region in bridge.measure(found, ct).regions}
    for name, segment in (("ground_glass_ml", "ground-glass-opacity"), ("consolidation_ml", "consolidation")):
        assert getattr(numbers["both"], name) == pytest.approx(len(patient.centres(segment)) * voxel_ml)
    for side in ("right", "left"):
        assert numbers[side].lung_ml == pytest.approx(len(patient.centres(f"{side}-lung")) * voxel_ml, rel=0.01)


def test_a_lesion_painted_outside_of_the_lungs_counts_for_both_but_for_no_side(ct, folder):
    made = bridge.show(folder, ct)
    before = {region.name: region for region in bridge.measure(made, ct).regions}
    painted = slicer.util.arrayFromSegmentBinaryLabelmap(made.lesions, "consolidation", ct)
    painted[0, 0, :10] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, made.lesions, "consolidation", ct)
    after = {region.name: region for region in bridge.measure(made, ct).regions}
    more = 10 * np.prod(ct.GetSpacing()) / 1000
    assert after["both"].consolidation_ml - before["both"].consolidation_ml == pytest.approx(more)
    assert after["both"].lung_ml - before["both"].lung_ml == pytest.approx(more)
    assert (after["right"], after["left"]) == (before["right"], before["left"])
