"""How the result is shown: segments, opacity, surfaces, and one overlay at a time."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel.section import Choice, Section
from LabelFreeCovidSegLib.scene import shown

NONE, ANOMALY, HEALTHY, AGREEMENT = "none", "anomaly", "healthy", "agreement"


class ResultSection(Section):
    """The nodes of the chosen CT's result, as the parameters want them to be seen."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._overlaid = False
        titles = {
            NONE: _("None"),
            ANOMALY: _("Anomaly map"),
            HEALTHY: _("Healthy reconstruction"),
            AGREEMENT: _("Agreement of the methods"),
        }
        self._overlay = Choice(ui.overlayComboBox, titles, lambda name: setattr(self.parameters, "overlay", name))

    def show(self) -> None:
        parameters, ui = self.parameters, self._ui
        result = shown(parameters.inputVolume) if parameters and parameters.inputVolume else None
        ui.resultCollapsibleButton.enabled = result is not None
        ui.segmentsTable.setSegmentationNode(result.lesions if result else None)
        if parameters is None:
            return
        self._overlay.show(parameters.overlay)
        if result is None:
            return
        display = result.lesions.GetDisplayNode()
        _set(display, "Opacity", parameters.lesionOpacity)
        _set(display, "Visibility3D", parameters.showSurface)
        if parameters.showSurface:
            result.lesions.CreateClosedSurfaceRepresentation()  # does nothing where there is one
        nodes = {ANOMALY: result.anomaly, HEALTHY: result.healthy, AGREEMENT: result.agreement}
        self._lay(parameters, nodes.get(parameters.overlay))

    def _lay(self, parameters: Any, node: Any) -> None:
        """Lay `node` over the slices; a foreground that somebody else has chosen is left alone."""
        if node is None and not self._overlaid:
            return
        self._overlaid = node is not None
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if node is not None:
                _set(composite, "BackgroundVolumeID", parameters.inputVolume.GetID())
                _set(composite, "ForegroundOpacity", parameters.overlayOpacity)
            _set(composite, "ForegroundVolumeID", node.GetID() if node is not None else None)


def _set(node: Any, name: str, value: Any) -> None:
    """Set a MRML property only if it changes: every change is an event, and events come back here."""
    if getattr(node, f"Get{name}")() != value:
        getattr(node, f"Set{name}")(value)
