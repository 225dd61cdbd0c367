"""Start, stop and signals of the child process that computes.

Computing in a process of its own keeps Slicer's window alive, makes cancelling certain, and lets a crash or a lack of
memory end the child only. The child speaks JSON lines on its standard output; a run ends with exactly one of
`finished`, `failed` and `cancelled`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from LabelFreeCovidSegLib.session import CANCELLED_EXIT

MODULE_FOLDER = Path(__file__).resolve().parents[1]
"""What the child needs on its path to import this package."""

_LAST_LINES = 5
_KILLED = {-9, 9, 137}
"""How SIGKILL reads: from Python, from Qt, and through a launcher that exits as shells do."""


@dataclass(frozen=True)
class Step:
    """How far a run has come: fraction 0..1, what is being done, and the seconds left if that can be said."""

    fraction: float
    phase: str
    seconds_left: float | None = None


def _ignore(_: Any) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Listener:
    """Who is told about a run. Called in the thread that waits for it, or in Qt's.

    Attributes:
        progress: after each step.
        log: each line the child wrote that is no message of the protocol.
        results: the child has ended well; what it made is about to be used, which may take a moment.
        finished: the results are complete.
        failed: what went wrong and what to do about it, for the user.
        cancelled: the child has ended because `stop` was called.
    """

    progress: Callable[[Step], None] = _ignore
    log: Callable[[str], None] = _ignore
    results: Callable[[], None] = lambda: None
    finished: Callable[[], None] = lambda: None
    failed: Callable[[str], None] = _ignore
    cancelled: Callable[[], None] = lambda: None


class Runner(Protocol):
    """Runs one child process at a time."""

    def start(self, arguments: Sequence[str], folder: Path, listener: Listener) -> None:
        """Run `python ARGUMENTS` with `folder`, private to this run, as its working and temporary folder."""
        ...

    def stop(self) -> None:
        """End the child and whatever it started; `cancelled` follows. Nothing happens if nothing runs."""
        ...


def segment_arguments(ct: Path, out: Path, method: str, device: str, lungs: Path | None = None) -> list[str]:
    """Arguments of the child that segments the CT in file `ct` and writes to the folder `out`.

    Args:
        lungs: file of a lung mask, instead of finding them.
    """
    found = [] if lungs is None else ["--lungs", str(lungs)]
    return ["-m", "LabelFreeCovidSegLib", "segment", str(ct), "-o", str(out), *_chosen(method, device), *found]


def batch_arguments(scans: Path, out: Path, method: str, device: str) -> list[str]:
    """Arguments of the child that segments every scan under the folder `scans` and writes to the folder `out`."""
    return ["-m", "LabelFreeCovidSegLib", "batch", str(scans), "-o", str(out), *_chosen(method, device)]


def sample_arguments(ct: Path, *more: str) -> list[str]:
    """Arguments of the child that makes a sample CT in the file `ct`."""
    return ["-m", "LabelFreeCovidSegLib", "sample", "-o", str(ct), *more, "--progress", "json", "--watch-stdin"]


def _chosen(method: str, device: str) -> list[str]:
    return ["--method", method, "--device", device, "--progress", "json", "--watch-stdin"]


def command(arguments: Sequence[str]) -> list[str]:
    """The interpreter with `arguments`: Slicer's where there is one, because there `sys.executable` is the application.

    `-P` keeps the working folder off the child's path.
    """
    return [shutil.which("PythonSlicer") or sys.executable, "-P", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """Variables to set for the child: where this package lies, UTF-8, and a temporary folder that goes with the run."""
    path = os.pathsep.join(filter(None, (str(MODULE_FOLDER), os.environ.get("PYTHONPATH"))))
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    return {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", **temporary}


class Conversation:
    """What the child says, turned into calls of a listener. Knows nothing of processes, so every runner shares it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._error: str | None = None
        self._done = False
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    def hear(self, line: str) -> None:
        """Take one line of the child's output or error stream."""
        line = line.rstrip()
        message = _message(line)
        if "fraction" in message:
            self._listener.progress(Step(message["fraction"], message["phase"], message.get("seconds_left")))
        elif "done" in message:
            self._done = True
        elif "error" in message:
            self._error = message["error"]["message"]
        elif line:
            self._last_lines.append(line)
            self._listener.log(line)

    def end(self, exit_code: int, stopped: bool) -> None:
        """The child has ended; `stopped` if that was asked for."""
        if stopped or exit_code == CANCELLED_EXIT:
            self._listener.cancelled()
        elif exit_code == 0 and self._done:
            self._listener.finished()
        elif exit_code in _KILLED or self._error is None:
            # The first, even if there was a message: behind a killed launcher the child thinks that it was cancelled.
            self._listener.failed(self._crash(exit_code))
        else:
            self._listener.failed(self._error)

    def _crash(self, exit_code: int) -> str:
        if exit_code in _KILLED:
            return (
                "The computation was ended by the system, probably because the memory ran out. "
                "Close other programs or crop the CT to the chest, and run again."
            )
        said = " It last said: " + " | ".join(self._last_lines) if self._last_lines else ""
        return f"The computation ended unexpectedly (exit code {exit_code}).{said}"


def _message(line: str) -> Mapping[str, Any]:
    """A line of the protocol; empty for any other line, because libraries print what they like."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


class SubprocessRunner:
    """A `Runner` without Qt: call `wait` after `start`, and the listener is called from within it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], bool]] = queue.SimpleQueue()  # a call, the last one
        self._stopped = False

    def start(self, arguments: Sequence[str], folder: Path, listener: Listener) -> None:
        """See `Runner`. Raises `RuntimeError` if a run is still going on."""
        if self._process is not None:
            raise RuntimeError("A run is still going on. Wait for it or stop it first.")
        self._stopped = False
        self._process = subprocess.Popen(
            command(arguments), cwd=folder, env={**os.environ, **environment(folder)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
            start_new_session=True,  # a group of its own, which `stop` can end as a whole
        )  # fmt: skip
        threading.Thread(target=self._watch, args=(self._process, Conversation(listener)), daemon=True).start()

    def wait(self) -> None:
        """Pass on what the child says until it has ended. Returns at once if nothing runs."""
        while self._process is not None:
            call, last = self._calls.get()
            if last:
                self._process = None
            call()

    def stop(self) -> None:
        """See `Runner`."""
        if self._process is not None:
            self._stopped = True
            _end_tree(self._process)

    def _watch(self, process: subprocess.Popen[str], conversation: Conversation) -> None:
        """Queue the child's lines and its end, in that order."""
        readers = [
            threading.Thread(target=self._listen, args=(stream, conversation), daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for reader in readers:
            reader.start()
        exit_code = process.wait()
        # What ended may have been a launcher: the interpreter behind it still holds the streams.
        _end_tree(process)
        for reader in readers:
            reader.join()
        self._calls.put((lambda: conversation.end(exit_code, self._stopped), True))

    def _listen(self, stream: IO[str], conversation: Conversation) -> None:
        with stream:
            for line in stream:
                self._calls.put((partial(conversation.hear, line), False))


def _end_tree(process: subprocess.Popen[str]) -> None:
    """Kill the child with all it started; harmless if it is gone.

    Killing loses nothing: the child writes into the run's own folder, which is removed afterwards. A closed standard
    input ends a child that the signal can't reach, such as one behind a launcher on Windows.
    """
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
