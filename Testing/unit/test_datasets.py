"""Public data sets as their owners lay them out, made up and small: what is found in them, and their traps."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from evaluating import write
from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation import datasets, expert
from LabelFreeCovidSegLib.evaluation.datasets import REGISTRY, Case, Mask

TINY = np.zeros((3, 4, 5), np.int16)
NORMNETS = ("C", "C_bright", "oracle_threshold")
"""The protocols by which NormNet's authors published numbers."""


def opened(name: str, root: Path) -> list[Case]:
    return REGISTRY[name].open(root)


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


# What is found


def make_ct_seg(root: Path) -> None:
    for part in ("coronacases", "radiopaedia"):
        for number in range(1, 11):
            for kind in ("COVID-19-CT-Seg_20cases", "Infection_Mask", "Lung_Mask"):
                write(root / kind / f"{part}_{number:03d}.nii.gz", TINY)


@pytest.mark.parametrize(("name", "hu"), [("coronacases", True), ("radiopaedia", False)])
def test_each_part_of_ct_seg_is_a_set_and_radiopaedia_has_lost_its_hu(tmp_path, name, hu):
    make_ct_seg(tmp_path)
    cases = opened(name, tmp_path)
    assert names(cases) == [f"{name}_{number:03d}" for number in range(1, 11)]
    assert {(case.hu, case.mm) for case in cases} == {(hu, True)}
    assert cases[0].lesions == Mask(tmp_path / "Infection_Mask" / f"{name}_001.nii.gz")
    assert cases[0].lungs == Mask(tmp_path / "Lung_Mask" / f"{name}_001.nii.gz")
    assert any("validation" in note for note in REGISTRY[name].notes) is hu


def test_of_the_nine_medseg_volumes_normnets_protocols_leave_out_number_6_and_effusion_is_no_lesion(tmp_path):
    for number in range(1, 10):
        for kind in ("rp_im", "rp_msk", "rp_lung_msk"):
            write(tmp_path / kind / f"{number}.nii.gz", TINY)
    cases = opened("medseg-9", tmp_path)
    assert names(cases) == [str(number) for number in range(1, 10)]
    for protocol in NORMNETS:
        assert [case.name for case in cases if protocol in case.left_out] == ["6"]
    assert cases[0].lesions == cases[0].classes == Mask(tmp_path / "rp_msk" / "1.nii.gz", (1, 2))


def make_mosmed(root: Path, step_mm: float = 8.0) -> None:
    for number in range(255, 305):
        write(root / "studies" / "CT-1" / f"study_{number:04d}.nii.gz", TINY, (0.7, 0.7, step_mm))
        write(root / "masks" / f"study_{number:04d}_mask.nii.gz", TINY, (0.7, 0.7, step_mm))
    write(root / "studies" / "CT-0" / "study_0001.nii.gz", TINY)


def test_mosmed_are_the_50_studies_with_masks(tmp_path):
    make_mosmed(tmp_path)
    cases = opened("mosmed", tmp_path)
    assert len(cases) == 50
    assert cases[0].image == tmp_path / "studies" / "CT-1" / "study_0255.nii.gz"
    assert any("8 mm" in note for note in REGISTRY["mosmed"].notes)


def test_mosmed_whose_headers_lost_the_8_mm_is_refused(tmp_path):
    make_mosmed(tmp_path, step_mm=1.0)
    with pytest.raises(DataSetError, match=r"study_0\d+.nii.gz: its header says 1 mm between slices"):
        opened("mosmed", tmp_path)


@pytest.mark.parametrize("experts", ["part1", "part2"])
def test_uestc_tells_experts_by_their_number_and_c_leaves_out_thick_slices(tmp_path, experts):
    for part in ("part1", "part2"):
        for number in range(50 if part == experts else 70):
            step = 5.0 if number == 7 else 4.9
            for kind in ("image", "label"):
                write(tmp_path / part / kind / f"{number:03d}.nii.gz", TINY, (0.7, 0.7, step))
    cases = opened("uestc", tmp_path)
    assert len(cases) == 120
    assert sum(case.name.startswith("expert-") for case in cases) == 50
    assert {case.image.parent.parent.name for case in cases if case.name.startswith("expert-")} == {experts}
    left_out = {case.name: case.left_out for case in cases if case.left_out}
    assert left_out == {f"{who}-007": dict.fromkeys(NORMNETS, "slices 5 mm apart") for who in ("expert", "non-expert")}


