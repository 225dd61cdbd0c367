"""One CT: the button that segments it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel import estimate
from LabelFreeCovidSegLib.panel.work import Task, Words, WorkSection
from LabelFreeCovidSegLib.runner import Listener


class RunSection(WorkSection):
    """Outlines the lesions of the chosen CT, and puts them into the scene.

    Args:
        changed: see `WorkSection`.
    """

    def __init__(self, ui: Any, logic: Any, changed: Callable[[], None]) -> None:
        words = Words(
            start=_("Segment lesions"),
            start_tip=_("Outline the lesions of the chosen CT."),
            cancel=_("Cancel"),
            cancel_tip=_("End this run. The scene stays as it is."),
            starting=_("Handing the CT over"),
            cancelled=_("Cancelled. The scene is as it was."),
        )
        super().__init__(ui.segmentButton, ui.progressBar, ui.statusLabel, ui.logText, words, changed)
        self._logic = logic

    def running(self) -> bool:
        return self._logic.isRunning()

    def obstacle(self) -> str:
        if self._logic.isBatchRunning():
            return _("A batch is running. Wait for it or cancel it first.")
        return "" if self.parameters and self.parameters.inputVolume else _("Select a chest CT first.")

    def task(self) -> Task:
        chosen = self.parameters
        ct, method, device, lungs = chosen.inputVolume, chosen.method, chosen.device, chosen.givenLungs

        def start(listener: Listener) -> None:
            listener = replace(listener, results=lambda: self.tell(_("Putting the result into the scene")))
            self._logic.start(ct, listener, method, device, lungs)

        def done(seconds: float) -> str:
            estimate.remember(ct, method, device, seconds)
            return " ".join([_("Done in {seconds} s.").format(seconds=round(seconds)), *self._logic.notes()])

        return Task(start, done)

    def cancel(self) -> None:
        self._logic.cancel()
