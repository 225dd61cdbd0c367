"""What the segments are called, how they are coded and how they are coloured, in Slicer, DICOM and files alike.

The codes of the two findings are RadLex's (RID28531 ground-glass opacity, RID43255 consolidation): the lists that come
with Slicer hold neither. The context that knows them ships as `Resources/Terminologies/LabelFreeCovidSeg.term.json`.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT = "LabelFreeCovidSeg"
"""Name of our terminology context in Slicer, and the stem of its file."""

ANATOMY = "Anatomic codes - DICOM master list"
"""Slicer's own context for the region."""


@dataclass(frozen=True)
class Code:
    """A coded concept as DICOM has it: scheme designator, value, meaning."""

    scheme: str = ""
    value: str = ""
    meaning: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


NONE = Code()
MORPHOLOGY = Code("SCT", "49755003", "Morphologically Altered Structure")
ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
LUNG = Code("SCT", "39607008", "Lung")
RIGHT = Code("SCT", "24028007", "Right")
LEFT = Code("SCT", "7771000", "Left")


@dataclass(frozen=True)
class Segment:
    """One class of a label image, as a segment.

    Attributes:
        label: its voxel value.
        id: its identifier in a segmentation; stays the same over versions and languages.
        name: what the user reads.
        rgb: its colour, 0..255.
        category, type, modifier: what it is.
        region: where it is; `NONE` if the type says so already.
    """

    label: int
    id: str
    name: str
    rgb: tuple[int, int, int]
    category: Code
    type: Code
    modifier: Code = NONE
    region: Code = NONE

    @property
    def color(self) -> tuple[float, float, float]:
        """`rgb` in 0..1, as VTK and .seg.nrrd files want it."""
        red, green, blue = self.rgb
        return red / 255, green / 255, blue / 255

    @property
    def entry(self) -> str:
        """The value of Slicer's segment tag `TerminologyEntry`."""
        parts = (CONTEXT, self.category, self.type, self.modifier, ANATOMY, self.region, NONE)
        return "~".join(map(str, parts))


GROUND_GLASS = Segment(
    label=1,
    id="ground-glass-opacity",
    name="Ground-glass opacity",
    rgb=(86, 180, 233),  # with the next: blue and vermillion of the Okabe-Ito palette, told apart by everyone
    category=MORPHOLOGY,
    type=Code("RADLEX", "RID28531", "Ground-glass opacity"),
    region=LUNG,
)
CONSOLIDATION = Segment(
    label=2,
    id="consolidation",
    name="Consolidation",
    rgb=(213, 94, 0),
    category=MORPHOLOGY,
    type=Code("RADLEX", "RID43255", "Consolidation"),
    region=LUNG,
)
RIGHT_LUNG = Segment(1, "right-lung", "Right lung", (224, 186, 162), ANATOMICAL_STRUCTURE, LUNG, RIGHT)
LEFT_LUNG = Segment(2, "left-lung", "Left lung", (202, 164, 140), ANATOMICAL_STRUCTURE, LUNG, LEFT)

LESIONS = (GROUND_GLASS, CONSOLIDATION)
"""The classes of `lesions.nii.gz`."""
LUNGS = (RIGHT_LUNG, LEFT_LUNG)
"""The classes of `lungs.nii.gz`."""
