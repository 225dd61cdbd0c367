"""The Slicer module: outline COVID-19 lesions in a chest CT. The work is done in LabelFreeCovidSegLib."""

import logging
from typing import Annotated

import slicer
import vtk
from LabelFreeCovidSegLib import resources
from LabelFreeCovidSegLib.device import DEVICES
from LabelFreeCovidSegLib.methods.base import REGISTRY
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class LabelFreeCovidSeg(ScriptedLoadableModule):
    """What the module list says about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Label-Free COVID-19 Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Terminologies", "Volumes"]
        parent.contributors = ["LabelFreeCovidSeg contributors"]
        parent.helpText = _(
            "Outlines ground-glass opacity and consolidation of COVID-19 pneumonia in chest CT, with a network that "
            "was trained without one lesion label. The result is an editable segmentation. Not for clinical use."
        )
        parent.acknowledgementText = _(
            "NormNet: Q. Yao, L. Xiao, P. Liu, S. K. Zhou, Label-Free Segmentation of COVID-19 Lesions in Lung CT, "
            "IEEE Transactions on Medical Imaging 40 (10), 2021. Please cite this paper if you use its results."
        )
        slicer.app.connect("startupCompleted()", loadTerminology)


def loadTerminology():
    """Teach Slicer the codes of the lesions, so that the Segment Editor and DICOM export show them."""
    path = resources.path("Terminologies", "LabelFreeCovidSeg.term.json")
    slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(path))


@parameterNodeWrapper
class LabelFreeCovidSegParameterNode:
    """The state of the panel; it is saved with the scene.

    inputVolume: the chest CT in Hounsfield units.
    method: which method outlines the lesions.
    device: where the network runs.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    method: Annotated[str, Choice(list(REGISTRY))] = "normnet"
    device: Annotated[str, Choice(list(DEVICES))] = "auto"


class LabelFreeCovidSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It holds no state and computes nothing."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._connection = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/LabelFreeCovidSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = LabelFreeCovidSegLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.segmentButton.connect("clicked(bool)", self.onSegmentButton)
        self.ui.progressBar.visible = False
        self.bindParameterNode()

    def cleanup(self):
        self.logic.close()
        self.removeObservers()

    def enter(self):
        self.bindParameterNode()

    def exit(self):
        self.unbindParameterNode()

    def onSceneStartClose(self, caller=None, event=None):
        self.logic.cancel()
        self.unbindParameterNode()

    def onSceneEndClose(self, caller=None, event=None):
        if self.parent.isEntered:
            self.bindParameterNode()

    def bindParameterNode(self):
        """Bind widgets and parameters to each other; the first CT of the scene is offered."""
        self.unbindParameterNode()
        self._parameterNode = self.logic.getParameterNode()
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self._connection = self._parameterNode.connectGui(self.ui)
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateButton)
        self.updateButton()

    def unbindParameterNode(self):
        if self._parameterNode:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateButton)
            self._parameterNode.disconnectGui(self._connection)
        self._parameterNode = None

    def updateButton(self, caller=None, event=None):
        running = self.logic.isRunning()
        hasVolume = bool(self._parameterNode and self._parameterNode.inputVolume)
        self.ui.segmentButton.enabled = running or hasVolume
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment lesions")
        self.ui.segmentButton.toolTip = "" if running or hasVolume else _("Select a chest CT first.")
        self.ui.progressBar.visible = running

    def onSegmentButton(self, checked=False):
        """Start a run, or end the one that is going on."""
        if self.logic.isRunning():
            self.logic.cancel()
            return
        from LabelFreeCovidSegLib.runner import Listener

        listener = Listener(
            progress=self.onProgress,
            log=logging.info,
            finished=lambda: self.onEnd(_("Done.")),
            failed=self.onEnd,
            cancelled=lambda: self.onEnd(_("Cancelled.")),
        )
        self.ui.progressBar.value = 0
        self.ui.statusLabel.text = _("Handing the CT over")
        parameters = self._parameterNode
        try:
            self.logic.start(parameters.inputVolume, listener, method=parameters.method, device=parameters.device)
        except RuntimeError as error:
            self.onEnd(str(error))
        self.updateButton()

    def onProgress(self, step):
        self.ui.progressBar.value = round(100 * step.fraction)
        left = "" if step.seconds_left is None else _(", {seconds} s left").format(seconds=round(step.seconds_left))
        self.ui.statusLabel.text = step.phase + left

    def onEnd(self, message):
        self.ui.statusLabel.text = message
        self.updateButton()


