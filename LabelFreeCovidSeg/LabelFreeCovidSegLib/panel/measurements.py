"""The table of volumes. It follows every correction, half a second after the last stroke."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from LabelFreeCovidSegLib.panel.section import Section
from LabelFreeCovidSegLib.quantify import Measurements
from LabelFreeCovidSegLib.scene import Shown, measure, shown

PAUSE_MS = 500


class MeasurementsSection(Section, VTKObservationMixin):
    """Counts voxels of the segments as they are now, so that it is right after an edit and after loading a scene."""

    def __init__(self, ui: Any) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._result: Shown | None = None
        self._pause = qt.QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.connect("timeout()", self.count)
        table = ui.measurementsTable
        rows = [_("Lung, mL"), _("Ground glass, mL"), _("Consolidation, mL"), _("Lesion, mL"), _("Lesion, % of lung")]
        table.setRowCount(len(rows))
        table.setVerticalHeaderLabels(rows)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        ui.copyButton.connect("clicked(bool)", lambda checked: self.copy())
        ui.measurementsNote.text = _(
            "Counted from the segments as they are now, corrections included. Not for clinical use."
        )
        self.count()

    def show(self) -> None:
        ct = self.parameters.inputVolume if self.parameters else None
        result = shown(ct) if ct else None
        if _nodes(result) == _nodes(self._result):
            return
        self.removeObservers()
        self._result = result
        if result:
            for node in (result.lesions, result.lungs):
                segmentation = node.GetSegmentation()
                for event in ("SourceRepresentationModified", "SegmentAdded", "SegmentRemoved"):
                    self.addObserver(segmentation, getattr(slicer.vtkSegmentation, event), self._edited)
        self.count()

    def unbind(self) -> None:
        super().unbind()
        self.show()

    def count(self) -> None:
        """Fill the table now."""
        self._pause.stop()
        table = self._ui.measurementsTable
        self._ui.measurementsCollapsibleButton.enabled = self._result is not None
        columns = _columns(measure(self._result, self.parameters.inputVolume)) if self._result else []
        table.setColumnCount(len(columns))
        table.setHorizontalHeaderLabels([name for name, _cells in columns])
        for column, (_name, cells) in enumerate(columns):
            for row, text in enumerate(cells):
                table.setItem(row, column, qt.QTableWidgetItem(text))

    def copy(self) -> None:
        """Put the table on the clipboard, tabs between columns."""
        table = self._ui.measurementsTable
        head = [""] + [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
        lines = [
            [table.verticalHeaderItem(row).text()]
            + [table.item(row, column).text() for column in range(table.columnCount)]
            for row in range(table.rowCount)
        ]
        qt.QApplication.clipboard().setText("\n".join("\t".join(line) for line in [head, *lines]))

    def _edited(self, caller: Any = None, event: Any = None) -> None:
        self._pause.start()


def _nodes(result: Shown | None) -> tuple[Any, ...]:
    return (result.lesions, result.lungs) if result else ()


def _columns(measurements: Measurements) -> list[tuple[str, list[str]]]:
    titles = {"both": _("Both"), "right": _("Right"), "left": _("Left")}
    return [
        (
            titles[region.name],
            [
                f"{region.lung_ml:.0f}",
                f"{region.ground_glass_ml:.1f}",
                f"{region.consolidation_ml:.1f}",
                f"{region.lesion_ml:.1f}",
                f"{region.lesion_percent:.1f}",
            ],
        )
        for region in measurements.regions
    ]
