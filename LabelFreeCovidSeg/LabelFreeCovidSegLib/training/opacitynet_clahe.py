"""The recipe of OpacityNet for equalised pictures: that of `training.opacitynet2d` with another preset."""

from __future__ import annotations

from LabelFreeCovidSegLib.methods import opacitynet_clahe
from LabelFreeCovidSegLib.training.opacitynet2d import CITATION, SHIPS, blocks, calibrate, trainee

__all__ = ["CITATION", "EXPECTS", "PRESETS", "SHIPS", "blocks", "calibrate", "trainee"]

PRESETS = opacitynet_clahe.PRESETS
EXPECTS = "Axial slices of the chest as pictures of 256 x 256 pixels, equalised place by place; lungs found beforehand."
