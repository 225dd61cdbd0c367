"""A folder of slices as pictures on its way to a folder of masks, with all that had to be guessed written down."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from LabelFreeCovidSegLib import anchors, device, output, picture_pipeline, pictures, pipeline, report
from LabelFreeCovidSegLib.errors import LungError, OutputError, ScanError
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.picture_pipeline import NOT_CALIBRATED, Outlined
from LabelFreeCovidSegLib.pictures import Picture
from LabelFreeCovidSegLib.progress import Progress, part
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
SCHEMA = "labelfreecovidseg.slices/2"
_LEFT_BY_VIEWING = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What macOS and Windows leave in a folder that somebody looks at: nobody's work."""
COLUMNS = (
    "picture", "state", "lesion_percent", "lung_pixels", "lesion_pixels", "lungs", "pixel_mm", "dark_anchor",
    "dark_grey", "tissue_grey", "window_low_hu", "window_high_hu", "tissue_spread", "warnings",
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """How to segment pictures.

    Attributes:
        method: a name of `methods.base.PICTURES`, or one of `REGISTRY` whose card has `picture_mm`; None for
            OpacityNet's networks for this kind of pictures.
        lungs: a folder of mask pictures with the names of the pictures; None to find them.
        orientation: of all pictures, one of `pictures.ORIENTATIONS`.
        pixel_mm: of all pictures; None to guess it.
        equalised: the pictures were equalised place by place, so that no grey stands for a density.
        stack: the pictures are neighbouring slices of one scan, in the order of their names.
        device, precision: see `pipeline.segment`.
    """

    method: str | None = None
    lungs: Path | None = None
    orientation: str = "LP"
    pixel_mm: float | None = None
    equalised: bool = False
    stack: bool = False
    device: str = "auto"
    precision: str = "auto"


def run(folder: Path, out: Path, choices: Choices, session: Session) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Segment the pictures of a folder and put the results into `out`, all or none.

    Args:
        out: a folder without files of a result's names, or with an unchanged earlier result of at least one of the
            same pictures. No other process may be writing there.

    Returns:
        The rows of the table, and what a reader should know of all of them.

    Raises:
        ScanError, LungError: see `pictures`; nothing is computed before all pictures and masks were read once.
        OutputError, WeightsError, CancelledError, LabelFreeCovidSegError: nothing is left.
    """
    progress = session.reporter.progress
    folder, out = folder.resolve(), out.resolve()
    output.check_folder(out)
    with output.explained(out):
        output.recover(out, CONTENTS)
    if out == folder or out in folder.parents or folder in out.parents:
        raise OutputError(f"{out}: results would lie among the pictures. Name another folder for them.")
    files = pictures.find(folder)
    model = picture_pipeline.load(choices.method or base.for_pictures(choices.equalised), choices.equalised)
    compute = device.choose(choices.device, choices.precision)
    progress(0.01, "Reading the pictures")
    source, shape = {}, None
    for file in files:
        picture = pictures.read(file)
        source[file.name] = output.file_sha256(file)
        _given_lungs(picture, choices.lungs)
        shape = shape or picture.grey.shape
        if choices.stack and picture.grey.shape != shape:
            raise ScanError(
                f"{picture.name}: of another size than {files[0].name}, so they are no slices of one scan. Leave "
                "--stack out, or take it away."
            )
    _check_replaceable(out, source)
    staged = output.staging(out)
    session.when_cancelled(lambda: output.discard(staged))
    try:
        with output.explained(out):
            rows, made_with = _stage(files, staged, model, compute, choices, progress)
            _write_tables(rows, {"source": folder.name, "source_sha256": source, **made_with}, staged)
            output.sync(staged)
        with session.last_step():
            _check_replaceable(out, source)
            output.put(staged, out, CONTENTS)
    except BaseException:
        output.discard(staged)
        raise
    return rows, tuple(made_with["warnings"])


def _stage(
    files: Sequence[Path],
    staged: Path,
    model: base.Method,
    compute: device.Compute,
    choices: Choices,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Segment pictures and write what are pictures of a result into `staged`.

    Returns:
        The rows of the table, and how they came about.
    """
    started = time.perf_counter()
    for kind in (MASKS, LUNGS, OVERLAYS):
        (staged / kind).mkdir(parents=True)
    rows = []
    together = [files] if choices.stack else [[file] for file in files]
    for number, of_one in enumerate(together):
        its_part = part(progress, 0.05 + 0.9 * number / len(together), 0.05 + 0.9 * (number + 1) / len(together))
        shown = [pictures.read(file) for file in of_one]
        uprights = [picture.upright(choices.orientation) for picture in shown]
        outlined, compute = picture_pipeline.outline(
            uprights, model, compute, _upright_lungs(shown, choices), choices.pixel_mm, choices.equalised, its_part
        )
        for picture, upright, its in zip(shown, uprights, outlined, strict=True):
            _write_pictures(picture, its, upright, staged)
            rows.append(_row(picture, its))
    return rows, {
        "method": asdict(model.card), "weights": model.weights, "compute": asdict(compute),
        "versions": pipeline.versions(), "seconds": round(time.perf_counter() - started, 2),
        "orientation": choices.orientation, "equalised": choices.equalised, "stack": choices.stack,
        "pixel_mm_given": choices.pixel_mm, "warnings": _of_all(rows, model.card),
    }  # fmt: skip


def _row(picture: Picture, outlined: Outlined) -> dict[str, Any]:
    """The picture's line in the table."""
    lung = int(np.count_nonzero(outlined.lungs))
    row: dict[str, Any] = {"picture": picture.name, "state": outlined.state, "lung_pixels": lung}
    if outlined.state != NOT_CALIBRATED:
        lesion = 0 if outlined.found is None else int(np.count_nonzero(outlined.found.lesion))
        row |= {"lesion_pixels": lesion, "lesion_percent": round(100 * lesion / lung, 2) if lung else 0.0}
    return row | dict(outlined.guessed) | {"warnings": list(outlined.warnings)}


def _upright_lungs(shown: Sequence[Picture], choices: Choices) -> np.ndarray | None:
    """The lungs of `shown` that were given, (k, j, i) bool."""
    if choices.lungs is None:
        return None
    masks = [picture.upright(choices.orientation, _given_lungs(picture, choices.lungs)).hu for picture in shown]
    return np.concatenate(masks) > 0


def _given_lungs(picture: Picture, folder: Path | None) -> np.ndarray | None:
    """(rows, columns) bool, the mask of the same name in `folder`."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise LungError(f"{folder}: no folder. Name the one that holds a mask of the same name for each picture.")
    masks = [path for path in folder.iterdir() if path.stem == picture.stem and path.suffix.lower() in pictures.FORMATS]
    if masks:
        return pictures.read_mask(max(masks), picture.grey.shape)  # of two, PNG, which blurs nothing
    raise LungError(
        f"{folder}: there is no mask {picture.stem}.png for {picture.name}. Give one for each picture, a black one "
        "where there is no lung, or leave --lungs out to have the lungs found."
    )


def _of_all(rows: Sequence[Mapping[str, Any]], card: base.Card) -> list[str]:
    """What holds for the pictures together."""
    spreads = [row["tissue_spread"] for row in rows if "tissue_spread" in row]
    found = [note] if (note := picture_pipeline.repeats(card)) else []
    if spreads and np.median(spreads) >= anchors.EQUALISED_SPREAD:
        found.append(
            "Soft tissue is so uneven in these pictures that they may have been equalised place by place (CLAHE). If "
            "so, their Hounsfield units and the lesions are wrong: say --equalised, or give the pictures as they were."
        )
    return found


def _write_pictures(picture: Picture, outlined: Outlined, upright: Scan, folder: Path) -> None:
    name = f"{picture.stem}.png"
    lungs = _as_in_file(outlined.lungs, upright)
    written = {LUNGS: _black_and_white(lungs)}
    if outlined.state != NOT_CALIBRATED:
        lesion = np.zeros_like(lungs) if outlined.found is None else _as_in_file(outlined.found.lesion, upright)
        written |= {MASKS: _black_and_white(lesion), OVERLAYS: report.outlines(picture.grey, lungs, lesion)}
    for kind, pixels in written.items():
        image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
        try:
            sitk.WriteImage(image, str(folder / kind / name), useCompression=True)
        except RuntimeError as error:
            raise OSError(f"{name} could not be written completely") from error


def _as_in_file(mask: np.ndarray, upright: Scan) -> np.ndarray:
    """An upright mask (1, j, i) uint8 turned back, (rows, columns) bool."""
    return sitk.GetArrayFromImage(upright.native_image(mask))[0] > 0


def _black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype(np.uint8)


def _write_tables(rows: Sequence[dict[str, Any]], run: dict[str, Any], folder: Path) -> None:
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"warnings": " ".join(row["warnings"])} for row in rows)
    content = {"schema": SCHEMA, **run, "pictures": list(rows), "files": _hashes(folder)}
    (folder / NUMBERS).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files of a result but the last to be written."""
    paths = [path for name in CONTENTS if name != NUMBERS for path in (folder / name, *(folder / name).rglob("*"))]
    files = sorted(path for path in paths if path.is_file() and path.name not in _LEFT_BY_VIEWING)
    return {path.relative_to(folder).as_posix(): output.file_sha256(path) for path in files}


def _check_replaceable(out: Path, source: Mapping[str, str]) -> None:
    """Make sure that nothing but an unchanged earlier result of the same pictures would be replaced.

    Args:
        source: name of each picture -> its SHA-256. Some may have come or gone since, but not all: folders and pictures
            of two patients may well have the same names.
    """
    if not any((out / name).exists() for name in CONTENTS):
        return
    there = output.numbers(out / NUMBERS, SCHEMA, {"source": str, "source_sha256": dict, "files": dict})
    if not there:
        raise OutputError(f"{out} holds files that are not an earlier result of this program. Name another folder.")
    if not there["source_sha256"].items() & source.items():
        raise OutputError(f"{out} holds the results of other pictures, '{there['source']}'. Name another folder.")
    if there["files"] != _hashes(out):
        raise OutputError(f"{out}: files in it were changed or added since. Move it away, or name another folder.")
