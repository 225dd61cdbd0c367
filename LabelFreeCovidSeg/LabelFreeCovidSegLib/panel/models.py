"""The networks on this computer: where they lie, and whether they are what they claim to be."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from LabelFreeCovidSegLib import store
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.panel.section import Section


class ModelsSection(Section):
    """A table of the model store. Files are hashed when the section is opened, not before."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        ui.modelsTable.setColumnCount(3)
        ui.modelsTable.setHorizontalHeaderLabels([_("Networks"), _("Files"), _("Licence")])
        ui.modelsTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        ui.modelsTable.verticalHeader().hide()
        ui.modelsCollapsibleButton.connect("contentsCollapsed(bool)", self._toggled)
        ui.installModelButton.connect("clicked(bool)", lambda checked: self._choose_file())
        ui.openModelsButton.connect("clicked(bool)", lambda checked: self._open_folder())

    def _toggled(self, collapsed: bool) -> None:
        if not collapsed:
            self.fill()

    def fill(self) -> None:
        """Fill the table."""
        states = {
            "verified": _("verified"),
            "damaged": _("damaged: install it again"),
            "missing": _("files missing: install it again"),
        }
        try:
            rows = store.entries()
        except WeightsError as error:
            self._ui.modelsStatus.text = str(error)
            rows = []
        self._ui.modelsTable.setRowCount(len(rows))
        for number, stored in enumerate(rows):
            its = stored.entry
            for column, text in enumerate((f"{its.name} {its.version}", states[stored.state], its.licence)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(_("{text}, in {folder}").format(text=text, folder=stored.folder))
                self._ui.modelsTable.setItem(number, column, item)

    def install(self, path: str) -> None:
        """Install the networks in a file, and say how that went."""
        try:
            names = [stored.entry.label for stored in store.install(path)]
        except WeightsError as error:
            self._ui.modelsStatus.text = str(error)
        else:
            self._ui.modelsStatus.text = _("Installed: {names}").format(names=", ".join(names))
        self.fill()

    def _choose_file(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._ui.modelsTable, _("Networks to install"), "", _("Networks (*.zip)"))
        if path:
            self.install(path)

    def _open_folder(self) -> None:
        folder = store.user_folder()
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))
