"""What the sections that start a child process share: one button that starts and cancels it, and what is seen of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from LabelFreeCovidSegLib.panel import estimate, install
from LabelFreeCovidSegLib.panel.section import Section
from LabelFreeCovidSegLib.runner import Listener, Step

SETTLING_MS = 600
"""So long after a start clicks are ignored, so that a double click does not cancel what it started."""


@dataclass(frozen=True)
class Words:
    """What a section says: on its button, in the button's tool tip, and in its status line.

    Attributes:
        start, start_tip: while nothing runs.
        cancel, cancel_tip: while it runs.
        starting: before the child has said anything.
        cancelled: after it was cancelled.
    """

    start: str
    start_tip: str
    cancel: str
    cancel_tip: str
    starting: str
    cancelled: str


@dataclass(frozen=True)
class Task:
    """What one click starts. It holds what was chosen then: by its end the fields may have changed, or be unbound.

    Attributes:
        start: called with who is told about it; raises `RuntimeError` if it can't be started.
        done: called with the seconds it took once it is complete; what to tell the user.
    """

    start: Callable[[Listener], None]
    done: Callable[[float], str]


class WorkSection(Section, ABC):
    """One button, which starts something and cancels it, a bar and a line that say how far it is, and its log.

    Args:
        button, bar, status, log: its widgets.
        words: what they say.
        changed: called after a start and after an end, for the other sections.
    """

    def __init__(self, button: Any, bar: Any, status: Any, log: Any, words: Words, changed: Callable[[], None]) -> None:
        self._button = button
        self._bar = bar
        self._status = status
        self._log = log
        self._words = words
        self._changed = changed
        self._settling = qt.QTimer()
        self._settling.setSingleShot(True)
        self._settling.setInterval(SETTLING_MS)
        button.connect("clicked(bool)", lambda checked: self.click())

    @abstractmethod
    def running(self) -> bool:
        """Whether it goes on."""

    @abstractmethod
    def obstacle(self) -> str:
        """Why it can't be started now, and what to do about it; "" if it can."""

    @abstractmethod
    def task(self) -> Task:
        """What a click starts now."""

    @abstractmethod
    def cancel(self) -> None:
        """End it; the listener's `cancelled` follows."""

    def show(self) -> None:
        words, running, obstacle = self._words, self.running(), self.obstacle()
        self._button.enabled = running or not obstacle
        self._button.text = words.cancel if running else words.start
        self._button.toolTip = words.cancel_tip if running else obstacle or words.start_tip
        self._bar.visible = running

    def click(self) -> None:
        """Start it, or end it if it is going on."""
        if self._settling.active:
            return
        if self.running():
            self.tell(_("Cancelling"))
            self.cancel()
            return
        task = self.task()  # before an installation, during which the user may go elsewhere
        if install.ensure(self.tell):
            self._start(task)

    def tell(self, message: str) -> None:
        """Show a sentence now, although the next step may keep the window busy for a moment."""
        self._status.text = message
        slicer.app.processEvents()

    def _start(self, task: Task) -> None:
        began = time.monotonic()
        listener = Listener(
            progress=self._on_step,
            log=self._log.appendPlainText,
            finished=lambda: self._end(task.done(time.monotonic() - began)),
            failed=self._end,
            cancelled=lambda: self._end(self._words.cancelled),
        )
        self._bar.value = 0
        self._log.clear()
        # Before anything is told, because telling lets events through, a second click among them.
        self._settling.start()
        self.tell(self._words.starting)
        try:
            task.start(listener)
        except RuntimeError as error:
            self._end(str(error))
        else:
            self._changed()

    def _on_step(self, step: Step) -> None:
        self._bar.value = round(100 * step.fraction)
        left = "" if step.seconds_left is None else _(", {time} left").format(time=estimate.words(step.seconds_left))
        self._status.text = step.phase + left

    def _end(self, message: str) -> None:
        self._status.text = message
        self._changed()
