"""A folder of slices through the command's own function, and a method that needs no weights."""

import numpy as np
import SimpleITK as sitk
from LabelFreeCovidSegLib import segment_slices
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.methods import base
from LabelFreeCovidSegLib.segment_slices import Choices
from LabelFreeCovidSegLib.session import Session

WINDOW = (-1350.0, 150.0)
BRIGHT_HU = -650.0


class Bright:
    """A method that takes bright lung for lesion, and remembers what it was shown."""

    weights = "bright 1.0"

    def __init__(self, name="bright", picture_mm=0.0, domain=base.HU):
        self.card = base.Card(name, name.title(), "", "", picture_mm=picture_mm, domain=domain)
        self.shown = []

    def predict(self, scan, lungs, compute, progress):
        self.shown.append(scan)
        lesion = ((scan.hu > BRIGHT_HU) & (lungs.labels > 0)).astype(np.uint8)
        return base.Prediction(lesion, lesion.astype(np.float32), warnings=("Bright.",))


def write(path, pixels):
    """A picture, in a folder that is made if need be."""
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))


def read(path):
    """The pixels of a picture."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def run(folder, out, method="bright", **choices):
    """What `segment --slices` does; rows of the table, and warnings."""
    return segment_slices.run(folder, out, Choices(method, device="cpu", **choices), Session(Plain()))
