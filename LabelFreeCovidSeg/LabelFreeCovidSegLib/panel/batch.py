"""Many scans: a folder in, a folder out, in a process of its own that goes on where an earlier one stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel.work import Task, Words, WorkSection
from LabelFreeCovidSegLib.runner import Listener


class BatchSection(WorkSection):
    """Segments every scan of a folder; method and device are those chosen above.

    Args:
        changed: see `WorkSection`.
    """

    def __init__(self, ui: Any, logic: Any, changed: Callable[[], None]) -> None:
        words = Words(
            start=_("Segment all"),
            start_tip=_("Segment every scan of the folder. What is finished already is not done again."),
            cancel=_("Cancel batch"),
            cancel_tip=_("Stop after nothing half-written; what is finished stays, and the next run goes on."),
            starting=_("Starting"),
            cancelled=_("Cancelled. What is finished stays; the next run goes on from there."),
        )
        super().__init__(ui.batchButton, ui.batchProgressBar, ui.batchStatusLabel, ui.logText, words, changed)
        self._logic = logic

    def running(self) -> bool:
        return self._logic.isBatchRunning()

    def obstacle(self) -> str:
        if self._logic.isRunning():
            return _("A CT is being segmented. Wait for it or cancel it first.")
        chosen = self.parameters
        given = chosen and _given(chosen.batchInput) and _given(chosen.batchOutput)
        return "" if given else _("Choose both folders first.")

    def task(self) -> Task:
        chosen = self.parameters
        folders, method, device = (chosen.batchInput, chosen.batchOutput), chosen.method, chosen.device

        def start(listener: Listener) -> None:
            self._logic.startBatch(*folders, listener, method, device)

        return Task(start, lambda seconds: _("All scans are done. The table is batch.csv in the second folder."))

    def cancel(self) -> None:
        self._logic.cancelBatch()


def _given(path: Any) -> bool:
    """Whether a folder was chosen: an empty path line is the path "."."""
    return str(path) not in ("", ".")