@pytest.mark.parametrize(("sums", "algorithm"), [("SHA256SUMS", hashlib.sha256), ("MD5SUMS", hashlib.md5)])
def test_files_are_compared_with_the_checksums_that_lie_beside_them(tmp_path, sums, algorithm):
    for kind in ("images", "lesions"):
        write(tmp_path / kind / "one.nii.gz", TINY)
    known = {
        kind: algorithm((tmp_path / kind / "one.nii.gz").read_bytes()).hexdigest() for kind in ("images", "lesions")
    }
    (tmp_path / sums).write_text("".join(f"{digest}  {kind}/one.nii.gz\n" for kind, digest in known.items()))
    data, folder = datasets.find(str(tmp_path))
    assert len(data.open(folder)) == 1
    write(tmp_path / "lesions" / "one.nii.gz", 1 - TINY)
    with pytest.raises(DataSetError, match=rf"lesions.one.nii.gz: damaged, its checksum is not that of {sums}"):
        data.open(folder)
    (tmp_path / sums).write_text(f"{known['images']} *images/two.nii.gz\n")
    with pytest.raises(DataSetError, match=rf"images.two.nii.gz: can't be read, and {sums} lists it"):
        data.open(folder)


def test_checksums_may_begin_with_a_mark_and_be_apart_by_a_tab(tmp_path):
    for kind in ("images", "lesions"):
        write(tmp_path / kind / "one.nii.gz", TINY)
    digest = hashlib.sha256((tmp_path / "images" / "one.nii.gz").read_bytes()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"\ufeff{digest}\timages/one.nii.gz\n", encoding="utf-8")
    data, folder = datasets.find(str(tmp_path))
    assert len(data.open(folder)) == 1


@pytest.mark.parametrize(("content", "fault"), [
    ("0a".encode("utf-16"), "can't be read"), (b"0a1b2c", "'0a1b2c' is no checksum with its file"),
])  # fmt: skip
def test_checksums_that_nobody_can_read_are_named(tmp_path, content, fault):
    for kind in ("images", "lesions"):
        write(tmp_path / kind / "one.nii.gz", TINY)
    (tmp_path / "SHA256SUMS").write_bytes(content)
    data, folder = datasets.find(str(tmp_path))
    with pytest.raises(DataSetError, match=f"SHA256SUMS: {fault}.*as `sha256sum` does"):
        data.open(folder)


def test_luna16_is_without_lesions_and_the_trachea_is_no_lung(tmp_path):
    for number in range(888):
        for kind in (f"subset{number % 10}", "seg-lungs-LUNA16"):
            file = tmp_path / kind / f"1.3.6.{number}.mhd"
            file.parent.mkdir(exist_ok=True)
            file.touch()
    cases = opened("luna16", tmp_path)
    assert len(cases) == 888
    assert cases[0].lesions is None
    assert cases[0].lungs == Mask(tmp_path / "seg-lungs-LUNA16" / cases[0].image.name, (3, 4))


def test_ricord_is_a_case_a_series_and_can_not_be_judged(tmp_path):
    for series in ("p1/s1/a", "p1/s1/b", "p2/s1/a"):
        (tmp_path / series).mkdir(parents=True)
        (tmp_path / series / "1.dcm").touch()
        (tmp_path / series / "2.dcm").touch()
    assert names(opened("midrc-ricord", tmp_path)) == ["p1_s1_a", "p1_s1_b", "p2_s1_a"]
    assert not REGISTRY["midrc-ricord"].judged


def test_the_100_slices_of_medseg_are_a_case_each(tmp_path):
    pictures, drawn = np.zeros((100, 6, 7), np.float32), np.zeros((100, 6, 7), np.uint8)
    pictures[42], drawn[42, 1, :4] = 42, [0, 1, 2, 3]
    write(tmp_path / "tr_im.nii.gz", pictures)
    write(tmp_path / "tr_mask.nii.gz", drawn)
    cases = opened("medseg-100", tmp_path)
    assert len(cases) == 100
    assert (cases[42].hu, cases[42].mm) == (False, False)
    picture, truth = expert.of_picture(cases[42])
    assert picture.grey.shape == (1, 6, 7)
    assert (picture.grey == 42).all()
    assert truth.classes[0, 1, :4].tolist() == [0, 1, 2, 0]
    assert truth.lesions[0, 1, :4].tolist() == [0, 1, 1, 0]
    assert not expert.of_picture(cases[41])[1].lesions.any()


