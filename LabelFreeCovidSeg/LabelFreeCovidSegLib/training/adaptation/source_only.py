"""The recipe of the source domain alone."""

from __future__ import annotations

from LabelFreeCovidSegLib.methods.adaptation import source_only
from LabelFreeCovidSegLib.training import uda

PRESETS = {"small": source_only.PRESETS["small"], **source_only.PRESETS}
CITATION = source_only.CARD.citation
EXPECTS, SHIPS = uda.EXPECTS, uda.SHIPS

trainee, blocks, calibrate = uda.SourceOnly, uda.blocks, uda.calibrate
