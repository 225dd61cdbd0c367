"""Many scans: a folder in, a folder out, in a process of its own that goes on where an earlier one stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel import estimate, install
from LabelFreeCovidSegLib.panel.section import Section
from LabelFreeCovidSegLib.runner import Listener, Step


class BatchSection(Section):
    """One button, which starts the batch and cancels it; method and device are those chosen above.

    Args:
        changed: called when a batch begins and after it has ended, for the other sections.
    """

    def __init__(self, ui: Any, logic: Any, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._changed = changed
        ui.batchButton.connect("clicked(bool)", lambda checked: self.click())

    def show(self) -> None:
        running = self._logic.isBatchRunning()
        chosen = bool(self.parameters and _given(self.parameters.batchInput) and _given(self.parameters.batchOutput))
        button = self._ui.batchButton
        button.enabled = running or (chosen and not self._logic.isBusy())
        button.text = _("Cancel batch") if running else _("Segment all")
        if running:
            button.toolTip = _("Stop after nothing half-written; what is finished stays, and the next run goes on.")
        elif chosen:
            button.toolTip = _("Segment every scan of the folder. What is finished already is not done again.")
        else:
            button.toolTip = _("Choose both folders first.")
        self._ui.batchProgressBar.visible = running

    def click(self) -> None:
        """Start the batch, or end the one that is going on."""
        if self._logic.isBatchRunning():
            self._logic.cancelBatch()
        elif install.ensure(self._tell):
            self._start()

    def _start(self) -> None:
        parameters = self.parameters
        listener = Listener(
            progress=self._on_step,
            log=self._ui.logText.appendPlainText,
            finished=lambda: self._end(_("All scans are done. The table is batch.csv in the second folder.")),
            failed=self._end,
            cancelled=lambda: self._end(_("Cancelled. What is finished stays; the next run goes on from there.")),
        )
        self._ui.batchProgressBar.value = 0
        self._tell(_("Starting"))
        try:
            self._logic.startBatch(
                parameters.batchInput, parameters.batchOutput, listener, parameters.method, parameters.device
            )
        except RuntimeError as error:
            self._end(str(error))
        self._changed()

    def _on_step(self, step: Step) -> None:
        self._ui.batchProgressBar.value = round(100 * step.fraction)
        left = "" if step.seconds_left is None else _(", {time} left").format(time=estimate.words(step.seconds_left))
        self._tell(step.phase + left)

    def _tell(self, message: str) -> None:
        self._ui.batchStatusLabel.text = message

    def _end(self, message: str) -> None:
        self._tell(message)
        self._changed()


def _given(path: Any) -> bool:
    """Whether a folder was chosen: an empty path line is the path "."."""
    return str(path) not in ("", ".")