def test_covid_semiseg_are_jpeg_pictures_with_png_masks(tmp_path):
    train = tmp_path / "TrainingSet" / "LungInfection-Train" / "Doctor-label"
    for number in range(50):
        write(train / "Imgs" / f"{number}.jpg", np.full((8, 9), 90, np.uint8))
        write(train / "GT" / f"{number}.png", np.eye(8, 9, dtype=np.uint8) * 255)
    cases = opened("covid-semiseg", tmp_path)
    assert len(cases) == 50
    picture, truth = expert.of_picture(cases[0])
    assert np.abs(picture.grey - 90).max() <= 1
    assert np.array_equal(truth.lesions[0], np.eye(9, 8))  # upright: they were turned by 90 degrees


# What is refused


def test_a_missing_folder_says_what_to_download_under_which_licence(tmp_path):
    with pytest.raises(DataSetError) as caught:
        opened("coronacases", tmp_path / "gone")
    for word in ("gone", "zenodo.org/record/3757476", "CC BY-NC-SA", "Infection_Mask/coronacases_*.nii.gz"):
        assert word in str(caught.value)


def test_a_set_with_too_few_cases_is_refused(tmp_path):
    make_ct_seg(tmp_path)
    (tmp_path / "COVID-19-CT-Seg_20cases" / "coronacases_004.nii.gz").unlink()
    with pytest.raises(DataSetError, match=r"9 cases of COVID-19-CT-Seg, coronacases part, not 10"):
        opened("coronacases", tmp_path)


def test_a_missing_mask_is_named(tmp_path):
    make_ct_seg(tmp_path)
    (tmp_path / "Infection_Mask" / "coronacases_004.nii.gz").unlink()
    with pytest.raises(DataSetError, match=r"Infection_Mask/coronacases_004.nii.gz: missing"):
        opened("coronacases", tmp_path)


def test_a_stack_with_another_number_of_pictures_is_refused(tmp_path):
    for kind in ("tr_im", "tr_mask"):
        write(tmp_path / f"{kind}.nii.gz", np.zeros((99, 6, 7), np.uint8))
    with pytest.raises(DataSetError, match="99 cases"):
        opened("medseg-100", tmp_path)


def test_uestc_with_a_part_of_another_size_is_refused(tmp_path):
    write(tmp_path / "part1" / "image" / "1.nii.gz", TINY)
    with pytest.raises(DataSetError, match="1 volumes, where one part"):
        opened("uestc", tmp_path)


def test_every_public_set_is_listed_with_its_licence():
    text = datasets.listing()
    for data in REGISTRY.values():
        assert data.name in text
        assert data.licence in text


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(DataSetError, match=r"no data set 'corona'.*coronacases, "):
        datasets.find("corona=/data")


# Any folder


@pytest.mark.parametrize("images", ["images", "ct"])
def test_a_folder_of_pictures_with_masks_of_other_formats(tmp_path, images):
    for name in ("b", "a"):
        write(tmp_path / images / f"{name}.jpg", np.full((6, 7), 100, np.uint8))
        for kind in ("lesions", "lungs", "classes"):
            write(tmp_path / kind / f"{name}.png", np.eye(6, 7, dtype=np.uint8))
    data, root = datasets.find(str(tmp_path))
    assert data.name == tmp_path.name
    cases = data.open(root)
    assert names(cases) == ["a", "b"]
    assert (cases[0].hu, cases[0].mm) == (False, False)
    picture, truth = expert.of_picture(cases[0])
    assert picture.grey.shape == truth.lungs.shape == truth.classes.shape == (1, 6, 7)


def test_a_folder_of_volumes_is_in_hu(tmp_path):
    write(tmp_path / "ct" / "a.nii.gz", TINY)
    write(tmp_path / "lesions" / "a.nrrd", TINY.astype(np.uint8))
    (case,) = datasets.find(str(tmp_path))[0].open(tmp_path)
    assert (case.hu, case.mm, case.lungs, case.classes) == (True, True, None, None)


