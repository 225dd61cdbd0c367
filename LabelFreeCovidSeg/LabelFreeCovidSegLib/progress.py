"""Progress and cancelling are one callable that is passed down: `progress(fraction, phase)`.

It may raise `CancelledError`; whatever is computing lets that pass through.
"""

from collections.abc import Callable

Progress = Callable[[float, str], None]


def silent(fraction: float, phase: str) -> None:
    """Report to nobody."""


def part(progress: Progress, start: float, stop: float) -> Progress:
    """The share [start, stop] of `progress`, for a step that counts its own work from 0 to 1."""
    return lambda fraction, phase: progress(start + (stop - start) * fraction, phase)


def titled(progress: Progress, title: str) -> Progress:
    """`progress` that says of each phase what it belongs to."""
    return lambda fraction, phase: progress(fraction, f"{title}: {phase}")
