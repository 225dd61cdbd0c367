"""The made-up chests in Slicer's Sample Data module. They are made on this computer; nothing is downloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from LabelFreeCovidSegLib import resources
from LabelFreeCovidSegLib.panel import install
from LabelFreeCovidSegLib.runner import Listener, SubprocessRunner, sample_arguments

SAMPLES = {"ChestWithLesions": [], "ChestWithoutLesions": ["--healthy"]}
"""Name in the module -> further arguments of the command that makes it."""


def register() -> None:
    """Add both samples to the Sample Data module."""
    import SampleData

    for name in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=_("Label-Free COVID-19 Segmentation"),
            sampleName=name,
            thumbnailFileName=str(resources.path("Icons", f"{name}.png")),
            customDownloader=lambda source: [make(source.sampleName)],
        )


def make(name: str) -> Any:
    """Make a sample in a process of its own, some seconds long, and load it.

    Raises:
        RuntimeError: it could not be made; the message says why.
    """
    if not install.ensure(slicer.util.showStatusMessage):
        raise RuntimeError(_("The sample needs what the computation needs; it was not installed."))
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="LabelFreeCovidSeg-") as folder:
        path = Path(folder) / f"{name}.nrrd"
        runner = SubprocessRunner()
        runner.start(sample_arguments(path, *SAMPLES[name]), Path(folder), Listener(failed=failures.append))
        runner.wait()
        if failures:
            raise RuntimeError(failures[0])
        return slicer.util.loadVolume(str(path), properties={"name": name})
