"""The module's Logic, from a node in the scene through a real child process to a segmentation in the scene.

The child is a stand-in script that speaks the program's protocol and writes known results; `test_end_to_end.py` runs
the program itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import vtk
from LabelFreeCovidSegLib import terminology
from LabelFreeCovidSegLib.methods.base import DEFAULT, card
from LabelFreeCovidSegLib.panel.job import Job, Order
from LabelFreeCovidSegLib.runner import Listener, SubprocessRunner

MODULE = Path(__file__).resolve().parents[2] / "LabelFreeCovidSeg"

SUCCEED = """
from mrml import results
say(fraction=0.5, phase="Finding lesions", seconds_left=1.0)
results(ct, out)
say(done={"folder": str(out), "files": {}})
"""
FAIL = """
say(error={"kind": "LungError", "message": "ct.nrrd: no lungs in view. Choose a chest CT."})
sys.exit(1)
"""
CRASH = "os.kill(os.getpid(), signal.SIGKILL)"
HANG = """
say(fraction=0.5, phase="Finding lesions", seconds_left=None)
threading.Event().wait()
"""
LIE = 'say(done={"folder": str(out), "files": {}})'


@pytest.fixture
def ct(scene, patient):
    return patient.load()


@pytest.fixture
def heard():
    return []


def listener(heard, on_step=lambda: None) -> Listener:
    return Listener(
        progress=lambda step: on_step(),
        finished=lambda: heard.append("finished"),
        failed=heard.append,
        cancelled=lambda: heard.append("cancelled"),
    )


def test_process_puts_the_lesions_on_the_truth_and_leaves_no_file(
    module, ct, patient, child, temporary, centres, tmp_path
):
    child(SUCCEED)
    lesions = module.LabelFreeCovidSegLogic().process(ct)
    for segment in terminology.LESIONS:
        np.testing.assert_allclose(centres(lesions, segment.id), patient.centres(segment.id), atol=1e-3)
    assert not list(temporary.iterdir())


def test_process_fills_the_given_node_and_shows_more_on_request(module, scene, ct, child, temporary):
    child(SUCCEED)
    mine = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    assert module.LabelFreeCovidSegLogic().process(ct, mine, showAnomaly=True, showSurface=True) is mine
    assert mine.GetSegmentation().ContainsRepresentation("Closed surface")
    assert slicer.util.getNode("CT anomaly map")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (FAIL, "^ct.nrrd: no lungs in view. Choose a chest CT.$"),
        (CRASH, "memory ran out"),
        ("import nothing_like_it", "No module named 'nothing_like_it'"),
        (LIE, "lesions.nii.gz: this file of the result is missing"),
    ],
    ids=["an error", "a kill", "a crash", "a false success"],
)
def test_process_raises_one_message_and_leaves_scene_and_disk_as_they_were(
    module, scene, ct, child, temporary, code, message
):
    child(code)
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(RuntimeError, match=message):
        module.LabelFreeCovidSegLogic().process(ct)
    assert scene.GetNumberOfNodes() == nodes
    assert not list(temporary.iterdir())


def test_process_refuses_a_volume_without_image(module, scene, temporary):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    with pytest.raises(RuntimeError, match="'Nothing' holds no image"):
        module.LabelFreeCovidSegLogic().process(empty)
    assert not list(temporary.iterdir())


def test_a_cancelled_job_leaves_scene_and_disk_as_they_were(scene, ct, child, temporary, heard):
    child(HANG)
    nodes = scene.GetNumberOfNodes()
    runner = SubprocessRunner()
    job = Job(runner, ct, Order())
    job.start(listener(heard, on_step=job.stop))
    assert job.running
    runner.wait()
    assert heard == ["cancelled"]
    assert not job.running
    assert job.shown is None
    assert scene.GetNumberOfNodes() == nodes
    assert not list(temporary.iterdir())


def test_a_ct_deleted_during_the_run_ends_in_one_message_and_no_node(scene, ct, child, temporary, heard):
    child(SUCCEED)
    runner = SubprocessRunner()
    job = Job(runner, ct, Order())
    job.start(listener(heard, on_step=lambda: scene.RemoveNode(ct)))
    runner.wait()
    (message,) = heard
    assert "CT was removed from the scene" in message
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a word of VTK's"), OSError(5, "Input/output error")])
def test_an_unforeseen_error_while_the_result_is_shown_ends_the_run(ct, child, temporary, heard, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("LabelFreeCovidSegLib.panel.job.show", fail)
    child(SUCCEED)
    runner, logged = SubprocessRunner(), []
    job = Job(runner, ct, Order())
    job.start(replace(listener(heard), log=logged.append))
    runner.wait()
    (message,) = heard
    assert message.startswith(f"The result can't be shown ({error!r}). ")
    assert "Traceback" in logged[-1]
    assert not job.running
    assert job.shown is None
    assert not list(temporary.iterdir())


def test_damaged_numbers_of_a_result_end_the_run_and_leave_the_scene_as_it_was(scene, ct, child, temporary, heard):
    child(SUCCEED.replace("say(done", '(out / "measurements.json").write_text("{")\nsay(done'))
    nodes = scene.GetNumberOfNodes()
    runner = SubprocessRunner()
    job = Job(runner, ct, Order())
    job.start(listener(heard))
    runner.wait()
    (message,) = heard
    assert message.startswith("The result can't be shown (JSONDecodeError(")
    assert not job.running
    assert scene.GetNumberOfNodes() == nodes
    assert not list(temporary.iterdir())


def test_the_module_list_names_the_default_method_and_the_paper_that_it_stands_on(module):
    parent = SimpleNamespace()
    module.LabelFreeCovidSeg(parent)
    assert card(DEFAULT).title in parent.acknowledgementText
    assert "Label-Free Segmentation of COVID-19 Lesions in Lung CT" in parent.acknowledgementText


def test_slicer_reads_our_terminology_and_finds_every_segment_in_it(module, scene):
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    slicer.modules.terminologies = SimpleNamespace(logic=lambda: logic)
    module.loadTerminology()
    names = vtk.vtkStringArray()
    logic.GetLoadedTerminologyNames(names)
    assert terminology.CONTEXT in [names.GetValue(i) for i in range(names.GetNumberOfValues())]
    known = set(_known(logic, terminology.CONTEXT))
    for segment in (*terminology.LESIONS, *terminology.LUNGS):
        assert (segment.category.value, segment.type.value, segment.modifier.value, segment.rgb) in known


def _known(logic, context):
    """Every (category, type, modifier, colour) of a loaded terminology; modifier "" for a type as such."""
    category, kind = slicer.vtkSlicerTerminologyCategory(), slicer.vtkSlicerTerminologyType()
    modifier = slicer.vtkSlicerTerminologyType()
    for i in range(logic.GetNumberOfCategoriesInTerminology(context)):
        logic.GetNthCategoryInTerminology(context, i, category)
        for j in range(logic.GetNumberOfTypesInTerminologyCategory(context, category)):
            logic.GetNthTypeInTerminologyCategory(context, category, j, kind)
            names = category.GetCodeValue(), kind.GetCodeValue()
            yield *names, "", tuple(kind.GetRecommendedDisplayRGBValue())
            for k in range(logic.GetNumberOfTypeModifiersInTerminologyType(context, category, kind)):
                logic.GetNthTypeModifierInTerminologyType(context, category, kind, k, modifier)
                yield *names, modifier.GetCodeValue(), tuple(modifier.GetRecommendedDisplayRGBValue())


def test_loading_the_module_imports_nothing_heavy():
    code = """
import sys
from types import ModuleType
for name, content in {
    "slicer": ["vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"],
    "slicer.i18n": ["tr", "translate"],
    "slicer.parameterNodeWrapper": ["Choice", "WithinRange", "parameterNodeWrapper"],
    "slicer.util": ["VTKObservationMixin"],
    "slicer.ScriptedLoadableModule": [
        "ScriptedLoadableModule" + kind for kind in ("", "Logic", "Test", "Widget")
    ],
}.items():
    stand_in = sys.modules[name] = ModuleType(name)
    vars(stand_in).update({entry: type(entry, (), {"__init__": lambda self, *_: None}) for entry in content})
import LabelFreeCovidSeg
print([name for name in ("torch", "SimpleITK", "scipy", "qt") if name in sys.modules])
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(MODULE)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "[]", run.stderr
