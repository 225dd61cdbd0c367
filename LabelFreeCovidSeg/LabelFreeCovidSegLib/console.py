"""How a command talks to whoever started it: a bar for a person, JSON lines for a program, or nothing until the end.

The lines of `--progress json` on standard output, one object each:

    {"fraction": 0.42, "phase": "Finding lesions", "seconds_left": 12.3}      (null while that can't be said)
    {"done": {"folder": "...", "files": {"report.html": "..."}}}              the last line of a run that went well
    {"error": {"kind": "ScanError", "message": "..."}}                        the last line of any other
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from LabelFreeCovidSegLib.errors import CancelledError

REPORTERS = ("bar", "json", "none")


@dataclass(frozen=True)
class Outcome:
    """What a command came to: for a reader, and for a program."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)


class Reporter(Protocol):
    """Tells about one run."""

    def progress(self, fraction: float, phase: str) -> None:
        """How far it has come; see `progress.Progress`."""

    def done(self, outcome: Outcome) -> None:
        """It went well."""

    def failed(self, kind: str, message: str) -> None:
        """It did not; `kind` is the exception's name."""

    def close(self) -> None:
        """Nothing more will be told."""


def reporter(name: str) -> Reporter:
    """The reporter called `name`, one of `REPORTERS`."""
    reporters: dict[str, Callable[[], Reporter]] = {"bar": Bar, "json": JsonLines, "none": Plain}
    return reporters[name]()


class Plain:
    """Only the end: the outcome on standard output, an error on standard error."""

    def progress(self, fraction: float, phase: str) -> None:
        """Say nothing yet."""

    def done(self, outcome: Outcome) -> None:
        """Print the outcome. Who read standard output may have gone; what was asked for is done all the same."""
        try:
            print(outcome.text, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else its last flush fails, too

    def failed(self, kind: str, message: str) -> None:
        """Print the message alone: it is written to be understood without the exception's name."""
        print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held open."""


class Bar(Plain):
    """A progress bar on standard error if that is a terminal, then the end."""

    def __init__(self) -> None:
        from tqdm import tqdm

        form = "{desc:<32} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
        self._bar = tqdm(total=1.0, bar_format=form, disable=None, leave=False)

    def progress(self, fraction: float, phase: str) -> None:
        """Move the bar."""
        self._bar.set_description_str(phase, refresh=False)
        self._bar.update(fraction - self._bar.n)

    def done(self, outcome: Outcome) -> None:
        """Take the bar away and print the outcome."""
        self._bar.close()
        super().done(outcome)

    def failed(self, kind: str, message: str) -> None:
        """Take the bar away and print the message."""
        self._bar.close()
        super().failed(kind, message)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class JsonLines:
    """One JSON object a line on standard output; whatever else prints there goes to standard error meanwhile."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: float | None = None
        self._last: tuple[float, str] | None = None
        sys.stdout.flush()
        # The descriptor is moved, not sys.stdout: libraries written in C print too.
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def progress(self, fraction: float, phase: str) -> None:
        """Write a line if anything has changed by a percent. Raises `CancelledError` when nobody reads any more."""
        if self._first is None:
            self._first = fraction  # of a run that goes on, what was done before tells nothing of its speed
        step = (round(fraction, 2), phase)
        if step == self._last:
            return
        self._last = step
        try:
            self._write(
                {
                    "fraction": step[0],
                    "phase": phase,
                    "seconds_left": self._seconds_left(fraction - self._first, 1 - fraction),
                }
            )
        except BrokenPipeError as error:
            raise CancelledError("Cancelled: nobody reads the progress any more.") from error

    def done(self, outcome: Outcome) -> None:
        """Write the last line of a run that went well."""
        with contextlib.suppress(BrokenPipeError):  # the work is done all the same
            self._write({"done": outcome.fields})

    def failed(self, kind: str, message: str) -> None:
        """Write the last line of one that did not."""
        with contextlib.suppress(BrokenPipeError):
            self._write({"error": {"kind": kind, "message": message}})

    def close(self) -> None:
        """Give standard output back."""
        sys.stdout.flush()
        os.dup2(self._descriptor, 1)
        os.close(self._descriptor)

    def _seconds_left(self, done: float, left: float) -> float | None:
        if done < 0.05 and left > 0:
            return None
        return round((time.monotonic() - self._started) * left / done, 1) if left > 0 else 0.0

    def _write(self, message: dict[str, Any]) -> None:
        os.write(self._descriptor, (json.dumps(message) + "\n").encode("ascii"))
