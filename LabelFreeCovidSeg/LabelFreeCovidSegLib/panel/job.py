"""One segmentation of one CT node: hand the volume over, run the child, show the result, clean up."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
from LabelFreeCovidSegLib.runner import Listener, Runner, segment_arguments
from LabelFreeCovidSegLib.scene import Shown, show, write_volume


@dataclass(frozen=True)
class Order:
    """What to compute and what to show of it: see `runner.segment_arguments` and `scene.show`."""

    method: str = "normnet"
    device: str = "auto"
    anomaly: bool = False
    surface: bool = False


class Job:
    """A run that is under way or over.

    However it ends, its private folder is gone afterwards, and the scene has the whole result or none of it.

    Attributes:
        shown: the nodes of the result once the listener's `finished` is called; else None.
    """

    def __init__(self, runner: Runner, ct: Any, order: Order, lesions: Any = None) -> None:
        self.shown: Shown | None = None
        self._runner = runner
        self._ct = ct
        self._order = order
        self._lesions = lesions
        self._folder: Path | None = None

    @property
    def running(self) -> bool:
        """Whether its listener has still to hear of the end."""
        return self._folder is not None

    def start(self, listener: Listener) -> None:
        """Hand the volume over and start the child; `listener` hears of the run and of its end.

        Raises:
            ScanError, OutputError: the volume can't be handed over; nothing was started.
        """
        folder = self._folder = Path(tempfile.mkdtemp(prefix="LabelFreeCovidSeg-"))
        ct_file, result = folder / "ct.nrrd", folder / "result"

        def fail(message: str) -> None:
            self.close()
            listener.failed(message)

        def cancel() -> None:
            self.close()
            listener.cancelled()

        try:
            write_volume(self._ct, ct_file)
            self._runner.start(
                segment_arguments(ct_file, result, self._order.method, self._order.device),
                folder,
                replace(listener, finished=lambda: self._finish(result, listener), failed=fail, cancelled=cancel),
            )
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End the run; the listener's `cancelled` follows."""
        self._runner.stop()

    def close(self) -> None:
        """End the run if it is still going on and remove its folder. Safe to call at any time."""
        self._runner.stop()
        if self._folder is not None:
            # Best effort: a virus scanner may hold a file open for a moment on Windows.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _finish(self, result: Path, listener: Listener) -> None:
        order = self._order
        try:
            self.shown = show(result, self._ct, self._lesions, anomaly=order.anomaly, surface=order.surface)
        except LabelFreeCovidSegError as error:
            self.close()
            listener.failed(str(error))
        else:
            self.close()
            listener.finished()
