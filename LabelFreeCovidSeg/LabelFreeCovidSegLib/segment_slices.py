"""A folder of slices as pictures on its way to a folder of masks, with all that had to be guessed written down."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import anchors, device, output, pictures, pipeline, report
from LabelFreeCovidSegLib.device import Compute
from LabelFreeCovidSegLib.errors import LabelFreeCovidSegError, LungError, OutputError, ScanError
from LabelFreeCovidSegLib.lungs import LungMask, planar
from LabelFreeCovidSegLib.lungs.base import LEFT, RIGHT
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.pictures import Picture
from LabelFreeCovidSegLib.progress import Progress, part, silent
from LabelFreeCovidSegLib.scan import Scan
from LabelFreeCovidSegLib.session import Session

MASKS, LUNGS, OVERLAYS, TABLE, NUMBERS = "lesions", "lungs", "overlays", "slices.csv", "result.json"
CONTENTS = {
    MASKS: "one mask a picture: 255 lesion, 0 the rest",
    LUNGS: "the lungs in use: 255 lung",
    OVERLAYS: "the pictures with lungs and lesions outlined",
    TABLE: "share of lung and what was guessed, picture by picture",
    NUMBERS: "the same with method, weights and versions, for programs",
}
"""What a result consists of: file or folder -> what it holds."""
SCHEMA = "labelfreecovidseg.slices/1"
COLUMNS = (
    "picture", "state", "lesion_percent", "lung_pixels", "lesion_pixels", "lungs", "pixel_mm", "dark_anchor",
    "dark_grey", "tissue_grey", "window_low_hu", "window_high_hu", "tissue_spread", "warnings",
)  # fmt: skip
DONE, WITHOUT_LUNGS, NOT_CALIBRATED = "done", "no lungs", "not calibrated"
"""States of a picture. Of one without lungs the mask is empty; one that is not calibrated has none."""

EQUALISED_HU = (-800.0, 100.0)
"""What greys 0 and 255 of an equalised picture are handed on as: the range in which every method tells densities apart.
Training on such pictures uses the same."""


SLICE_MM = 1.5
"""Distance of the slices of a stack."""


@dataclass(frozen=True)
class Choices:
    """How to segment pictures.

    Attributes:
        method: a name of `methods.base.REGISTRY` whose card has `picture_mm`.
        lungs: a folder of mask pictures with the names of the pictures; None to find them.
        orientation: of all pictures, one of `pictures.ORIENTATIONS`.
        pixel_mm: of all pictures; None to guess it.
        equalised: the pictures were equalised place by place, so that no grey stands for a density.
        device, precision: see `pipeline.segment`.
    """

    method: str = "normnet"
    lungs: Path | None = None
    orientation: str = "LP"
    pixel_mm: float | None = None
    equalised: bool = False
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class Outlined:
    """What one picture came to.

    Attributes:
        lungs, lesion: (rows, columns) bool, as in the file; `lesion` is None if the picture could not be calibrated.
        guessed: further `COLUMNS` by name.
    """

    picture: Picture
    state: str
    lungs: np.ndarray
    lesion: np.ndarray | None
    guessed: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The picture's line in the table."""
        lung = int(np.count_nonzero(self.lungs))
        row: dict[str, Any] = {"picture": self.picture.name, "state": self.state, "lung_pixels": lung}
        if self.lesion is not None:
            lesion = int(np.count_nonzero(self.lesion))
            row |= {"lesion_pixels": lesion, "lesion_percent": round(100 * lesion / lung, 2) if lung else 0.0}
        return row | dict(self.guessed) | {"warnings": list(self.warnings)}


