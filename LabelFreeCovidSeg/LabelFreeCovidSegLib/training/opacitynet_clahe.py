"""The recipe of OpacityNet for equalised pictures: that of `training.opacitynet2d` with another preset."""

from __future__ import annotations

from LabelFreeCovidSegLib.methods import opacitynet_clahe
from LabelFreeCovidSegLib.training.opacitynet2d import CITATION, EXPECTS, SHIPS, blocks, calibrate, trainee

__all__ = ["CITATION", "EXPECTS", "PRESETS", "SHIPS", "blocks", "calibrate", "trainee"]

PRESETS = opacitynet_clahe.PRESETS
