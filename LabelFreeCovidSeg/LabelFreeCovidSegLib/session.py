"""One run of a command: what it may say, and how it is cut short.

SIGINT, SIGTERM, a terminal that hangs up and, if asked for, the end of standard input stop the process at once,
wherever it computes: inside a library there is nobody to raise an exception to. What lies half-written is removed
first; a step that puts results into their place is never cut in two.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from LabelFreeCovidSegLib.console import Reporter

CANCELLED_EXIT = 3


class Session:
    """Use as a context: signals are caught inside it.

    Args:
        reporter: whom to tell that the run was cancelled.
        watch_stdin: whether the end of standard input cancels. The one who started a process through a launcher can
            only count on this: killing the launcher leaves its child alive.
    """

    def __init__(self, reporter: Reporter, watch_stdin: bool = False) -> None:
        self.reporter = reporter
        self._watch_stdin = watch_stdin
        self._lock = threading.Lock()
        self._over = False
        self._cleanup: Callable[[], None] = lambda: None

    def __enter__(self) -> Session:
        signals = [signal.SIGINT, signal.SIGTERM]
        if os.name == "posix" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
            signals.append(signal.SIGHUP)
        self._handlers = {number: signal.signal(number, self._signalled) for number in signals}
        if self._watch_stdin:
            threading.Thread(target=self._wait_for_stdin, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def when_cancelled(self, cleanup: Callable[[], None]) -> None:
        """Have `cleanup` called before the process ends for that reason."""
        self._cleanup = cleanup

    @contextlib.contextmanager
    def undivided(self) -> Iterator[None]:
        """What is done inside is done to its end before the process ends."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def last_step(self) -> Iterator[None]:
        """What is done inside is done to its end; after it, it is too late to cancel."""
        with self.undivided():
            yield
            self._over = True

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        # Not here: this interrupts the main thread, which may hold the lock.
        threading.Thread(target=self._end, daemon=True).start()

    def _wait_for_stdin(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._end()

    def _end(self) -> None:
        with self._lock:
            if self._over:
                return
            self._cleanup()
            self.reporter.failed("CancelledError", "Cancelled.")
            os._exit(CANCELLED_EXIT)