def run(folder: Path, out: Path, choices: Choices, session: Session) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Segment the pictures of a folder and put the results into `out`, all or none.

    Args:
        out: a folder that is not there, is empty, or holds an unchanged earlier result of the same folder.

    Returns:
        The rows of the table, and what a reader should know of all of them.

    Raises:
        ScanError, LungError: see `pictures`; nothing is computed before all pictures and masks were read once.
        OutputError, WeightsError, CancelledError, LabelFreeCovidSegError: nothing is left.
    """
    progress = session.reporter.progress
    folder, out = Path(os.path.abspath(folder)), Path(os.path.abspath(out))
    output.check_folder(out)
    _check_replaceable(out, folder)
    model = load(choices.method, choices.equalised)
    compute = device.choose(choices.device, choices.precision)
    progress(0.01, "Reading the pictures")
    files = pictures.find(folder)
    for file in files:
        _given_lungs(pictures.read(file), choices.lungs)
    started = time.perf_counter()
    staged = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    session.when_cancelled(lambda: output.discard(staged))
    try:
        rows = []
        for number, file in enumerate(files):
            its_part = part(progress, 0.05 + 0.9 * number / len(files), 0.05 + 0.9 * (number + 1) / len(files))
            outlined, compute = segment(pictures.read(file), model, choices, compute, its_part)
            _write_pictures(outlined, staged)
            rows.append(outlined.row())
        warnings = _of_all(rows, model.card)
        made_with = {
            "method": asdict(model.card), "weights": model.weights, "compute": asdict(compute),
            "versions": pipeline.versions(), "seconds": round(time.perf_counter() - started, 2),
            "orientation": choices.orientation, "equalised": choices.equalised,
            "pixel_mm_given": choices.pixel_mm, "warnings": list(warnings),
        }  # fmt: skip
        _write_tables(rows, made_with, folder, staged)
        with session.last_step():
            _publish(staged, out, folder)
    except OSError as error:
        output.discard(staged)
        raise OutputError(
            f"{out}: results can't be written there ({error.strerror or error}). Free some space, close programs that "
            "hold these files, or name another folder."
        ) from error
    except BaseException:
        output.discard(staged)
        raise
    return rows, warnings


def load(method: str, equalised: bool) -> base.Method:
    """A method that can work on single pictures of this kind.

    Raises:
        LabelFreeCovidSegError: it needs neighbouring slices, or its weights were trained on the other kind.
    """
    if base.card(method).picture_mm is None:
        able = ", ".join(name for name in base.REGISTRY if base.card(name).picture_mm is not None)
        raise LabelFreeCovidSegError(
            f"{base.card(method).title} looks at neighbouring slices, which single pictures do not have. "
            f"Choose one of: {able}."
        )
    model = base.load(method)
    if equalised and model.card.domain != base.CLAHE256:
        raise LabelFreeCovidSegError(
            f"The weights {model.weights} were trained on Hounsfield units. Locally equalised pictures have none and "
            "can't be given any; weights that were trained on such pictures are needed. Or give the pictures as they "
            "were before, or the CT."
        )
    if not equalised and model.card.domain != base.HU:
        raise LabelFreeCovidSegError(
            f"The weights {model.weights} were trained on locally equalised pictures. Say --equalised if yours are, or "
            "choose another method."
        )
    return model


def segment(
    picture: Picture, model: base.Method, choices: Choices, compute: Compute, progress: Progress = silent
) -> tuple[Outlined, Compute]:
    """Outline the lesions in one picture.

    Returns:
        What was found, and what it was computed on.
    """
    upright = picture.upright(choices.orientation)
    given = _given_lungs(picture, choices.lungs)
    if given is None:
        lungs, source = planar.find(upright.hu[0]), "found in the picture"
    else:
        lungs, source = picture.upright(choices.orientation, given).hu[0] > 0, "given"
    in_file = _as_in_file(lungs, upright)
    guessed: dict[str, Any] = {"lungs": source}
    if not lungs.any():
        why = "No lungs are seen; give masks with --lungs if there are any, as in a picture of lungs cut out on black."
        return Outlined(picture, WITHOUT_LUNGS, in_file, np.zeros_like(in_file), guessed, (why,)), compute
    guessed["pixel_mm"] = round(choices.pixel_mm or anchors.pixel_mm(lungs), 3)
    warnings: tuple[str, ...] = ()
    if choices.equalised:
        low, high = EQUALISED_HU
        hu = low + upright.hu * np.float32((high - low) / 255)
    else:
        try:
            line = anchors.calibrate(upright.hu[0], lungs, picture.name)
        except ScanError as error:
            return Outlined(picture, NOT_CALIBRATED, in_file, None, guessed, (str(error),)), compute
        hu, warnings = line.hu(upright.hu), line.warnings
        low, high = (round(end) for end in line.window_hu)
        guessed |= {
            "dark_anchor": line.dark, "dark_grey": round(line.dark_grey, 1), "tissue_grey": round(line.tissue_grey, 1),
            "window_low_hu": low, "window_high_hu": high, "tissue_spread": round(line.spread, 3),
        }  # fmt: skip
    scan, mask = _stack(upright, hu, lungs, source, guessed["pixel_mm"], model.card.picture_mm or 0.0)
    prediction, compute, retried = pipeline.predict(model, scan, mask, compute, progress)
    lesion = _as_in_file(prediction.lesion[len(scan.hu) // 2] > 0, upright)
    return Outlined(picture, DONE, in_file, lesion, guessed, warnings + prediction.warnings + retried), compute


def _given_lungs(picture: Picture, folder: Path | None) -> np.ndarray | None:
    """(rows, columns) bool, the mask of the same name in `folder`."""
    if folder is None:
        return None
    for suffix in pictures.FORMATS:
        path = folder / f"{picture.stem}{suffix}"
        if path.is_file():
            return pictures.read_mask(path, picture.grey.shape)
    raise LungError(
        f"{folder}: there is no mask {picture.stem}.png for {picture.name}. Give one for each picture, a black one "
        "where there is no lung, or leave --lungs out to have the lungs found."
    )


def _sides(lungs: np.ndarray) -> np.ndarray:
    """(1, j, i) uint8: 1 right, 2 left of the middle of the lungs, which is all that methods need to know here."""
    columns = np.flatnonzero(lungs.any(axis=0))
    right = np.arange(lungs.shape[1]) < (columns[0] + columns[-1] + 1) / 2
    return np.where(lungs, np.where(right, RIGHT, LEFT), 0).astype(np.uint8)[None]


def _stack(
    upright: Scan, hu: np.ndarray, lungs: np.ndarray, source: str, pixel_mm: float, thickness_mm: float
) -> tuple[Scan, LungMask]:
    """A picture in HU (1, j, i) and its lungs (j, i), repeated to a stack of a thickness, at least once."""
    count = max(1, round(thickness_mm / SLICE_MM))
    size = (hu.shape[2], hu.shape[1], count)
    grid = replace(upright.grid, size=size, spacing=(pixel_mm, pixel_mm, SLICE_MM))
    scan = Scan(np.repeat(hu.astype(np.float32), count, axis=0), grid, grid, upright.name)
    return scan, LungMask(np.repeat(_sides(lungs), count, axis=0), source)


def _as_in_file(mask: np.ndarray, upright: Scan) -> np.ndarray:
    """An upright mask (j, i) bool turned back, (rows, columns) bool."""
    return sitk.GetArrayFromImage(upright.native_image(mask[None].astype(np.uint8)))[0] > 0


def _of_all(rows: Sequence[Mapping[str, Any]], card: base.Card) -> tuple[str, ...]:
    """What holds for the pictures together."""
    spreads = [row["tissue_spread"] for row in rows if "tissue_spread" in row]
    found = []
    if card.picture_mm:
        found.append(
            f"{card.title} learned from whole scans and saw each picture as a stack of itself, so vessels looked like "
            "sheets to it. Prefer the CT where there is one."
        )
    if spreads and np.median(spreads) >= anchors.EQUALISED_SPREAD:
        found.append(
            "Soft tissue is so uneven in these pictures that they may have been equalised place by place (CLAHE). If "
            "so, their Hounsfield units and the lesions are wrong: say --equalised, or give the pictures as they were."
        )
    return tuple(found)


def _write_pictures(outlined: Outlined, folder: Path) -> None:
    name = f"{outlined.picture.stem}.png"
    grey, lungs, lesion = outlined.picture.grey, outlined.lungs, outlined.lesion
    written = {LUNGS: _black_and_white(lungs)}
    if lesion is not None:
        written |= {MASKS: _black_and_white(lesion), OVERLAYS: report.outlines(grey, lungs, lesion)}
    for kind, pixels in written.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
        try:
            sitk.WriteImage(image, str(folder / kind / name), useCompression=True)
        except RuntimeError as error:
            raise OSError(f"{name} could not be written completely") from error


def _black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype(np.uint8)


def _write_tables(rows: Sequence[dict[str, Any]], run: dict[str, Any], source: Path, folder: Path) -> None:
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"warnings": " ".join(row["warnings"])} for row in rows)
    content = {"schema": SCHEMA, "source": source.name, **run, "pictures": list(rows), "files": _hashes(folder)}
    (folder / NUMBERS).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files of a result but the last to be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NUMBERS)
    return {path.relative_to(folder).as_posix(): output.sha256(path) for path in files}


def _check_replaceable(out: Path, source: Path) -> None:
    """Make sure that nothing but an unchanged earlier result of the same pictures would be replaced."""
    if out == source or out in source.parents or source in out.parents:
        raise OutputError(f"{out}: results would lie among the pictures. Name another folder for them.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        there = json.loads((out / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or there.get("schema") != SCHEMA:
        raise OutputError(f"{out} holds files that are not an earlier result of this program. Name another folder.")
    if there["source"] != source.name:
        raise OutputError(f"{out} holds the results of other pictures, '{there['source']}'. Name another folder.")
    if there["files"] != _hashes(out):
        raise OutputError(f"{out}: files in it were changed or added since. Move it away, or name another folder.")


def _publish(staged: Path, out: Path, source: Path) -> None:
    """Put what was staged into the place of an earlier result, or of nothing."""
    _check_replaceable(out, source)
    if not out.exists():
        os.replace(staged, out)
        return
    earlier = staged.with_name(f"{staged.name}.earlier")
    os.replace(out, earlier)
    try:
        os.replace(staged, out)
    except BaseException:
        os.replace(earlier, out)
        raise
    shutil.rmtree(earlier)
