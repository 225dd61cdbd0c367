"""Outline the lesions of one chest CT: Slicer --no-main-window --python-script segment.py CT -o OUT"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from LabelFreeCovidSegLib.script import run

run("segment")
