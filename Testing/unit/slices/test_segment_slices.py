"""A folder of pictures through the command's own function: masks as the file lies, and what was guessed beside them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from LabelFreeCovidSegLib import cli, segment_slices
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, LungError, ScanError
from LabelFreeCovidSegLib.methods import base, cyclegan, uda
from LabelFreeCovidSegLib.segment_slices import Choices
from LabelFreeCovidSegLib.session import Session
from scipy import ndimage
from slice_pictures import PIXEL_MM, chest_slice, dice
from slice_runs import BRIGHT_HU, WINDOW, Bright, read, run, write

# What is written


def test_each_picture_gets_a_mask_its_lungs_and_an_overlay_of_its_own_size(folder, tmp_path, register):
    register(Bright())
    out = tmp_path / "out"
    rows, warnings = run(folder, out)
    assert [row["picture"] for row in rows] == ["s2.png", "s10.png"]
    assert warnings == ()
    for name, chest in (("s2.png", chest_slice()), ("s10.png", chest_slice().cropped())):
        lesion, lungs, overlay = (read(out / kind / name) for kind in ("lesions", "lungs", "overlays"))
        assert lesion.shape == lungs.shape == overlay.shape[:2] == chest.hu.shape
        assert set(np.unique(lesion)) == set(np.unique(lungs)) == {0, 255}
        assert dice(lungs > 0, chest.lung) > 0.88
        assert (lesion > 0)[chest.lesion & chest.lung].mean() > 0.7
        grey = read(folder / name)
        np.testing.assert_array_equal(overlay[lungs == 0], grey[lungs == 0][:, None].repeat(3, axis=1))
        assert np.ptp(overlay[lesion > 0].astype(int), axis=1).min() > 0  # coloured


def test_the_table_says_the_share_and_what_was_guessed(folder, tmp_path, register):
    register(Bright())
    out = tmp_path / "out"
    run(folder, out)
    with (out / "slices.csv").open() as file:
        whole, cropped = csv.DictReader(file)
    assert whole["state"] == cropped["state"] == "done"
    lung, lesion = (np.count_nonzero(read(out / kind / "s2.png")) for kind in ("lungs", "lesions"))
    assert (int(whole["lung_pixels"]), int(whole["lesion_pixels"])) == (lung, lesion)
    assert float(whole["lesion_percent"]) == pytest.approx(100 * lesion / lung, abs=0.01)
    assert (whole["dark_anchor"], cropped["dark_anchor"]) == ("air", "lung")
    for row in (whole, cropped):
        assert float(row["window_low_hu"]) == pytest.approx(WINDOW[0], abs=70)
        assert float(row["window_high_hu"]) == pytest.approx(WINDOW[1], abs=70)
        assert float(row["pixel_mm"]) == pytest.approx(PIXEL_MM, rel=0.25)
        assert row["warnings"] == "Bright."


def test_the_numbers_say_how_they_came_about(folder, tmp_path, register):
    register(Bright())
    run(folder, tmp_path / "out", pixel_mm=0.8)
    numbers = json.loads((tmp_path / "out" / "result.json").read_text())
    assert numbers["schema"] == segment_slices.SCHEMA
    assert numbers["source"] == "in"
    assert (numbers["method"]["name"], numbers["weights"]) == ("bright", "bright 1.0")
    assert (numbers["orientation"], numbers["equalised"], numbers["pixel_mm_given"]) == ("LP", False, 0.8)
    assert [row["pixel_mm"] for row in numbers["pictures"]] == [0.8, 0.8]
    assert len(numbers["files"]) == 7


@pytest.fixture
def stack(tmp_path):
    """Two slices, the second of smaller lungs, and one without lungs between them."""
    one = chest_slice()
    small = np.full(one.hu.shape, 40.0, np.float32)
    inner = tuple(slice(n // 8, n - n // 8) for n in one.hu.shape)
    small[inner] = ndimage.zoom(one.hu, [(n - 2 * (n // 8)) / n for n in one.hu.shape], order=1)
    for name, hu in (("s1", one.hu), ("s2", np.where(one.hu < -100, 40, one.hu)), ("s3", small)):
        write(tmp_path / "stack" / f"{name}.png", replace(one, hu=hu).window(*WINDOW))
    return tmp_path / "stack"


def test_neighbours_are_shown_together_with_pixels_of_one_size(stack, tmp_path, register):
    method = register(Bright())
    single, _ = run(stack, tmp_path / "single")
    shown = method.shown.copy()
    rows, _ = run(stack, tmp_path / "out", stack=True)
    assert [row["state"] for row in rows] == [row["state"] for row in single] == ["done", "not calibrated", "done"]
    (together,) = method.shown[len(shown) :]
    np.testing.assert_array_equal(together.hu, np.concatenate([scan.hu for scan in shown]))
    widest = max(single, key=lambda row: row["lung_pixels"])
    assert single[0]["pixel_mm"] != single[2]["pixel_mm"]  # guessed from each one's lungs
    assert rows[0]["pixel_mm"] == rows[2]["pixel_mm"] == widest["pixel_mm"]
    for name in ("s1.png", "s3.png"):
        np.testing.assert_array_equal(*(read(tmp_path / out / "lesions" / name) for out in ("single", "out")))


def test_neighbours_are_shown_as_stacks_of_themselves_to_what_learned_from_whole_scans(stack, tmp_path, register):
    method = register(Bright(picture_mm=4.5))
    run(stack, tmp_path / "out", stack=True)
    assert [len(scan.hu) for scan in method.shown] == [3, 3]
    for scan in method.shown:
        assert (scan.hu == scan.hu[0]).all()


def test_pictures_of_different_sizes_are_no_neighbours(folder, tmp_path, register):
    register(Bright())
    with pytest.raises(ScanError, match=r"s10.png: of another size than s2.png.*--stack"):
        run(folder, tmp_path / "out", stack=True)
    assert not (tmp_path / "out").exists()


def test_lungs_of_neighbours_may_be_given(stack, tmp_path, register):
    register(Bright())
    run(stack, tmp_path / "out")
    rows, _ = run(stack, tmp_path / "again", stack=True, lungs=tmp_path / "out" / "lungs")
    assert [row["lungs"] for row in rows] == ["given"] * 3
    for name in ("s1.png", "s3.png"):
        np.testing.assert_array_equal(*(read(tmp_path / out / "lungs" / name) for out in ("out", "again")))


def test_a_picture_that_lies_on_its_side_gets_the_same_mask_on_its_side(folder, tmp_path, register):
    method = register(Bright())
    write(tmp_path / "turned" / "s2.png", np.ascontiguousarray(chest_slice().window(*WINDOW).T))
    run(folder, tmp_path / "one")
    run(tmp_path / "turned", tmp_path / "other", orientation="PL")
    np.testing.assert_array_equal(method.shown[0].hu, method.shown[-1].hu)
    for kind in ("lesions", "lungs"):
        one, other = (read(tmp_path / out / kind / "s2.png") for out in ("one", "other"))
        np.testing.assert_array_equal(one.T, other)


def test_a_picture_without_lungs_has_an_empty_mask_and_one_without_tissue_none(folder, tmp_path, register):
    register(Bright())
    chest = chest_slice()
    write(folder / "a.png", np.where(chest.lung, 215, chest.window(*WINDOW)).astype(np.uint8))
    write(folder / "b.png", np.where(chest.lung, chest.window(*WINDOW), 0).astype(np.uint8))
    for name in ("a", "b", "s2", "s10"):
        given = chest.cropped().lung if name == "s10" else chest.lung & (name != "a")
        write(tmp_path / "lungs" / f"{name}.png", given.astype(np.uint8))
    rows, _ = run(folder, tmp_path / "out", lungs=tmp_path / "lungs")
    assert [row["state"] for row in rows] == ["no lungs", "not calibrated", "done", "done"]
    assert not read(tmp_path / "out" / "lesions" / "a.png").any()
    assert not (tmp_path / "out" / "lesions" / "b.png").exists()
    assert rows[0]["warnings"] == []  # somebody said so
    assert "no soft tissue" in rows[1]["warnings"][0]
    assert "lesion_percent" not in rows[1]


# How methods see a picture


@pytest.mark.parametrize(("picture_mm", "slices"), [(0.0, 1), (24.0, 16)])
def test_a_method_gets_the_picture_in_hu_as_often_as_it_needs_it(folder, tmp_path, register, picture_mm, slices):
    method = register(Bright(picture_mm=picture_mm))
    _, warnings = run(folder, tmp_path / "out", pixel_mm=1.5)
    chest, scan = chest_slice(), method.shown[0]
    assert scan.hu.shape == (slices, *chest.hu.shape)
    assert scan.grid.spacing_mm == (1.5, 1.5, 1.5)
    assert np.abs(scan.hu - np.clip(chest.hu, *WINDOW))[:, chest.lung].mean() < 30
    assert any("stack of itself" in warning for warning in warnings) == (slices > 1)


class Middle(Bright):
    """Marks the lungs in the middle of a stack."""

    def predict(self, scan, lungs, compute, progress):
        k = np.arange(len(scan.hu)) == len(scan.hu) // 2
        lesion = ((lungs.labels > 0) & k[:, None, None]).astype(np.uint8)
        return base.Prediction(lesion, lesion.astype(np.float32))


def test_of_a_stack_the_middle_is_what_counts(folder, tmp_path, register):
    register(Middle(picture_mm=24.0))
    rows, _ = run(folder, tmp_path / "out")
    assert [row["lesion_percent"] for row in rows] == [100.0, 100.0]


class Healer(torch.nn.Module):
    """Knows that healthy lung is dark."""

    def forward(self, x):
        return torch.full_like(x, -1.0)


class Thresholds(torch.nn.Module):
    """Tells air, lung, ground glass and consolidation by density."""

    def forward(self, slices):
        steps = torch.from_numpy(uda.window(np.array([-950.0, BRIGHT_HU, -200.0])))
        label = torch.bucketize(slices[:, 0].double(), steps.double())
        return 20.0 * torch.nn.functional.one_hot(label, 4).movedim(3, 1).float()


TINY = replace(cyclegan.PRESETS["small"], widths=(2, 2, 2), spacing_mm=(6.0, 1.5, 1.5))  # thicker than a picture


@pytest.mark.parametrize(
    "method",
    [
        cyclegan.CycleGAN(Healer(), TINY, "none"),
        uda.DomainAdaptation(Thresholds(), replace(uda.PRESETS["small"], canvas=(64, 64)), "none"),
    ],
    ids=["cyclegan", "uda"],
)
def test_the_slice_methods_outline_the_lesions_of_a_picture(folder, tmp_path, register, method):
    register(method)
    chest = chest_slice()
    write(tmp_path / "lungs" / "s2.png", chest.lung.astype(np.uint8))
    write(tmp_path / "lungs" / "s10.png", chest.cropped().lung.astype(np.uint8))
    run(folder, tmp_path / "out", method.card.name, lungs=tmp_path / "lungs", pixel_mm=PIXEL_MM)
    found = read(tmp_path / "out" / "lesions" / "s2.png") > 0
    assert found[chest.lesion & chest.lung].mean() > 0.6
    assert not found[~chest.lung].any()
    assert dice(found, chest.lesion) > 0.5  # vessels are bright, too


def test_weights_for_equalised_pictures_outline_them_by_their_greys(tmp_path, register):
    preset = replace(uda.PRESETS["small-clahe256"], canvas=(64, 64))
    method = register(uda.DomainAdaptation(Thresholds(), preset, "none"))
    chest = chest_slice()
    write(tmp_path / "in" / "a.png", chest.window(-800, 100))  # so that greys stand for what they are handed on as
    write(tmp_path / "lungs" / "a.png", chest.lung.astype(np.uint8))
    (row,), _ = run(tmp_path / "in", tmp_path / "out", method.card.name, lungs=tmp_path / "lungs", equalised=True)
    found = read(tmp_path / "out" / "lesions" / "a.png") > 0
    assert row["state"] == "done"
    assert found[chest.lesion & chest.lung].mean() > 0.6
    assert not found[~chest.lung].any()


def test_equalised_pictures_are_only_for_weights_that_learned_from_them(folder, tmp_path, register):
    register(Bright())
    with pytest.raises(LabelFreeCovidSegError, match="were trained on Hounsfield units"):
        run(folder, tmp_path / "out", equalised=True)
    method = register(Bright(domain=base.CLAHE256))
    with pytest.raises(LabelFreeCovidSegError, match="trained on locally equalised pictures"):
        run(folder, tmp_path / "out")
    rows, _ = run(folder, tmp_path / "out", equalised=True)
    assert "window_low_hu" not in rows[0]
    grey = read(folder / "s2.png")
    np.testing.assert_allclose(method.shown[0].hu[0], -800 + grey * (900 / 255), atol=1e-3)


@pytest.mark.parametrize(("equalised", "name"), [(False, "opacitynet2d"), (True, "opacitynet_clahe")])
def test_if_nobody_chooses_what_segments_is_what_learned_from_such_pictures(
    folder, tmp_path, monkeypatch, equalised, name
):
    chosen = []
    monkeypatch.setattr(base, "load", lambda method: chosen.append(method) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segment_slices.run(folder, tmp_path / "out", Choices(equalised=equalised), Session(Plain()))
    assert chosen == [name]


def test_pictures_that_look_equalised_are_a_warning(folder, tmp_path, register):
    register(Bright())
    for name in ("s2.png", "s10.png"):
        grey = read(folder / name)
        fall = np.linspace(1.0, 0.45, grey.shape[0])[:, None]
        write(folder / name, np.where(grey > 150, grey * fall, grey).astype(np.uint8))
    assert "CLAHE" in run(folder, tmp_path / "out")[1][0]


def test_a_method_that_needs_the_scan_says_so(folder, tmp_path, register):
    register(Bright(picture_mm=None))
    with pytest.raises(LabelFreeCovidSegError, match=r"looks at neighbouring slices.*Choose one of: opacitynet2d"):
        run(folder, tmp_path / "out")


def test_of_several_methods_the_one_that_needs_the_scan_is_named(folder, tmp_path):
    with pytest.raises(LabelFreeCovidSegError, match=r"^OpacityNet looks at neighbouring slices"):
        run(folder, tmp_path / "out", method="cyclegan+opacitynet")


@pytest.mark.parametrize(
    ("method", "equalised", "fault"),
    [
        ("greys+bright", True, "of Bright were trained on Hounsfield units"),
        ("bright+greys", False, "of Greys were trained on locally equalised pictures"),
    ],
)
def test_of_several_methods_the_one_that_learned_from_the_other_kind_is_named(
    folder, tmp_path, register, method, equalised, fault
):
    register(Bright())
    greys = register(Bright("greys", domain=base.CLAHE256))
    with pytest.raises(LabelFreeCovidSegError, match=fault):
        run(folder, tmp_path / "out", method, equalised=equalised)
    assert greys.shown == []


def test_methods_that_learned_from_one_kind_vote_on_it(folder, tmp_path, register):
    register(Bright("greys", domain=base.CLAHE256))
    register(Bright("nothing", domain=base.ANY))
    rows, _ = run(folder, tmp_path / "out", "greys+nothing", equalised=True)
    assert [row["state"] for row in rows] == ["done", "done"]


# What is refused


def test_a_bad_picture_stops_the_run_before_anything_is_computed(folder, tmp_path, register):
    method = register(Bright())
    (folder / "z.png").write_bytes(b"no picture")
    with pytest.raises(ScanError, match=r"^z\.png: no complete PNG"):
        run(folder, tmp_path / "out")
    assert method.shown == []
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("mask", "error"), [(None, LungError), (np.ones((9, 9), np.uint8), ScanError)])
def test_lungs_that_are_missing_or_of_another_size_stop_it_too(folder, tmp_path, register, mask, error):
    method = register(Bright())
    write(tmp_path / "lungs" / "s2.png", chest_slice().lung.astype(np.uint8))
    if mask is not None:
        write(tmp_path / "lungs" / "s10.png", mask)
    with pytest.raises(error, match="s10"):
        run(folder, tmp_path / "out", lungs=tmp_path / "lungs")
    with pytest.raises(LungError, match=r"s2\.png: no folder"):
        run(folder, tmp_path / "out", lungs=tmp_path / "lungs" / "s2.png")
    assert method.shown == []


@pytest.mark.parametrize("ending", [".PNG", ".JPG"])
def test_the_ending_of_a_mask_may_have_capitals(folder, tmp_path, register, ending):
    register(Bright())
    for name, chest in (("s2", chest_slice()), ("s10", chest_slice().cropped())):
        write(tmp_path / "lungs" / f"{name}{ending}", np.where(chest.lung, 255, 0).astype(np.uint8))
    rows, _ = run(folder, tmp_path / "out", lungs=tmp_path / "lungs")
    assert [row["lungs"] for row in rows] == ["given", "given"]


# The command line


def test_help_and_an_unknown_method_list_what_takes_pictures(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["segment", "--help"])
    assert "with --slices opacitynet2d and opacitynet_clahe, too" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        cli.main(["segment", "--slices", str(folder), "--method", "magic"])
    able = "opacitynet2d, opacitynet_clahe, normnet, cyclegan, gan3d, uda"
    assert f"for pictures (--slices): {able}." in capsys.readouterr().err


def test_the_command_tells_what_was_done_and_where_it_lies(folder, tmp_path, register, capsys):
    register(Bright())
    arguments = [
        "segment",
        "--slices",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "--method",
        "bright",
        "--device",
        "cpu",
    ]
    assert cli.main([*arguments, "--progress", "json"]) == 0
    assert cli.main([*arguments, "--progress", "none"]) == 0
    said = capsys.readouterr().out
    assert "2 pictures, of which 2 done." in said
    assert all(name in said for name in segment_slices.CONTENTS)


@pytest.mark.parametrize("more", [["ct.nii.gz"], ["--orientation", "XY"]])
def test_what_makes_no_sense_is_wrong_usage(folder, more, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["segment", "--slices", str(folder), *more])
    assert caught.value.code == 2
