"""What the files in `Scripts` share: one command of the command line, under any of three interpreters.

Slicer --no-main-window --python-script segment.py CT -o OUT
PythonSlicer segment.py CT -o OUT
python segment.py CT -o OUT
"""

from __future__ import annotations

import sys

from LabelFreeCovidSegLib.cli import main


def run(command: str) -> None:
    """Run `command` with the arguments of the script, and end the process with its exit code.

    Slicer's application goes on after its script, even after `sys.exit`, unless it is told to end.
    """
    try:
        code = main([command, *sys.argv[1:]])
    except SystemExit as usage:
        code = usage.code if isinstance(usage.code, int) else 2
    slicer = sys.modules.get("slicer")
    if slicer is not None and hasattr(slicer, "app"):
        slicer.util.exit(code)
    else:
        sys.exit(code)
