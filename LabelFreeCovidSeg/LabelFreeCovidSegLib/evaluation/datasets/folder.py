"""Any folder of scans or pictures with expert masks beside them."""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation.datasets.base import Case, DataSet, Mask, stem
from LabelFreeCovidSegLib.read import FORMATS

LAYOUT = """\
  images/ or ct/   NAME.nii.gz, .nrrd, .mha (HU), or NAME.png, .jpg (pictures)
  lesions/         NAME.*, whatever is not 0 is lesion
  lungs/           NAME.*, if drawn
  classes/         NAME.*, 1 ground glass, 2 consolidation, if drawn"""
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def of(folder: Path) -> DataSet:
    """The data set in a folder of this layout, called by the folder's name."""
    name = folder.resolve().name
    return DataSet(name, name, "whoever made it", "as its maker says", LAYOUT, None, _find)


def _find(folder: Path) -> list[Case]:
    images = _by_name(folder / "images") or _by_name(folder / "ct")
    masks = {kind: _by_name(folder / kind) for kind in ("lesions", "lungs", "classes")}
    for kind, drawn in masks.items():
        lacking = sorted(images.keys() - drawn.keys())
        if lacking and (drawn or kind == "lesions"):
            raise DataSetError(
                f"{folder / kind}: nothing for {lacking[0]} ({len(lacking)} of {len(images)} cases lack a mask). Give "
                "each image a mask of the same name; an empty one says that there is no lesion."
            )
    cases = []
    for name, image in images.items():
        lesions, lungs, classes = (Mask(drawn[name]) if drawn else None for drawn in masks.values())
        volume = not image.name.lower().endswith(PICTURES)
        cases.append(Case(name, image, lesions, lungs, classes, hu=volume, mm=volume))
    return cases


def _by_name(folder: Path) -> dict[str, Path]:
    """The images in a folder by their name without suffix.

    Raises:
        DataSetError: two have the same.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.lower().endswith((*FORMATS, *PICTURES)) and not file.name.startswith("."):
            if stem(file) in found:
                raise DataSetError(f"{file}: {found[stem(file)].name} has the same name. Rename one of them.")
            found[stem(file)] = file
    return found
