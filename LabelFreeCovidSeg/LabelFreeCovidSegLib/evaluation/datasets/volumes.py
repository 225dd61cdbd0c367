"""Public data sets of whole CT volumes."""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.errors import DataSetError
from LabelFreeCovidSegLib.evaluation.datasets.base import Case, DataSet, Mask, slice_step_mm, stem

LUNA_LUNGS = (3, 4)
"""5 is the trachea."""
MEDSEG_LESIONS = (1, 2)
"""3 is pleural effusion."""
UESTC_THICK_MM = 5.0
MOSMED_STEP_MM = 8.0

_CT_SEG_LAYOUT = """\
  COVID-19-CT-Seg_20cases/{name}.nii.gz
  Infection_Mask/{name}.nii.gz
  Lung_Mask/{name}.nii.gz"""
_MEDSEG_LICENCE = "not stated; free download"


def _ct_seg(prefix: str, hu: bool) -> DataSet:
    def find(folder: Path) -> list[Case]:
        return [
            Case(
                stem(image), image, Mask(folder / "Infection_Mask" / image.name),
                Mask(folder / "Lung_Mask" / image.name), hu=hu,
            )
            for image in (folder / "COVID-19-CT-Seg_20cases").glob(f"{prefix}_*.nii.gz")
        ]  # fmt: skip

    notes = (
        (
            "The authors of NormNet chose k, t and r on 3 of these volumes, those of the 3-D GAN their threshold on "
            "all 10: for both methods these are validation results.",
        )
        if hu
        else ("These volumes were windowed [-1250, 250] to [0, 255] before they were published; their HU are lost.",)
    )
    return DataSet(
        prefix,
        f"COVID-19-CT-Seg, {prefix} part",
        "https://zenodo.org/record/3757476",
        "CC BY-NC-SA",
        _CT_SEG_LAYOUT.format(name=f"{prefix}_*"),
        10,
        find,
        notes,
    )


def _by_yao(why: str) -> dict[str, str]:
    """What NormNet's authors left out, in all protocols whose published numbers are theirs."""
    return dict.fromkeys(("C", "C_bright", "oracle_threshold"), why)


def _medseg(folder: Path) -> list[Case]:
    return [
        Case(
            stem(image),
            image,
            Mask(folder / "rp_msk" / image.name, MEDSEG_LESIONS),
            Mask(folder / "rp_lung_msk" / image.name),
            Mask(folder / "rp_msk" / image.name, MEDSEG_LESIONS),
            left_out=_by_yao("about 70 lesion voxels in 42 slices") if stem(image) == "6" else {},
        )
        for image in (folder / "rp_im").glob("*.nii.gz")
    ]


def _mosmed(folder: Path) -> list[Case]:
    masks = {mask.name.replace("_mask", ""): mask for mask in (folder / "masks").glob("study_*_mask.nii.gz")}
    images = {image.name: image for image in (folder / "studies").glob("CT-*/study_*.nii.gz")}
    cases = [Case(stem(mask), images.get(name, folder / "studies" / name), Mask(mask)) for name, mask in masks.items()]
    for case in cases:
        if case.image.exists() and (step := slice_step_mm(case.image)) < MOSMED_STEP_MM / 2:
            raise DataSetError(
                f"{case.image}: its header says {step:.3g} mm between slices, but the slices of MosMedData lie about "
                f"{MOSMED_STEP_MM:.0f} mm apart; volumes and distances would be wrong. Download it again."
            )
    return cases


def _uestc(folder: Path) -> list[Case]:
    cases = []
    for part in ("part1", "part2"):
        images = sorted((folder / part / "image").glob("*.nii.gz"))
        drawn_by = {50: "expert", 70: "non-expert"}.get(len(images))
        if drawn_by is None:
            raise DataSetError(
                f"{folder / part / 'image'}: {len(images)} volumes, where one part of UESTC-COVID-19 has 50 and the "
                f"other 70. {UESTC.download}"
            )
        for image in images:
            step = slice_step_mm(image)
            thick = _by_yao(f"slices {step:.3g} mm apart") if step >= UESTC_THICK_MM else {}
            label = Mask(folder / part / "label" / image.name)
            cases.append(Case(f"{drawn_by}-{stem(image)}", image, label, left_out=thick))
    return cases


def _luna(folder: Path) -> list[Case]:
    return [
        Case(stem(image), image, None, Mask(folder / "seg-lungs-LUNA16" / image.name, LUNA_LUNGS))
        for image in folder.glob("subset[0-9]/*.mhd")
    ]


def _ricord(folder: Path) -> list[Case]:
    series = {file.parent for file in folder.rglob("*.dcm")}
    return [Case("_".join(found.relative_to(folder).parts) or folder.name, found) for found in series]


CORONACASES = _ct_seg("coronacases", hu=True)
RADIOPAEDIA = _ct_seg("radiopaedia", hu=False)
MEDSEG = DataSet(
    "medseg-9",
    "MedSeg COVID-19 CT segmentation set nr. 2 (9 volumes from Radiopaedia)",
    "https://medicalsegmentation.com/covid19",
    _MEDSEG_LICENCE,
    "  rp_im/1.nii.gz ... 9.nii.gz\n  rp_msk/1.nii.gz ...\n  rp_lung_msk/1.nii.gz ...",
    9,
    _medseg,
    ("Slices are thick and were padded together. Papers call this set Radiopaedia.",),
)
MOSMED = DataSet(
    "mosmed",
    "MosMedData, the 50 studies with infection masks",
    "https://mosmed.ai/datasets/covid19_1110",
    "CC BY-NC-ND 3.0",
    "  studies/CT-1/study_*.nii.gz\n  masks/study_*_mask.nii.gz",
    50,
    _mosmed,
    ("Slices lie about 8 mm apart, so that surface distances across slices come in steps of 8 mm.",),
)
UESTC = DataSet(
    "uestc",
    "UESTC-COVID-19",
    "its authors (HiLab, UESTC), against a signed consent",
    "by consent",
    "  part1/image/*.nii.gz  part1/label/*.nii.gz\n  part2/image/*.nii.gz  part2/label/*.nii.gz",
    120,
    _uestc,
    ("50 volumes were outlined by experts, 70 by others (case names say which).",),
)
LUNA16 = DataSet(
    "luna16",
    "LUNA16",
    "https://luna16.grand-challenge.org",
    "CC BY 3.0",
    "  subset0/*.mhd ... subset9/*.mhd\n  seg-lungs-LUNA16/*.mhd",
    888,
    _luna,
    ("No scan has COVID-19, so whatever is marked is false; some mark nodules.",),
)
RICORD = DataSet(
    "midrc-ricord",
    "MIDRC-RICORD",
    "https://www.cancerimagingarchive.net",
    "CC BY-NC 4.0",
    "  PATIENT/STUDY/SERIES/*.dcm",
    None,
    _ricord,
    judged=False,
)
