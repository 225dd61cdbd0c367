"""Any folder of scans or pictures with expert masks beside them, and what a person says of its pictures."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation.datasets.base import Case, DataSet, Mask, stem
from LabelFreeCovidSegLib.pictures import ORIENTATIONS
from LabelFreeCovidSegLib.volume import FORMATS

LAYOUT = """\
  images/ or ct/   NAME.nii.gz, .nrrd, .mha (HU), or NAME.png, .jpg (pictures)
  lesions/         NAME.*, whatever is not 0 is lesion
  lungs/           NAME.*, if drawn
  classes/         NAME.*, 1 ground glass, 2 consolidation, if drawn
  dataset.toml     what can't be seen in pictures, if there is something to say (see docs/evaluation.md)"""
DESCRIPTION = "dataset.toml"
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Description:
    """What nobody can see in the pictures of a folder.

    Attributes:
        folder: that holds them.
        orientation: pattern of names -> one of `pictures.ORIENTATIONS`; the first that a name fits counts.
        equalised: they were equalised place by place.
        volumes: names end in `_NUMBER`, and what stands before it is the volume of which it is a slice.
    """

    folder: Path
    orientation: Mapping[str, str] = field(default_factory=dict)
    equalised: bool = False
    volumes: bool = False

    @classmethod
    def read(cls, path: Path) -> Description:
        """Read a TOML file whose keys are the attributes.

        `folder` starts from the file, and is the file's own if left out. `orientation` is a table, or one for all.

        Raises:
            DataSetError: the file can't be read, or says what makes no sense.
        """
        try:
            said: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
            known = [attribute.name for attribute in fields(cls)]
            if odd := [key for key in said if key not in known]:
                raise ValueError(f"there is no key '{odd[0]}', but {', '.join(known)}")
            turned = said.pop("orientation", {})
            said["orientation"] = {"*": turned} if isinstance(turned, str) else turned
            found = cls(**{**said, "folder": path.parent / said.pop("folder", ".")})
            for each in found.orientation.values():
                if each not in ORIENTATIONS:
                    raise ValueError(f"orientation '{each}' is none of {', '.join(ORIENTATIONS)}")
            for name in ("equalised", "volumes"):
                if not isinstance(getattr(found, name), bool):
                    raise ValueError(f"{name} is neither true nor false")
        except (OSError, TypeError, ValueError, AttributeError) as error:
            raise DataSetError(
                f"{path}: not a description of a data set ({error}). See docs/evaluation.md for its form."
            ) from error
        return found

    def turned(self, name: str) -> str:
        """The orientation of the picture called `name`."""
        return next((lies for pattern, lies in self.orientation.items() if fnmatchcase(name, pattern)), "LP")


def find(path: Path) -> tuple[DataSet, Path]:
    """The data set in a folder of this layout, or that a TOML file describes, called by the folder's name.

    Raises:
        DataSetError: see `Description.read`.
    """
    file = path if path.suffix == ".toml" else path / DESCRIPTION
    described = Description.read(file) if file == path or file.is_file() else Description(path)
    name = described.folder.resolve().name
    cases = partial(_find, described)
    return DataSet(name, name, "whoever made it", "as its maker says", LAYOUT, None, cases), described.folder


def _find(described: Description, folder: Path) -> list[Case]:
    images = _by_name(folder / "images") or _by_name(folder / "ct")
    masks = {kind: _by_name(folder / kind) for kind in ("lesions", "lungs", "classes")}
    for kind, drawn in masks.items():
        lacking = sorted(images.keys() - drawn.keys())
        if lacking and (drawn or kind == "lesions"):
            way_out = "an empty one says that there is no lesion" if kind == "lesions" else "or move the folder away"
            raise DataSetError(
                f"{folder / kind}: nothing for {lacking[0]} ({len(lacking)} of {len(images)} cases lack a mask). Give "
                f"each image a mask of the same name; {way_out}."
            )
    cases = []
    for name, image in images.items():
        lesions, lungs, classes = (Mask(drawn[name]) if drawn else None for drawn in masks.values())
        volume = not image.name.lower().endswith(PICTURES)
        cases.append(
            Case(
                name, image, lesions, lungs, classes, hu=volume, mm=volume,
                orientation=described.turned(name), equalised=described.equalised and not volume,
            )
        )  # fmt: skip
    return _volumes(cases) if described.volumes else cases


def _volumes(slices: Iterable[Case]) -> list[Case]:
    """Pictures as the volumes that they are slices of, by their numbers."""
    found: dict[str, list[tuple[int, Case]]] = {}
    for each in slices:
        parts = re.fullmatch(r"(.+)_(\d+)", each.name)
        if each.hu or parts is None:
            raise DataSetError(
                f"{each.image}: its name is not that of a picture and a slice (VOLUME_NUMBER.png), as `volumes = true` "
                f"in {DESCRIPTION} says. Rename it, or leave `volumes` out."
            )
        found.setdefault(parts[1], []).append((int(parts[2]), each))
    ordered = {name: [each for _, each in sorted(its, key=lambda pair: pair[0])] for name, its in found.items()}
    return [Case.of_slices(name, its) for name, its in ordered.items()]


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
