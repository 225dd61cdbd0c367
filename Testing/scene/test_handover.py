"""What a child process is given of a real MRML scene: the CT in its place, and what of a segmentation is lung."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from LabelFreeCovidSegLib.errors import ScanError
from LabelFreeCovidSegLib.handover import write_lungs, write_volume
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.scan import Scan


def test_the_volume_handed_over_is_the_ct_in_values_and_place(scene, any_patient, tmp_path):
    original = sitk.ReadImage(str(any_patient.file))
    write_volume(any_patient.load(), tmp_path / "out.nrrd")
    written = sitk.ReadImage(str(tmp_path / "out.nrrd"))
    assert written.GetPixelID() == original.GetPixelID()
    back = sitk.Resample(written, original, sitk.Transform(), sitk.sitkNearestNeighbor, 30000)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(back), sitk.GetArrayViewFromImage(original))


def test_a_volume_without_image_is_refused(scene, tmp_path):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    with pytest.raises(ScanError, match="'Nothing' holds no image"):
        write_volume(empty, tmp_path / "out.nrrd")
    assert not (tmp_path / "out.nrrd").exists()


@pytest.fixture
def segmented(scene, ct):
    """A node on the CT with a segment of each name, each a sheet across the rows: the first one in row 0."""

    def make(names):
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        for row, name in enumerate(names):
            mask = np.zeros(slicer.util.arrayFromVolume(ct).shape, np.uint8)
            mask[:, row] = 1
            segment = node.GetSegmentation().AddEmptySegment("", name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, ct)
        return node

    return make


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["Heart", "left lung", "Right Lung", "Trachea"], [0, 2, 1, 0]),
        (["lung_upper_lobe_left", "lung_lower_lobe_right", "spleen"], [2, 1, 0]),
        (["Heart", "Lungs"], [0, 1]),
        (["Segment_1", "Segment_2", "Segment_3"], [1, 2, 3]),
    ],
)
def test_segments_called_lung_are_handed_over_as_lungs_and_all_where_none_is(ct, segmented, tmp_path, names, labels):
    write_lungs(segmented(names), ct, tmp_path / "lungs.nrrd")
    handed_over = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "lungs.nrrd")))
    np.testing.assert_array_equal(handed_over[0, : len(names), 0], labels)


def test_a_segmentation_of_hundreds_of_segments_is_handed_over(ct, segmented, tmp_path):
    node = segmented(["Lungs"])
    for number in range(300):
        node.GetSegmentation().AddEmptySegment("", f"Bone {number}")
    write_lungs(node, ct, tmp_path / "lungs.nrrd")
    handed_over = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "lungs.nrrd")))
    assert np.unique(handed_over).tolist() == [0, 1]


def test_a_segmentation_means_the_same_lungs_in_the_scene_and_as_a_file(scene, ct, patient, segmented, tmp_path):
    node = segmented(["Left lung", "Lung of the right", "Heart", "Trachea"])
    write_lungs(node, ct, tmp_path / "lungs.nrrd")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "mine.seg.nrrd"))
    assert storage.WriteData(node)
    scan = Scan.from_image(sitk.ReadImage(str(patient.file)), "ct.nrrd")
    handed_over, saved = (find_lungs(scan, tmp_path / name).labels for name in ("lungs.nrrd", "mine.seg.nrrd"))
    assert np.count_nonzero(saved) == 2 * 44 * 18
    np.testing.assert_array_equal(handed_over, saved)
