"""From scans to a cache: what is healthy of the lung, and nothing else."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import phantom
from LabelFreeCovidSegLib.errors import TrainingError
from LabelFreeCovidSegLib.lungs import find_lungs
from LabelFreeCovidSegLib.methods import normnet
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.training import healthy, prepare, recipes, scanlist
from LabelFreeCovidSegLib.training.healthy import erroneous_edges
from LabelFreeCovidSegLib.training.normnet import blocks as make_blocks
from LabelFreeCovidSegLib.training.prepare import open_cache

SCAN = '[[scan]]\nname = "a"\npath = "ct.nii.gz"\n'
PRESET = replace(normnet.PRESETS["small"], spacing_mm=(4.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A folder with a healthy CT and, beside it, masks that can't be read."""
    folder = tmp_path_factory.mktemp("chest")
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0), lesions=())
    sitk.WriteImage(sitk.Cast(made.image(), sitk.sitkInt16), folder / "ct.nii.gz")
    for name in ("lesions.nii.gz", "lungs.nii.gz", "tumour.nii.gz", "ct_seg.nii.gz"):
        (folder / name).write_text("opening this is an error")
    return folder


@pytest.fixture(autouse=True)
def lungs_once(chest, monkeypatch):
    """There is one chest, and its lungs need to be found only once."""
    monkeypatch.setattr(healthy, "find_lungs", lambda scan, finder: found(str(chest), finder))


@cache
def found(folder, finder):
    return find_lungs(read(Path(folder) / "ct.nii.gz"), finder)


def write_list(folder, text):
    path = folder / "scans.toml"
    path.write_text(text)
    return path


def listed(folder, **more):
    return [scanlist.ListedScan("chest", folder / "ct.nii.gz", **more)]


def blocks(scan):
    return make_blocks(scan, PRESET)


def volume(blocks):
    return sum(int(block["lung"].sum()) for block in blocks)


def test_a_cache_holds_the_lung_in_hounsfield_units_and_air_elsewhere(chest, tmp_path):
    made = prepare.prepare("normnet", PRESET, listed(chest), tmp_path)
    assert open_cache(tmp_path, "normnet") == made
    (block,) = made.blocks("chest")
    inside = block["hu"][block["lung"] > 0]
    assert -900 < np.median(inside) < -780
    assert (inside > normnet.BRIGHT_HU).any()
    assert (block["hu"][0, 0] == -1024).all()


def test_preparing_twice_gives_the_same_bytes(chest, tmp_path):
    for name in ("a", "b"):
        prepare.prepare("normnet", PRESET, listed(chest), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


WATCH = """
import os, sys
from pathlib import Path
data, work = Path(sys.argv[1]), Path(sys.argv[2])
opened = set()
sys.addaudithook(lambda event, found: event == "open" and opened.add(str(found[0])))
import SimpleITK as sitk
read, show = sitk.ImageFileReader.SetFileName, sitk.ReadImage
sitk.ImageFileReader.SetFileName = lambda self, name: (opened.add(str(name)), read(self, name))[1]
sitk.ReadImage = lambda name, *more, **options: (opened.add(str(name)), show(name, *more, **options))[1]

from LabelFreeCovidSegLib import cli
from LabelFreeCovidSegLib.training import calibrate, normnet
from test_training import TINY
normnet.PRESETS["small"], calibrate.VIEWS = TINY, 3
for command in (
    f"prepare normnet {data}/scans.toml -o {work}/cache",
    f"fit normnet {work}/cache -o {work}/run --iterations 2 --every 1 --hold-out judge --device cpu",
    f"export {work}/run --cache {work}/cache -o {work}/models --version 1",
):
    assert cli.main(["train", *command.split()]) == 0
print(*sorted(os.path.relpath(path, data) for path in opened if path.startswith(str(data))), sep=chr(10))
"""


def test_no_training_path_opens_a_mask(chest, tmp_path):
    path = write_list(chest, "".join(f'[[scan]]\nname = "{name}"\npath = "ct.nii.gz"\n' for name in ("a", "judge")))
    code = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n{WATCH}"
    command = [sys.executable, "-c", code, str(chest), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = [line for line in done.stdout.splitlines() if line.endswith((".nii.gz", ".toml"))]
    assert opened == ["ct.nii.gz", path.name]
    # What SimpleITK opens by other ways would be unseen, but the unreadable masks would have raised.
    with pytest.raises(TrainingError, match="scan 'a' has an unknown key 'mask'"):
        scanlist.read(write_list(chest, '[[scan]]\nname = "a"\npath = "ct.nii.gz"\nmask = "lesions.nii.gz"'))


def test_excluded_slices_split_the_lung_into_blocks(chest, tmp_path):
    (whole,) = blocks(listed(chest)[0])
    below, above = blocks(listed(chest, exclude=((28, 31),))[0])
    # 4 slices of 5 mm and 2 mm on both sides are 24 mm: 6 slices of 4 mm, one more where the cut falls inside.
    whole, below, above = (block["hu"] for block in (whole, below, above))
    assert len(whole) - len(below) - len(above) in (6, 7)
    np.testing.assert_array_equal(below, whole[: len(below)])
    np.testing.assert_array_equal(above, whole[-len(above) :])


def test_one_lung_can_be_used_alone(chest):
    both, right, left = (volume(blocks(listed(chest, lungs=side)[0])) for side in ("both", "right", "left"))
    assert right > left > 0
    assert right + left == pytest.approx(both, rel=0.02)


def test_slices_that_the_scan_has_not_can_t_be_excluded(chest, tmp_path):
    blocks(listed(chest, exclude=((50, 59),))[0])
    with pytest.raises(TrainingError, match=r"scan 'chest' excludes slices 5 to 60, but has 60, .* Correct `exclude`"):
        prepare.prepare("normnet", PRESET, listed(chest, exclude=((5, 60),)), tmp_path)


def test_a_scan_of_which_nothing_is_left_is_named(chest, tmp_path):
    with pytest.raises(TrainingError, match=r"ct\.nii\.gz: nothing of this scan is left"):
        prepare.prepare("normnet", PRESET, listed(chest, exclude=((0, 59),)), tmp_path)
    assert not (tmp_path / "cache.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan = 3", "there is no [[scan]] in it"),
        ("scan = [3]", "there is no [[scan]] in it"),
        ("[[scans]]", "there is no [[scan]] in it"),
        ("[[scan]", "(at line 1, column 7)"),
        ('[[scan]]\nname = "a"\npath = "ct.nii.gz"\n[[scan]]\nname = "b"', "scan number 2 has no path"),
        ('[[scan]]\npath = "ct.nii.gz"', "scan number 1 has no name"),
        ('[[scan]]\nname = "a"\npath = "missing.nii.gz"', "missing.nii.gz' of scan 'a' is not there"),
        (SCAN * 2, "two scans are called 'a'"),
        (SCAN + 'lung = "left"', "scan 'a' has an unknown key 'lung'; there are name, path, exclude, lungs, covid, "),
        (SCAN + 'lungs = "top"', "lungs = 'top' of scan 'a' must be one of both, right, left"),
        (SCAN + 'lungs = ["left"]', "lungs = ['left'] of scan 'a' must be one of both, right, left"),
        (SCAN + 'covid = "false"', "covid = 'false' of scan 'a' must be true or false"),
        (SCAN + "licence = 4", "licence = 4 of scan 'a' must be text"),
    ],
)
def test_a_list_with_a_fault_is_answered_with_the_fault(chest, text, message):
    with pytest.raises(TrainingError, match=r"scans\.toml: .*" + re.escape(message)):
        scanlist.read(write_list(chest, text))


