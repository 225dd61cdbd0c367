"""segment(): the one door, with a stand-in method where the network's answer does not matter."""

import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from LabelFreeCovidSegLib import device, phantom, pipeline
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import CancelledError, LabelFreeCovidSegError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.methods.base import Card, Prediction

CARD = Card("stand-in", "Stand-in", "Marks what is dense.", "nobody")


class StandIn:
    """Marks lung above -300 HU, and remembers where it was asked to compute."""

    card = CARD
    weights = "none"

    def __init__(self, fails_on=""):
        self.fails_on = fails_on
        self.asked = []

    def predict(self, scan, lungs, compute, progress):
        self.asked.append(compute)
        if compute.device == self.fails_on:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        progress(0.5, "Thinking")
        lesion = ((scan.hu > -300) & (lungs.labels > 0)).astype(np.uint8)
        return Prediction(lesion, lesion.astype(np.float32))


@pytest.fixture
def method(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(base.REGISTRY, "stand-in", "stand_in")
    monkeypatch.setattr(base, "_module", lambda name: types.SimpleNamespace(CARD=CARD, load=lambda: stand_in))
    return stand_in


@pytest.fixture(scope="module")
def chest():
    return phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def lung_file(chest, tmp_path_factory):
    path = tmp_path_factory.mktemp("lungs") / "lungs.nrrd"
    sitk.WriteImage(chest.scan.native_image(chest.lungs), str(path))
    return path


def segment(chest, lung_file: Path, **more):
    return pipeline.segment(chest.scan, method="stand-in", lungs=lung_file, **more)


def test_classes_sum_to_the_lesion_and_regions_to_the_whole(method, chest, lung_file):
    result = segment(chest, lung_file, device_name="cpu")
    lesion = (chest.scan.hu > -300) & (chest.lungs > 0)
    np.testing.assert_array_equal(result.classes > 0, lesion)
    both, right, left = result.measurements.regions
    assert both.lesion_ml == pytest.approx(lesion.sum() * chest.scan.grid.voxel_ml)
    assert right.lesion_ml + left.lesion_ml == pytest.approx(both.lesion_ml)


def test_a_method_that_tells_its_classes_is_believed_and_its_warnings_reach_the_reader(method, chest, lung_file):
    predict = method.predict

    def telling(*arguments):
        found = predict(*arguments)
        return replace(found, classes=2 * found.lesion, warnings=("Look twice.",))

    method.predict = telling
    result = segment(chest, lung_file, device_name="cpu")
    assert set(np.unique(result.classes)) == {0, 2}
    assert result.measurements.regions[0].ground_glass_ml == 0
    assert result.measurements.band is None
    assert result.run.warnings[-1] == "Look twice."


def test_the_result_records_how_it_came_about(method, chest, lung_file):
    result = segment(chest, lung_file, device_name="cpu", precision="float32")
    run = result.run
    assert run.card == CARD
    assert run.compute == Compute("cpu", "float32")
    assert list(run.seconds) == ["start", "lungs", "lesions", "measures"]
    assert {"LabelFreeCovidSeg", "torch", "numpy"} <= set(run.versions)
    assert run.warnings == result.lungs.warnings


def test_out_of_graphics_memory_is_retried_on_the_cpu_and_said(method, chest, lung_file, monkeypatch):
    method.fails_on = "cuda"
    choose = device.choose
    there = Compute("cuda", "float32")
    monkeypatch.setattr(device, "choose", lambda name, *rest: there if name == "auto" else choose(name, *rest))
    result = segment(chest, lung_file)
    assert [compute.device for compute in method.asked] == ["cuda", "cpu"]
    assert result.run.compute.device == "cpu"
    assert any("ran out of memory" in warning for warning in result.run.warnings)
    assert result.classes.any()


def test_progress_never_goes_back_and_ends_at_one(method, chest, lung_file):
    heard = []
    segment(chest, lung_file, device_name="cpu", progress=lambda fraction, phase: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_cancelling_passes_through(method, chest, lung_file):
    def cancel(fraction, phase):
        if phase == "Thinking":
            raise CancelledError("stop")

    with pytest.raises(CancelledError):
        segment(chest, lung_file, device_name="cpu", progress=cancel)


def test_an_unknown_method_is_answered_with_the_known_ones(chest):
    with pytest.raises(LabelFreeCovidSegError, match=r"no method 'magic'\. Choose one of: opacitynet, normnet"):
        pipeline.segment(chest.scan, method="magic")


def test_a_device_that_is_not_there_is_answered_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabelFreeCovidSegError, match=r"'cuda' is not available here\. Choose one of: auto, .*cpu"):
        device.choose("cuda")


@pytest.mark.parametrize(
    ("amx", "avx", "precision"),
    [(True, True, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_the_cpu_computes_in_bfloat16_only_where_it_multiplies_it(monkeypatch, amx, avx, precision):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert device.choose("cpu") == Compute("cpu", precision)
    assert device.choose("cpu", "float32") == Compute("cpu", "float32")
