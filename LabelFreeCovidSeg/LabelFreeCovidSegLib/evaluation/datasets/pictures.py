"""Public data sets of single axial slices as 8-bit pictures: no Hounsfield units, no pixel size."""

from __future__ import annotations

from pathlib import Path

from LabelFreeCovidSegLib.evaluation.datasets.base import Case, DataSet, Mask, depth, stem
from LabelFreeCovidSegLib.evaluation.datasets.volumes import MEDSEG_LESIONS

MEDSEG_SLICES = 100


def _medseg(folder: Path) -> list[Case]:
    image, drawn = folder / "tr_im.nii.gz", Mask(folder / "tr_mask.nii.gz", MEDSEG_LESIONS)
    slices = depth(image) if image.exists() else 0
    return [Case(f"{index:03d}", image, drawn, None, drawn, index=index, hu=False, mm=False) for index in range(slices)]


def _semiseg(folder: Path) -> list[Case]:
    train = folder / "TrainingSet" / "LungInfection-Train" / "Doctor-label"
    return [
        Case(stem(image), image, Mask(train / "GT" / f"{stem(image)}.png"), hu=False, mm=False, orientation="PL")
        for image in (train / "Imgs").glob("*.jpg")
    ]


MEDSEG_100 = DataSet(
    "medseg-100",
    "MedSeg COVID-19 CT segmentation set nr. 1 (100 slices from SIRM)",
    "https://medicalsegmentation.com/covid19",
    "not stated; free download",
    "  tr_im.nii.gz\n  tr_mask.nii.gz",
    MEDSEG_SLICES,
    _medseg,
    ("Each slice is a patient's; grey values come from JPEG files.",),
)
COVID_SEMISEG = DataSet(
    "covid-semiseg",
    "COVID-SemiSeg, the 50 slices with a doctor's labels",
    "https://github.com/DengPingFan/Inf-Net",
    "non-commercial",
    "  TrainingSet/LungInfection-Train/Doctor-label/Imgs/*.jpg\n"
    "  TrainingSet/LungInfection-Train/Doctor-label/GT/*.png",
    50,
    _semiseg,
    ("Slices of MedSeg nr. 1, cropped to the lungs and turned by 90 degrees.",),
)
