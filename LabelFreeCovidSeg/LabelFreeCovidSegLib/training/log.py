"""Training curves, as CSV for any program and for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

CURVES = "curves.csv"


class CurveLog:
    """Scalars a iteration.

    Args:
        folder: gets `curves.csv` and a folder `tensorboard`.
        start: the iteration a resumed run goes on from; later rows are of a run that was cut off, and go.
        active: whether to write at all (one process of several does).
    """

    def __init__(self, folder: Path, start: int, active: bool = True) -> None:
        self._folder, self._start, self._active = folder, start, active

    def __enter__(self) -> CurveLog:
        if self._active:
            from torch.utils.tensorboard import SummaryWriter

            path = self._folder / CURVES
            header, *rows = _rows_until(path, self._start) if path.exists() else [["iteration"]]
            self._begin(header, rows)
            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._start + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._file.close()
            self._board.close()

    def _begin(self, header: list[str], rows: list[list[str]]) -> None:
        """Write the file anew."""
        self._header = header
        self._file = (self._folder / CURVES).open("w", newline="", encoding="utf-8", buffering=1)
        self._csv = csv.writer(self._file)
        self._csv.writerows([header, *(row + [""] * (len(header) - len(row)) for row in rows)])

    def row(self, iteration: int, values: Mapping[str, float | None]) -> None:
        """Log one iteration; None for what was not measured at this one. A new phase may measure other things."""
        if not self._active:
            return
        new = [name for name in values if name not in self._header]
        if new:
            self._file.close()
            self._begin(self._header + new, _rows_until(self._folder / CURVES, iteration)[1:])
        measured = {name: value for name, value in values.items() if value is not None}
        cells = (f"{measured[name]:.6g}" if name in measured else "" for name in self._header[1:])
        self._csv.writerow([iteration, *cells])
        for name, value in measured.items():
            self._board.add_scalar(name, value, iteration)


def _rows_until(path: Path, iteration: int) -> list[list[str]]:
    """Header and, up to `iteration`, rows; a run that was killed may have left half a last row."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [["iteration"]]
    whole = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= iteration]
    return [header, *whole] if whole else [["iteration"]]
