"""From scans to a cache: what is healthy of the lung, and nothing else."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.training import prepare, scanlist
from LabelFreeCovidSegLib.training.prepare import erroneous_edges, open_cache

SPACING = (4.0, 3.0, 3.0)
BRIGHT_HU = -500.0


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A folder with a healthy CT and, beside it, masks that can't be read."""
    folder = tmp_path_factory.mktemp("chest")
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0), lesions=())
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), folder / "ct.nii.gz")
    for name in ("lesions.nii.gz", "lungs.nii.gz", "tumour.nii.gz", "ct_seg.nii.gz"):
        (folder / name).write_text("opening this is an error")
    return folder


def write_list(folder, text):
    path = folder / "scans.toml"
    path.write_text(text)
    return path


def listed(folder, **more):
    return [scanlist.ListedScan("chest", folder / "ct.nii.gz", **more)]


def test_a_cache_holds_the_lung_in_hounsfield_units_and_air_elsewhere(chest, tmp_path):
    cache = prepare.prepare(listed(chest), tmp_path, SPACING, BRIGHT_HU)
    assert open_cache(tmp_path) == cache
    (block,) = cache.blocks(cache.scans[0])
    inside = block.hu[block.lung]
    assert -900 < np.median(inside) < -780
    assert (inside > BRIGHT_HU).any()
    assert (block.hu[0, 0] == -1024).all()
    assert block.lung.sum() * np.prod(SPACING) / 1000 == pytest.approx(cache.scans[0].lung_ml, abs=0.1)


def test_preparing_twice_gives_the_same_bytes(chest, tmp_path):
    for name in ("a", "b"):
        prepare.prepare(listed(chest), tmp_path / name, SPACING, BRIGHT_HU)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_no_training_path_opens_a_mask(chest, tmp_path):
    opened = []
    watching = True

    def watch(event, arguments):
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    # SimpleITK opens files unseen by Python, but then the unreadable masks would have raised.
    prepare.prepare(listed(chest), tmp_path, SPACING, BRIGHT_HU)
    watching = False
    assert any(str(tmp_path) in path for path in opened)
    masks = {path.name for path in chest.iterdir()} - {"ct.nii.gz"}
    assert not [path for path in opened if path.rsplit("/", 1)[-1] in masks]
    with pytest.raises(TrainingError, match="unexpected keyword argument 'mask'"):
        scanlist.read(write_list(chest, '[[scan]]\nname = "a"\npath = "ct.nii.gz"\nmask = "lesions.nii.gz"'))


def test_excluded_slices_split_the_lung_into_blocks(chest, tmp_path):
    (whole,) = prepare.healthy_blocks(listed(chest)[0], SPACING, BRIGHT_HU)
    below, above = prepare.healthy_blocks(listed(chest, exclude=((28, 31),))[0], SPACING, BRIGHT_HU)
    # 4 slices of 5 mm and 2 mm on both sides are 24 mm: 6 slices of 4 mm, one more where the cut falls inside.
    lost = len(whole.hu) - len(below.hu) - len(above.hu)
    assert lost in (6, 7)
    np.testing.assert_array_equal(below.hu, whole.hu[: len(below.hu)])
    np.testing.assert_array_equal(above.hu, whole.hu[-len(above.hu) :])


def test_one_lung_can_be_used_alone(chest):
    both, right, left = (
        sum(block.lung.sum() for block in prepare.healthy_blocks(listed(chest, lungs=side)[0], SPACING, BRIGHT_HU))
        for side in ("both", "right", "left")
    )
    assert right > left > 0
    assert right + left == pytest.approx(both, rel=0.02)


def test_a_scan_of_which_nothing_is_left_is_named(chest, tmp_path):
    with pytest.raises(TrainingError, match=r"ct\.nii\.gz: no 16 mm of lung are left"):
        prepare.prepare(listed(chest, exclude=((0, 60),)), tmp_path, SPACING, BRIGHT_HU)
    assert not (tmp_path / "cache.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan = 3", "not a list of scans"),
        ('[[scan]]\nname = "a"\npath = "missing.nii.gz"', "missing.nii.gz' of scan 'a' is not there"),
        ('[[scan]]\nname = "a"\npath = "ct.nii.gz"\nlungs = "top"', "lungs = 'top'"),
        ('[[scan]]\nname = "a"\npath = "ct.nii.gz"\n' * 2, "two scans are called 'a'"),
    ],
)
def test_a_list_with_a_fault_is_answered_with_the_fault(chest, text, message):
    with pytest.raises(TrainingError, match=r"scans\.toml: .*" + message):
        scanlist.read(write_list(chest, text))


def test_a_folder_that_is_no_cache_is_answered_with_what_to_do(tmp_path):
    with pytest.raises(TrainingError, match="Run `train prepare` first"):
        open_cache(tmp_path)


def edges(paint):
    """Erroneous edges of a box of lung on the paper's grid in which `paint` made some voxels bright."""
    lung = np.zeros((20, 40, 40), bool)
    lung[2:-2, 5:-5, 5:-5] = True
    bright = np.zeros_like(lung)
    paint(bright)
    return erroneous_edges(bright, lung, (1.0, 0.8, 0.8))[bright & lung]


def rim(bright):
    bright[2:-2, 5:-5, 5] = True


def tube_inside(bright):
    k, j, i = np.ogrid[:20, :40, :40]
    bright |= ((j - 20) ** 2 + (i - 20) ** 2 <= 9) & (k >= 2)


def tube_that_ends_at_the_border(bright):
    bright[10, 18:22, 5:25] = True


@pytest.mark.parametrize(
    ("paint", "removed"), [(rim, True), (tube_inside, False), (tube_that_ends_at_the_border, False)]
)
def test_a_bright_rim_is_an_edge_and_a_vessel_is_none(paint, removed):
    found = edges(paint)
    assert found.size
    assert (found == removed).all()
