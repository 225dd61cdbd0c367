"""What a data set with expert masks is: a description of what to download, and the cases found in its folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.volume import format_of


@dataclass(frozen=True)
class Mask:
    """A file of expert labels.

    Attributes:
        labels: those that count; None for whatever is not 0.
    """

    path: Path
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Case:
    """One scan or picture with what experts drew in it, or a volume of pictures. Nothing is opened yet; see `expert`.

    Attributes:
        name: unique in its data set; results are filed under it.
        image: the scan (what `read.read` takes), a picture, or a stack of pictures; of a volume, its first picture.
        lesions: None if the case is known to have none.
        lungs: None if nobody drew them.
        classes: labels 1 ground glass and 2 consolidation; None if nobody told them apart.
        index: which picture of a stack.
        hu: False if the grey values are no Hounsfield units.
        mm: False if the size of a pixel is not known.
        left_out: protocol -> why its authors did not count this case.
        orientation: of pictures, which way they lie: one of `pictures.ORIENTATIONS`.
        equalised: of pictures, whether they were equalised place by place, so that no grey stands for a density.
        slices: the pictures of a volume from the feet up, alike in size, orientation and equalising; they are counted
            together. Their masks are their own, and the volume's are None.
    """

    name: str
    image: Path
    lesions: Mask | None = None
    lungs: Mask | None = None
    classes: Mask | None = None
    index: int | None = None
    hu: bool = True
    mm: bool = True
    left_out: Mapping[str, str] = field(default_factory=dict)
    orientation: str = "LP"
    equalised: bool = False
    slices: tuple[Case, ...] = ()

    @classmethod
    def of_slices(cls, name: str, slices: Sequence[Case]) -> Case:
        """The volume that pictures make, the lowest first."""
        first = slices[0]
        return cls(
            name, first.image, hu=False, mm=False, orientation=first.orientation, equalised=first.equalised,
            slices=tuple(slices),
        )  # fmt: skip

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that a result of this case depends on."""
        if self.slices:
            return tuple(dict.fromkeys(file for each in self.slices for file in each.files))
        masks = {mask.path: None for mask in (self.lesions, self.lungs, self.classes) if mask}
        return (self.image, *masks)


@dataclass(frozen=True)
class DataSet:
    """A public data set, as its owners publish it.

    Attributes:
        name: on the command line, and in the table of published results.
        source: where to ask for it.
        licence: as published; a person who uses the data has to look for themselves.
        layout: the files in its folder that are used.
        cases: how many there must be; None if nothing reliable says so.
        find: folder -> cases. Raises `DataSetError`.
        notes: what a reader of its results has to know, one sentence each.
        judged: whether there are expert masks, or every case is known to have no lesion.
    """

    name: str
    title: str
    source: str
    licence: str
    layout: str
    cases: int | None
    find: Callable[[Path], list[Case]]
    notes: tuple[str, ...] = ()
    judged: bool = True

    def open(self, folder: Path) -> list[Case]:
        """The cases in `folder`, by name.

        Raises:
            DataSetError: the folder or files are missing; the message says what to download.
        """
        if not folder.is_dir():
            raise DataSetError(f"{folder}: no folder. {self.download}")
        cases = sorted(self.find(folder), key=lambda case: case.name)
        if not cases or self.cases not in (None, len(cases)):
            wanted = f"{self.cases}" if self.cases else "some"
            raise DataSetError(f"{folder}: {len(cases)} cases of {self.title}, not {wanted}. {self.download}")
        _verify(folder, self.download)
        missing = next((file for case in cases for file in case.files if not file.exists()), None)
        if missing:
            raise DataSetError(f"{missing}: missing. {self.download}")
        return cases

    @property
    def download(self) -> str:
        """What to get, from where, under which licence, and how it has to lie."""
        return f"{self.title}: get it from {self.source} (licence: {self.licence}), laid out as\n{self.layout}"


SUMS = {"SHA256SUMS": "sha256", "MD5SUMS": "md5"}
"""Files that list checksums as `sha256sum` and `md5sum` write them. No owner of a set publishes those of single files,
only of archives; whoever made one keeps it in the folder."""
SUMS_WAY_OUT = "Write it as `sha256sum` does, or take it away."


def _verify(folder: Path, download: str) -> None:
    """Compare the files of `folder` with the checksums that lie in it, if any do. Raises `DataSetError`."""
    for name, algorithm in SUMS.items():
        for wanted, listed in _sums(folder / name) if (folder / name).is_file() else ():
            file = folder / listed
            try:
                with file.open("rb") as data:
                    found = hashlib.file_digest(data, algorithm).hexdigest()
            except OSError as error:
                raise DataSetError(f"{file}: can't be read, and {name} lists it. {download}") from error
            if found != wanted.lower():
                raise DataSetError(f"{file}: damaged, its checksum is not that of {name}. {download}")


def _sums(path: Path) -> list[tuple[str, str]]:
    """Checksums and names of files as `sha256sum` and `md5sum` write them. Raises `DataSetError`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path}: can't be read ({error}). {SUMS_WAY_OUT}") from error
    found = []
    for line in filter(None, map(str.strip, lines)):
        match = re.fullmatch(r"([0-9a-fA-F]+)\s+\*?(.+)", line)
        if not match:
            raise DataSetError(f"{path}: '{line}' is no checksum with its file. {SUMS_WAY_OUT}")
        found.append((match[1], match[2]))
    return found


def stem(path: Path) -> str:
    """The name without what tells the format."""
    suffix = format_of(path) or path.suffix
    return path.name[: len(path.name) - len(suffix)]


def slice_step_mm(path: Path) -> float:
    """The distance between axial slices of a volume, by its header.

    Raises:
        DataSetError: the header can't be read.
    """
    header = _header(path)
    towards_head = [abs(cosine) for cosine in header.GetDirection()[6:9]]
    return header.GetSpacing()[towards_head.index(max(towards_head))]


def depth(path: Path) -> int:
    """How many pictures a stack holds, by its header.

    Raises:
        DataSetError: the header can't be read.
    """
    return _header(path).GetSize()[2]


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataSetError(f"{path}: its header can't be read. Download it again.") from error
    return reader
