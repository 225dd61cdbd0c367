"""Measure methods on expert masks: Slicer --no-main-window --python-script evaluate.py --data FOLDER -o OUT"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from LabelFreeCovidSegLib.script import run

run("evaluate")