class LabelFreeCovidSegLogic(ScriptedLoadableModuleLogic):
    """Runs segmentations; usable from the Python console, without the panel and without dialogs."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._job = None

    def getParameterNode(self):
        return LabelFreeCovidSegParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        outputSegmentation: vtkMRMLSegmentationNode | None = None,
        method: str = "normnet",
        device: str = "auto",
        showAnomaly: bool = False,
        showSurface: bool = False,
    ) -> vtkMRMLSegmentationNode:
        """Outline the lesions of a chest CT, and wait for it.

        :param inputVolume: chest CT in Hounsfield units.
        :param outputSegmentation: the node to fill; by default the CT's own, which the next run updates.
        :param method: name of a method; see the panel.
        :param device: "auto", "cpu", "cuda" or "mps".
        :param showAnomaly: also show the method's anomaly map as a volume.
        :param showSurface: also make the surfaces for 3-D views, which takes some seconds.
        :return: the segmentation node of the lesions.
        :raises RuntimeError: the segmentation failed; the message says why, and the scene is as it was.
        """
        from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
        from LabelFreeCovidSegLib.panel.job import Job, Order
        from LabelFreeCovidSegLib.runner import Listener, SubprocessRunner

        failures = []
        runner = SubprocessRunner()
        job = Job(runner, inputVolume, Order(method, device, showAnomaly, showSurface), outputSegmentation)
        try:
            job.start(Listener(log=logging.info, failed=failures.append))
            runner.wait()
        except LabelFreeCovidSegError as error:
            raise RuntimeError(str(error)) from error
        finally:
            job.close()
        if job.shown is None:
            raise RuntimeError(failures[0] if failures else _("The segmentation was cancelled."))
        return job.shown.lesions

    def start(self, inputVolume: vtkMRMLScalarVolumeNode, listener, method: str = "normnet", device: str = "auto"):
        """Start a run in the background; `listener` (a `runner.Listener`) hears of its end.

        :raises RuntimeError: a run is still going on, or the CT can't be handed over.
        """
        from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
        from LabelFreeCovidSegLib.panel.job import Job, Order
        from LabelFreeCovidSegLib.panel.qprocess import QProcessRunner

        if self.isRunning():
            raise RuntimeError(_("A segmentation is still running. Wait for it or cancel it first."))
        job = Job(QProcessRunner(), inputVolume, Order(method, device))
        try:
            job.start(listener)
        except LabelFreeCovidSegError as error:
            raise RuntimeError(str(error)) from error
        self._job = job

    def cancel(self):
        """End the run that is going on, if any; its listener's `cancelled` follows."""
        if self.isRunning():
            self._job.stop()

    def close(self):
        """End the run that is going on, if any, and remove its files at once."""
        if self._job is not None:
            self._job.close()

    def isRunning(self) -> bool:
        return self._job is not None and self._job.running


class LabelFreeCovidSegTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer, from the Reload & Test button or `Slicer --testing`."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_a_volume_without_image_is_refused_and_the_scene_stays_as_it_was()

    def test_a_volume_without_image_is_refused_and_the_scene_stays_as_it_was(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
        with self.assertRaisesRegex(RuntimeError, "'Nothing' holds no image"):  # noqa: PT027 - no pytest here
            LabelFreeCovidSegLogic().process(volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)  # noqa: PT009
