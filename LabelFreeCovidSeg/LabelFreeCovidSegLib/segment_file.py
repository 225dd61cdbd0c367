"""One scan on its way from a file to a folder of results, in a session that can be cut short anywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from LabelFreeCovidSegLib import output, pipeline
from LabelFreeCovidSegLib.methods.base import DEFAULT
from LabelFreeCovidSegLib.pipeline import Result
from LabelFreeCovidSegLib.progress import Progress, part
from LabelFreeCovidSegLib.read import read
from LabelFreeCovidSegLib.session import Session


@dataclass(frozen=True)
class Choices:
    """How to segment; see `pipeline.segment`."""

    method: str = DEFAULT
    lungs: str = "lungnet"
    device: str = "auto"
    precision: str = "auto"


def stage(
    ct: Path, out: Path, choices: Choices, session: Session, progress: Progress, of_path: bool = False
) -> tuple[Result, Path]:
    """Segment a scan and collect its results beside `out`, ready for `output.publish`.

    Args:
        ct: see `read.read`.
        of_path: whether `out` belongs to the path `ct`, so that the result of a scan that lay there before is replaced.

    Returns:
        The result, and where its files lie until they are published.

    Raises:
        ScanError, LungError, WeightsError, OutputError, CancelledError: nothing is left.
    """
    output.check_folder(out)
    progress(0.01, "Reading the scan")
    started = time.perf_counter()
    scan = read(ct)
    reading = {"reading": round(time.perf_counter() - started, 2)}
    output.check_replaceable(out, None if of_path else scan)
    result = pipeline.segment(
        scan, choices.method, choices.lungs, choices.device, choices.precision, part(progress, 0.1, 0.9)
    )
    result = replace(result, run=replace(result.run, seconds=reading | result.run.seconds))
    session.when_cancelled(lambda: output.discard(output.staging(out)))
    return result, output.stage(result, out, part(progress, 0.9, 1.0))
