"""The Slicer module: outline COVID-19 lesions in a chest CT. The work is done in LabelFreeCovidSegLib."""

import logging
import pathlib
from typing import Annotated

import slicer
import vtk
from LabelFreeCovidSegLib import resources
from LabelFreeCovidSegLib.device import DEVICES
from LabelFreeCovidSegLib.methods.base import DEFAULT
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
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
            "OpacityNet, the default, is this project's own. It takes the idea of naming healthy tissue from NormNet: "
            "Q. Yao, L. Xiao, P. Liu, S. K. Zhou, Label-Free Segmentation of COVID-19 Lesions in Lung CT, IEEE "
            "Transactions on Medical Imaging 40 (10), 2021. Please cite whom the card of the method that you use names."
        )
        slicer.app.connect("startupCompleted()", loadTerminology)
        slicer.app.connect("startupCompleted()", registerSampleData)


def loadTerminology():
    """Teach Slicer the codes of the lesions, so that the Segment Editor and DICOM export show them."""
    path = resources.path("Terminologies", "LabelFreeCovidSeg.term.json")
    slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(path))


def registerSampleData():
    """Offer the made-up chests in the Sample Data module."""
    from LabelFreeCovidSegLib.panel import sample

    sample.register()


@parameterNodeWrapper
class LabelFreeCovidSegParameterNode:
    """The state of the panel; it is saved with the scene. What a run has made, the CT refers to (`scene.shown`).

    inputVolume: the chest CT in Hounsfield units.
    givenLungs: lungs that are there already; without them they are found.
    method: which method outlines the lesions; several names joined by "+" vote.
    device: where the network runs.
    lesionOpacity: of the lesions, in slices and in 3-D.
    showSurface: whether the lesions are seen in 3-D.
    overlay: what lies over the CT in the slice views.
    overlayOpacity: how strongly.
    batchInput, batchOutput: folders of a batch.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    givenLungs: vtkMRMLSegmentationNode
    method: str = DEFAULT
    device: Annotated[str, Choice(list(DEVICES))] = "auto"
    lesionOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    showSurface: bool = False
    overlay: Annotated[str, Choice(["none", "anomaly", "healthy", "agreement"])] = "none"
    overlayOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    batchInput: pathlib.Path
    batchOutput: pathlib.Path


class LabelFreeCovidSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It holds no state and computes nothing; each section of it is a file of LabelFreeCovidSegLib/panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.sections = []
        self._parameterNode = None
        self._connection = None

    def setup(self):
        from LabelFreeCovidSegLib.panel.batch import BatchSection
        from LabelFreeCovidSegLib.panel.measurements import MeasurementsSection
        from LabelFreeCovidSegLib.panel.method import MethodSection
        from LabelFreeCovidSegLib.panel.models import ModelsSection
        from LabelFreeCovidSegLib.panel.result import ResultSection
        from LabelFreeCovidSegLib.panel.review import ReviewSection
        from LabelFreeCovidSegLib.panel.run import RunSection

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/LabelFreeCovidSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = LabelFreeCovidSegLogic()
        self.sections = [
            MethodSection(self.ui),
            RunSection(self.ui, self.logic, self.show),
            ResultSection(self.ui),
            ReviewSection(self.ui),
            MeasurementsSection(self.ui),
            ModelsSection(self.ui),
            BatchSection(self.ui, self.logic, self.show),
        ]
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.bindParameterNode()

    def cleanup(self):
        self.logic.close()
        self.unbindParameterNode()
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

    def onSceneEndImport(self, caller=None, event=None):
        if self.parent.isEntered:
            self.bindParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node):
        """The CT of the run that is going on is gone: nobody waits for its result any more."""
        self.logic.removed(node)
        self.show()

    def bindParameterNode(self):
        """Bind widgets and parameters to each other; the CT is offered if it is the only one."""
        from LabelFreeCovidSegLib.scene import only_ct

        self.unbindParameterNode()
        self._parameterNode = self.logic.getParameterNode()
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = only_ct(slicer.mrmlScene)
        self._connection = self._parameterNode.connectGui(self.ui)
        for section in self.sections:
            section.bind(self._parameterNode)
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.show)

    def unbindParameterNode(self):
        if self._parameterNode is None:
            return
        self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.show)
        self._parameterNode.disconnectGui(self._connection)
        self._parameterNode = None
        for section in self.sections:
            section.unbind()

    def show(self, caller=None, event=None):
        """Bring all sections in line with the parameters, the scene, and what is running."""
        for section in self.sections:
            section.show()


class LabelFreeCovidSegLogic(ScriptedLoadableModuleLogic):
    """Runs segmentations; usable from the Python console, without the panel and without dialogs."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._job = None
        self._batch = None

    def getParameterNode(self):
        return LabelFreeCovidSegParameterNode(super().getParameterNode())

    def process(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        outputSegmentation: vtkMRMLSegmentationNode | None = None,
        method: str = DEFAULT,
        device: str = "auto",
        lungs: vtkMRMLSegmentationNode | None = None,
        showAnomaly: bool = False,
        showSurface: bool = False,
    ) -> vtkMRMLSegmentationNode:
        """Outline the lesions of a chest CT, and wait for it.

        :param inputVolume: chest CT in Hounsfield units.
        :param outputSegmentation: the node to fill; by default the CT's own, which the next run updates.
        :param method: name of a method, or names joined by "+", which vote; see the panel.
        :param device: "auto", "cpu", "cuda" or "mps".
        :param lungs: lungs that are there already; by default they are found.
        :param showAnomaly: also show what maps the method makes as volumes: anomaly, healthy reconstruction, agreement.
        :param showSurface: also make the surfaces for 3-D views, which takes some seconds.
        :return: the segmentation node of the lesions.
        :raises RuntimeError: the segmentation failed; the message says why, and the scene is as it was.
        """
        from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
        from LabelFreeCovidSegLib.panel.job import Job, Order
        from LabelFreeCovidSegLib.runner import Listener, SubprocessRunner

        failures = []
        runner = SubprocessRunner()
        order = Order(method, device, showAnomaly, showSurface)
        job = Job(runner, inputVolume, order, outputSegmentation, lungs)
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

    def start(
        self,
        inputVolume: vtkMRMLScalarVolumeNode,
        listener,
        method: str = DEFAULT,
        device: str = "auto",
        lungs: vtkMRMLSegmentationNode | None = None,
    ):
        """Start a run in the background; `listener` (a `runner.Listener`) hears of its end.

        :raises RuntimeError: a run is still going on, or the CT can't be handed over.
        """
        from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
        from LabelFreeCovidSegLib.panel.job import Job, Order
        from LabelFreeCovidSegLib.panel.qprocess import QProcessRunner

        if self.isBusy():
            raise RuntimeError(_("A segmentation is still running. Wait for it or cancel it first."))
        job = Job(QProcessRunner(), inputVolume, Order(method, device, anomaly=True), lungs=lungs)
        try:
            job.start(listener)
        except LabelFreeCovidSegError as error:
            raise RuntimeError(str(error)) from error
        self._job = job

    def cancel(self):
        """End the run that is going on, if any; its listener's `cancelled` follows."""
        if self.isRunning():
            self._job.stop()

    def removed(self, node):
        """End the run that is going on if `node`, which has left the scene, is its CT."""
        if self.isRunning() and node is self._job.ct:
            self._job.stop()

    def notes(self) -> tuple[str, ...]:
        """What a reader of the last result should look at, one sentence each."""
        return self._job.notes if self._job else ()

    def isRunning(self) -> bool:
        """Whether a run goes on."""
        return self._job is not None and self._job.running

    def startBatch(
        self, inputFolder: pathlib.Path, outputFolder: pathlib.Path, listener, method: str = DEFAULT,
        device: str = "auto",
    ):  # fmt: skip
        """Segment every scan under a folder in the background; what is finished already is not done again.

        :raises RuntimeError: a run or a batch is still going on.
        """
        from LabelFreeCovidSegLib.panel.job import Batch
        from LabelFreeCovidSegLib.panel.qprocess import QProcessRunner

        if self.isBusy():
            raise RuntimeError(_("A segmentation is still running. Wait for it or cancel it first."))
        self._batch = Batch(QProcessRunner(), inputFolder, outputFolder)
        self._batch.start(listener, method, device)

    def cancelBatch(self):
        """End the batch that is going on, if any; its listener's `cancelled` follows."""
        if self.isBatchRunning():
            self._batch.stop()

    def isBatchRunning(self) -> bool:
        """Whether a batch goes on."""
        return self._batch is not None and self._batch.running

    def isBusy(self) -> bool:
        """Whether a run or a batch goes on: one process at a time has the machine."""
        return self.isRunning() or self.isBatchRunning()

    def close(self):
        """End what is going on, if anything, and remove its files at once."""
        for work in (self._job, self._batch):
            if work is not None:
                work.close()


class LabelFreeCovidSegTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer: from Reload & Test, `Slicer --testing`, or Testing/slicer/run_in_slicer.sh."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        for test in (
            self.test_a_volume_without_image_is_refused_and_the_scene_stays_as_it_was,
            self.test_a_first_use,
        ):
            self.setUp()
            test()

    def test_a_volume_without_image_is_refused_and_the_scene_stays_as_it_was(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
        with self.assertRaisesRegex(RuntimeError, "'Nothing' holds no image"):  # noqa: PT027 - no pytest here
            LabelFreeCovidSegLogic().process(volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)  # noqa: PT009

    def test_a_first_use(self):
        """Sample, click, result, a stroke, the table: with the panel as it is on the screen."""
        from LabelFreeCovidSegLib.panel import sample
        from LabelFreeCovidSegLib.scene import shown

        ct = sample.make("ChestWithLesions")
        slicer.util.selectModule("LabelFreeCovidSeg")
        panel = slicer.util.getModuleWidget("LabelFreeCovidSeg")
        panel.ui.inputVolumeSelector.setCurrentNode(ct)
        panel.ui.segmentButton.click()
        self.assertEqual(panel.ui.segmentButton.text, _("Cancel"))  # noqa: PT009
        while panel.logic.isRunning():
            slicer.app.processEvents()
        result = shown(ct)
        self.assertIsNotNone(result, panel.ui.statusLabel.text)  # noqa: PT009
        before = panel.ui.measurementsTable.item(1, 0).text()
        painted = slicer.util.arrayFromSegmentBinaryLabelmap(result.lesions, "ground-glass-opacity", ct)
        painted[90:110, 100:120, 100:120] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(painted, result.lesions, "ground-glass-opacity", ct)
        self.delayDisplay("The table follows", 1500)
        self.assertNotEqual(panel.ui.measurementsTable.item(1, 0).text(), before)  # noqa: PT009
