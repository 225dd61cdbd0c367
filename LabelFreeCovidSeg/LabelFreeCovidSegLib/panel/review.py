"""Slicer's own Segment Editor on the lesions."""

from __future__ import annotations

from typing import Any

import slicer

from LabelFreeCovidSegLib.panel.section import Section
from LabelFreeCovidSegLib.scene import shown

EDITOR_TAG = "LabelFreeCovidSeg"


class ReviewSection(Section):
    """The editor works on the lesions of the chosen CT, over that CT, with undo."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        ui.segmentEditor.setMaximumNumberOfUndoStates(10)
        ui.segmentEditor.setSegmentationNodeSelectorVisible(False)
        ui.segmentEditor.setSourceVolumeNodeSelectorVisible(False)

    def show(self) -> None:
        ct = self.parameters.inputVolume if self.parameters else None
        result = shown(ct) if ct else None
        self._ui.reviewCollapsibleButton.enabled = result is not None
        editor = self._ui.segmentEditor
        editor.setMRMLSegmentEditorNode(_editor_node() if result else None)
        editor.setSegmentationNode(result.lesions if result else None)
        editor.setSourceVolumeNode(ct if result else None)


def _editor_node() -> Any:
    """The panel's own editor node: the Segment Editor module keeps another, with other settings."""
    node = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(EDITOR_TAG)
        node = slicer.mrmlScene.AddNode(node)
    return node
