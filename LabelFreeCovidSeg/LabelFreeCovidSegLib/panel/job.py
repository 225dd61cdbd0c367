"""What the panel starts: one CT node handed over, computed by a child and shown; or a folder of scans."""

from __future__ import annotations

import json
import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError
from LabelFreeCovidSegLib.handover import write_lungs, write_volume
from LabelFreeCovidSegLib.methods.base import DEFAULT
from LabelFreeCovidSegLib.runner import Listener, Runner, batch_arguments, segment_arguments
from LabelFreeCovidSegLib.scene import Shown, show


@dataclass(frozen=True)
class Order:
    """What to compute and what to show of it: see `runner.segment_arguments` and `scene.show`."""

    method: str = DEFAULT
    device: str = "auto"
    anomaly: bool = False
    surface: bool = False


class Work:
    """A child process that is under way or over, with a private folder that is gone however it ends."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._folder: Path | None = None

    @property
    def running(self) -> bool:
        """Whether its listener has still to hear of the end."""
        return self._folder is not None

    def stop(self) -> None:
        """End the child; the listener's `cancelled` follows."""
        self._runner.stop()

    def close(self) -> None:
        """End the child if it still runs and remove its folder. Safe to call at any time."""
        self._runner.stop()
        if self._folder is not None:
            # Best effort: a virus scanner may hold a file open for a moment on Windows.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _open(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(prefix="LabelFreeCovidSeg-"))
        return self._folder


class Job(Work):
    """A run that is under way or over.

    However it ends, its private folder is gone afterwards, and the scene has the whole result or none of it.

    Args:
        lesions: the segmentation node to fill, instead of the CT's own.
        lungs: a segmentation node with the lungs, instead of finding them.

    Attributes:
        shown: the nodes of the result once the listener's `finished` is called; else None.
        notes: what a reader of the result should look at, one sentence each.
    """

    def __init__(self, runner: Runner, ct: Any, order: Order, lesions: Any = None, lungs: Any = None) -> None:
        super().__init__(runner)
        self.shown: Shown | None = None
        self.notes: tuple[str, ...] = ()
        self.ct = ct
        self._order = order
        self._lesions = lesions
        self._lungs = lungs

    def start(self, listener: Listener) -> None:
        """Hand the volume over and start the child; `listener` hears of the run and of its end.

        Raises:
            ScanError, LungError, OutputError: the volume or the lungs can't be handed over; nothing was started.
        """
        folder = self._open()
        ct_file, result = folder / "ct.nrrd", folder / "result"

        def fail(message: str) -> None:
            self.close()
            listener.failed(message)

        def cancel() -> None:
            self.close()
            listener.cancelled()

        try:
            write_volume(self.ct, ct_file)
            lungs_file = None
            if self._lungs is not None:
                lungs_file = folder / "lungs.nrrd"
                write_lungs(self._lungs, self.ct, lungs_file)
            self._runner.start(
                segment_arguments(ct_file, result, self._order.method, self._order.device, lungs_file),
                folder,
                replace(listener, finished=lambda: self._finish(result, listener), failed=fail, cancelled=cancel),
            )
        except BaseException:
            self.close()
            raise

    def _finish(self, result: Path, listener: Listener) -> None:
        order = self._order
        listener.results()
        try:
            self.notes = _notes(result)
            self.shown = show(result, self.ct, self._lesions, anomaly=order.anomaly, surface=order.surface)
        except LabelFreeCovidSegError as error:
            self.close()
            listener.failed(str(error))
        except Exception as error:  # memory, VTK and files fail in ways of their own, and the run is over all the same
            self.close()
            listener.log(traceback.format_exc())
            listener.failed(f"The result can't be shown ({error!r}). The scene is as it was; save it, and run again.")
        else:
            self.close()
            listener.finished()


def _notes(result: Path) -> tuple[str, ...]:
    """The warnings that were written beside the numbers."""
    path = result / "measurements.json"
    return tuple(json.loads(path.read_text(encoding="utf-8"))["warnings"]) if path.is_file() else ()


class Batch(Work):
    """A batch that is under way or over. Its results are files, so the scene knows nothing of it."""

    def __init__(self, runner: Runner, scans: Path, out: Path) -> None:
        super().__init__(runner)
        self._scans = scans
        self._out = out

    def start(self, listener: Listener, method: str, device: str) -> None:
        """Start the child; `listener` hears of the scans and of the end."""

        def end(tell: Callable[..., None]) -> Callable[..., None]:
            def close_and_tell(*message: str) -> None:
                self.close()
                tell(*message)

            return close_and_tell

        listener = replace(
            listener,
            finished=end(listener.finished),
            failed=end(listener.failed),
            cancelled=end(listener.cancelled),
        )
        arguments = batch_arguments(self._scans.absolute(), self._out.absolute(), method, device)
        try:
            self._runner.start(arguments, self._open(), listener)
        except BaseException:
            self.close()
            raise
