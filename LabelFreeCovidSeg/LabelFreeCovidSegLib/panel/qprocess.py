"""The child process inside Slicer's event loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qt

from LabelFreeCovidSegLib.runner import Conversation, Listener, command, environment


class QProcessRunner:
    """A `runner.Runner` on Qt: the listener is called from the event loop, so the window stays alive."""

    def __init__(self) -> None:
        self._process: Any = None  # kept after its end: it may not be deleted in its own signal
        self._running = False
        self._stopped = False

    def start(self, arguments: Sequence[str], folder: Path, listener: Listener) -> None:
        """See `Runner`. Raises `RuntimeError` if a run is still going on."""
        if self._running:
            raise RuntimeError("A run is still going on. Wait for it or stop it first.")
        self._running, self._stopped = True, False
        conversation = Conversation(listener)
        process = self._process = qt.QProcess()
        variables = qt.QProcessEnvironment.systemEnvironment()
        for name, value in environment(folder).items():
            variables.insert(name, value)
        process.setProcessEnvironment(variables)
        process.setWorkingDirectory(str(folder))
        process.connect("readyReadStandardOutput()", lambda: self._listen(process, conversation))
        process.connect("readyReadStandardError()", lambda: self._listen(process, conversation))
        process.connect("finished(int,QProcess::ExitStatus)", lambda code, _: self._end(process, conversation, code))
        process.connect("errorOccurred(QProcess::ProcessError)", lambda error: self._fail(error, listener))
        program, *rest = command(arguments)
        process.start(program, rest)

    def stop(self) -> None:
        """See `Runner`. The interpreter behind Slicer's launcher ends when its standard input closes."""
        if self._running:
            self._stopped = True
            self._process.closeWriteChannel()
            self._process.kill()

    def _listen(self, process: Any, conversation: Conversation) -> None:
        for channel in (qt.QProcess.StandardOutput, qt.QProcess.StandardError):
            process.setReadChannel(channel)
            while process.canReadLine():
                conversation.hear(process.readLine().data().decode("utf-8", "replace"))

    def _end(self, process: Any, conversation: Conversation, exit_code: int) -> None:
        self._listen(process, conversation)
        self._running = False
        conversation.end(exit_code, self._stopped)

    def _fail(self, error: int, listener: Listener) -> None:
        """Qt says `finished` after every error but this one."""
        if error == qt.QProcess.FailedToStart:
            self._running = False
            listener.failed("Slicer's Python can't be started. Free some memory and try again, or reinstall Slicer.")
