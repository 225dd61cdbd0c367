"""The button, and what is seen of a run: phase, time left, log, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel import estimate, install
from LabelFreeCovidSegLib.panel.section import Section
from LabelFreeCovidSegLib.runner import Listener, Step

SETTLING_MS = 600
"""So long after a start clicks are ignored, so that a double click does not cancel what it started."""


class RunSection(Section):
    """One button, which starts a run and cancels it.

    Args:
        changed: called when a run begins and after it has ended, for the other sections.
    """

    def __init__(self, ui: Any, logic: Any, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._changed = changed
        self._began = 0.0
        self._settling = qt.QTimer()
        self._settling.setSingleShot(True)
        self._settling.setInterval(SETTLING_MS)
        ui.segmentButton.connect("clicked(bool)", lambda checked: self.click())

    def show(self) -> None:
        running = self._logic.isRunning()
        ready = bool(self.parameters and self.parameters.inputVolume) and not self._logic.isBusy()
        button = self._ui.segmentButton
        button.enabled = running or ready
        button.text = _("Cancel") if running else _("Segment lesions")
        if running:
            button.toolTip = _("End this run. The scene stays as it is.")
        elif self._logic.isBusy():
            button.toolTip = _("A batch is running. Wait for it or cancel it first.")
        else:
            button.toolTip = _("Outline the lesions of the chosen CT.") if ready else _("Select a chest CT first.")
        self._ui.progressBar.visible = running

    def click(self) -> None:
        """Start a run, or end the one that is going on."""
        if self._settling.active:
            return
        if self._logic.isRunning():
            self.tell(_("Cancelling"))
            self._logic.cancel()
        elif install.ensure(self.tell):
            self._start()

    def tell(self, message: str) -> None:
        """Show a sentence now, although the next step may keep the window busy for a moment."""
        self._ui.statusLabel.text = message
        slicer.app.processEvents()

    def _start(self) -> None:
        parameters = self.parameters
        listener = Listener(
            progress=self._on_step,
            log=self._ui.logText.appendPlainText,
            results=lambda: self.tell(_("Putting the result into the scene")),
            finished=self._on_finished,
            failed=self._end,
            cancelled=lambda: self._end(_("Cancelled. The scene is as it was.")),
        )
        self._began = time.monotonic()
        self._ui.progressBar.value = 0
        self._ui.logText.clear()
        # Before anything is told, because telling lets events through, a second click among them.
        self._settling.start()
        self.tell(_("Handing the CT over"))
        try:
            self._logic.start(
                parameters.inputVolume, listener, parameters.method, parameters.device, parameters.givenLungs
            )
        except RuntimeError as error:
            self._end(str(error))
        self._changed()

    def _on_step(self, step: Step) -> None:
        self._ui.progressBar.value = round(100 * step.fraction)
        left = "" if step.seconds_left is None else _(", {time} left").format(time=estimate.words(step.seconds_left))
        self._ui.statusLabel.text = step.phase + left

    def _on_finished(self) -> None:
        seconds = time.monotonic() - self._began
        estimate.remember(self.parameters.inputVolume, self.parameters.method, self.parameters.device, seconds)
        notes = self._logic.notes()
        self._end(" ".join([_("Done in {seconds} s.").format(seconds=round(seconds)), *notes]))

    def _end(self, message: str) -> None:
        self._ui.statusLabel.text = message
        self._changed()
