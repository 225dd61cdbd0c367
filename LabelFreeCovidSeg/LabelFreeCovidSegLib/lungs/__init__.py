"""Lung masks: 1 right, 2 left."""

from LabelFreeCovidSegLib.lungs.base import LungMask as LungMask
from LabelFreeCovidSegLib.lungs.base import find_in_picture as find_in_picture
from LabelFreeCovidSegLib.lungs.base import find_lungs as find_lungs
from LabelFreeCovidSegLib.lungs.base import label as label
