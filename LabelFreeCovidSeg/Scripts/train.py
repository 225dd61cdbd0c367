"""Train on unlabelled scans: Slicer --no-main-window --python-script train.py STEP ... (docs/training.md)"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from LabelFreeCovidSegLib.script import run

run("train")