def test_a_list_that_is_not_there_is_answered_with_that(tmp_path):
    with pytest.raises(TrainingError, match=r"none\.toml: No such file or directory\."):
        scanlist.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "exclude", ["[5, 40]", "[[40, 20]]", "[[5, 9], [-3, 4]]", "[[1, 2, 3]]", "[[1.5, 2.5]]", "[[true, true]]", "7"]
)
def test_what_does_not_say_which_slices_to_exclude_is_answered_with_its_form(chest, exclude):
    with pytest.raises(TrainingError, match=r"exclude = .* of scan 'a' must be pairs of .* such as \[\[20, 40\]\]"):
        scanlist.read(write_list(chest, f"{SCAN}exclude = {exclude}"))


def test_excluded_slices_are_read_as_they_are_listed(chest):
    (scan,) = scanlist.read(write_list(chest, f"{SCAN}exclude = [[0, 0], [5, 40]]"))
    assert scan.exclude == ((0, 0), (5, 40))


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", "..", "", "a\\\\b"])
def test_a_name_that_can_t_name_a_file_is_refused_before_anything_is_done(chest, name):
    with pytest.raises(TrainingError, match=r"name = '.*' of scan '.*' must be of letters, digits"):
        scanlist.read(write_list(chest, SCAN.replace('"a"', f'"{name}"')))


def test_several_lists_are_taken_together_and_share_no_name(chest, tmp_path):
    row = '[[scan]]\nname = "{}"\npath = "ct.nii.gz"\ncovid = {}\n'
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(row.format("a", "false"))
    other.write_text(row.format("b", "true"))
    assert [(scan.name, scan.covid) for scan in scanlist.read(one, other, root=chest)] == [("a", False), ("b", True)]
    with pytest.raises(TrainingError, match=r"other\.toml: two scans are called 'b'"):
        scanlist.read(other, one, other, root=chest)


@pytest.mark.parametrize("method", ["normnet", "lungnet"])
def test_what_learns_from_healthy_lungs_refuses_patients(chest, tmp_path, method):
    with pytest.raises(TrainingError, match=r"ct\.nii\.gz: scan 'chest' is of a patient"):
        prepare.prepare(method, recipes.preset(method), listed(chest, covid=True), tmp_path)


def test_a_folder_that_is_no_cache_is_answered_with_what_to_do(tmp_path):
    with pytest.raises(
        TrainingError, match=r"there is no cache of .* in this folder\. `train prepare normnet` makes one"
    ):
        open_cache(tmp_path, "normnet")
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(TrainingError, match="Run `train prepare normnet` first"):
        open_cache(tmp_path, "normnet")


def test_a_cache_of_another_method_is_refused(chest, tmp_path):
    prepare.prepare("normnet", PRESET, listed(chest), tmp_path)
    with pytest.raises(TrainingError, match="prepared for normnet, not for lungnet"):
        open_cache(tmp_path, "lungnet")


def test_unknown_methods_and_presets_are_answered_with_the_known_ones():
    with pytest.raises(TrainingError, match=r"'rainbow' can't be trained\. Choose one of: normnet, opacitynet, "):
        recipes.preset("rainbow")
    with pytest.raises(TrainingError, match=r"normnet has no preset 'huge'\. Choose one of: small, "):
        recipes.preset("normnet", "huge")
    assert recipes.preset("normnet").name == "small"


def test_what_can_be_trained_is_listed_without_importing_it():
    code = "import LabelFreeCovidSegLib.training.command, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "scipy"} & set(loaded)


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
