"""The choice of methods in the panel: what the registry holds is what the user finds, and several can vote."""

from __future__ import annotations

import sys

import pytest
import slicer
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.scene import shown
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QCheckBox
from user import Panel


@pytest.fixture
def alone():
    """NormNet is the only method."""
    every = dict(base.REGISTRY)
    base.REGISTRY.clear()
    base.REGISTRY["normnet"] = every["normnet"]
    yield
    base.REGISTRY.clear()
    base.REGISTRY.update(every)  # in the same order


@pytest.fixture
def registered(alone, monkeypatch):
    """Another method, in one file and a line."""
    monkeypatch.setitem(base.REGISTRY, "dense", "dense")


def enter(panel):
    panel.widget.enter()
    panel.parameters.method = "normnet"


def boxes(panel):
    """The check boxes that a user sees, by their text."""
    return {box.text(): box for box in panel.votersWidget.findChildren(QCheckBox) if box.isVisible()}


def choose(panel, title):
    index = panel.methodComboBox.findText(title)
    panel.methodComboBox.setCurrentIndex(index)
    panel.methodComboBox.activated.emit(index)


def check(box):
    QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))


def test_with_one_method_nobody_is_asked_who_votes(alone, panel):
    enter(panel)
    assert panel.methodComboBox.count() == 1
    assert not panel.votersLabel.isVisible()
    assert not panel.votersWidget.isVisible()


def test_another_method_is_in_the_list_with_its_card(registered, panel):
    enter(panel)
    assert [panel.methodComboBox.itemText(n) for n in range(panel.methodComboBox.count())] == ["NormNet", "Density"]
    choose(panel, "Density")
    assert panel.parameters.method == "dense"
    card = panel.cardLabel.text()
    assert "Lung that is denser than a number of Hounsfield units." in card
    assert "Nobody. Nowhere &lt;2026&gt;." in card
    assert "The networks of dense are not installed" in card


def test_a_box_lets_another_method_vote_and_takes_its_vote_away(registered, panel):
    enter(panel)
    assert list(boxes(panel)) == ["Density"]
    check(boxes(panel)["Density"])
    assert panel.parameters.method == "normnet+dense"
    card = panel.cardLabel.text()
    assert "more than half of the methods" in card
    assert "Yao Q" in card
    assert "Nobody. Nowhere" in card
    assert "The networks of dense are not installed" in card
    assert "Trained on" in card
    check(boxes(panel)["Density"])
    assert panel.parameters.method == "normnet"


def test_choosing_a_method_that_votes_leaves_it_alone(registered, panel):
    enter(panel)
    panel.parameters.method = "normnet+dense"
    assert boxes(panel)["Density"].isChecked()
    choose(panel, "Density")
    assert panel.parameters.method == "dense"
    assert list(boxes(panel)) == ["NormNet"]
    assert not boxes(panel)["NormNet"].isChecked()


def test_a_method_that_is_not_there_any_more_is_named(panel):
    panel.widget.enter()
    panel.parameters.method = "normnet+magic"
    assert "There is no method &#x27;magic&#x27;" in panel.cardLabel.text()
    panel.parameters.method = "magic"
    assert panel.methodComboBox.currentIndex() == -1
    choose(panel, "NormNet")
    assert "Yao Q" in panel.cardLabel.text()


def test_the_child_hears_who_votes(registered, scene, patient, panel, monkeypatch, tmp_path):
    heard = []

    def refuse(ct, out, method, device, lungs):
        heard.append(method)
        return ["-c", "import sys; sys.exit(1)"]

    monkeypatch.setattr("LabelFreeCovidSegLib.panel.job.segment_arguments", refuse)
    patient.load()
    enter(panel)
    check(boxes(panel)["Density"])
    panel.click("segmentButton")
    panel.wait_for_the_end()
    assert heard == ["normnet+dense"]


def test_the_agreement_lies_over_the_ct_as_strongly_as_the_slider_says(scene, patient, panel, child):
    ct = patient.load()
    composite = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    child("""
from mrml import results
import shutil
results(ct, out)
shutil.copy(out / "anomaly.nii.gz", out / "agreement.nii.gz")
say(done={"folder": str(out), "files": {}})
""")
    panel.widget.enter()
    panel.click("segmentButton")
    panel.wait_for_the_end()
    index = panel.overlayComboBox.findText("Agreement of the methods")
    panel.overlayComboBox.activated.emit(index)
    panel.overlayOpacitySlider.setProperty("value", 0.8)
    assert panel.parameters.overlay == "agreement"
    assert composite.GetForegroundVolumeID() == shown(ct).agreement.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)
    assert set(slicer.util.arrayFromVolume(shown(ct).agreement).ravel()) == {10, 90}


def test_the_panel_opens_before_torch_is_installed(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in base.REGISTRY.values():
        monkeypatch.delitem(sys.modules, name, raising=False)
    opened = Panel(module)
    opened.widget.enter()
    assert "Yao Q" in opened.cardLabel.text()
    opened.widget.cleanup()
    opened.window.close()