@pytest.mark.parametrize("kind", ["lesions", "lungs"])
def test_an_image_without_mask_is_named(tmp_path, kind):
    for name in ("a", "b"):
        write(tmp_path / "ct" / f"{name}.nii.gz", TINY)
        for each in ("lesions", "lungs"):
            write(tmp_path / each / f"{name}.nii.gz", TINY.astype(np.uint8))
    (tmp_path / kind / "b.nii.gz").unlink()
    way_out = {"lesions": "no lesion", "lungs": "move the folder away"}[kind]
    with pytest.raises(DataSetError, match=rf"{kind}: nothing for b \(1 of 2.*{way_out}"):
        datasets.find(str(tmp_path))[0].open(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    write(tmp_path / "ct" / "a.nii.gz", TINY)
    write(tmp_path / "ct" / "a.nrrd", TINY)
    with pytest.raises(DataSetError, match="has the same name"):
        datasets.find(str(tmp_path))[0].open(tmp_path)


def test_an_empty_folder_is_no_data_set(tmp_path):
    with pytest.raises(DataSetError, match="0 cases"):
        datasets.find(str(tmp_path))[0].open(tmp_path)


# What a description says of pictures


def make_slices(root: Path, names: list[str]) -> None:
    for name in names:
        write(root / "ct" / f"{name}.png", np.full((6, 7), 100, np.uint8))
        write(root / "lesions" / f"{name}.png", np.eye(6, 7, dtype=np.uint8))


def described(root: Path, text: str) -> list[Case]:
    (root / "dataset.toml").write_text(text)
    data, folder = datasets.find(str(root))
    return data.open(folder)


def test_the_first_pattern_that_a_name_fits_says_how_a_picture_lies(tmp_path):
    make_slices(tmp_path, ["a_1", "b_1", "c_1"])
    cases = described(tmp_path, 'equalised = true\n[orientation]\n"a_*" = "LA"\n"[ab]*" = "PL"\n')
    assert [(case.orientation, case.equalised) for case in cases] == [("LA", True), ("PL", True), ("LP", True)]
    assert {case.orientation for case in described(tmp_path, 'orientation = "RP"')} == {"RP"}


def test_slices_of_a_volume_are_one_case_in_the_order_of_their_numbers(tmp_path):
    make_slices(tmp_path, ["v_1_9", "v_1_10", "v_2_3"])
    first, second = described(tmp_path, "volumes = true")
    assert (first.name, second.name) == ("v_1", "v_2")
    assert names(first.slices) == ["v_1_9", "v_1_10"]
    assert len(first.files) == 4
    picture, truth = expert.of_picture(first)
    assert picture.names == ("v_1_9.png", "v_1_10.png")
    assert picture.grey.shape == truth.lesions.shape == (2, 6, 7)
    assert truth.lungs is None


def test_a_description_may_lie_elsewhere(tmp_path):
    make_slices(tmp_path / "set", ["a"])
    (tmp_path / "mine.toml").write_text('folder = "set"\norientation = "PL"')
    data, folder = datasets.find(str(tmp_path / "mine.toml"))
    assert (data.name, data.open(folder)[0].orientation) == ("set", "PL")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('orientation = "XY"', "orientation 'XY' is none of LP, "),
        ('equalised = "no"', "equalised is neither true nor false"),
        ("equalized = true", "no key 'equalized', but folder, orientation, equalised, volumes"),
        ("orientation = ", "not a description of a data set"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path, text, fault):
    make_slices(tmp_path, ["a"])
    with pytest.raises(DataSetError, match=fault):
        described(tmp_path, text)


def test_a_name_without_number_is_no_slice_of_a_volume(tmp_path):
    make_slices(tmp_path, ["v_1", "w"])
    with pytest.raises(DataSetError, match=r"w\.png: its name is not that of a picture and a slice"):
        described(tmp_path, "volumes = true")


def test_slices_of_a_volume_have_one_size(tmp_path):
    make_slices(tmp_path, ["v_1"])
    write(tmp_path / "ct" / "v_2.png", np.full((8, 7), 100, np.uint8))
    write(tmp_path / "lesions" / "v_2.png", np.zeros((8, 7), np.uint8))
    (case,) = described(tmp_path, "volumes = true")
    with pytest.raises(DataSetError, match=r"v_2\.png: of another size than v_1\.png"):
        expert.of_picture(case)
