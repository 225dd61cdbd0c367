"""How long the panel keeps the window waiting, on a real CT: hand-over, event loop while the child computes, insertion.

    python Testing/benchmarks/panel.py CT

CT is a file or a DICOM folder. The panel is the offscreen one of Testing/panel, on stand-in widgets. Where other
programs share the processor, its time in this process (without the child's) says more than the clock.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
TESTING = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTING / "panel"), str(TESTING / "support")]

import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402
from LabelFreeCovidSegLib import read  # noqa: E402
from mrml import open_scene  # noqa: E402
from PySide6.QtCore import QTimer  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402
from user import Panel, load_module, stand_in  # noqa: E402


def load(path: Path, folder: Path) -> None:
    """The CT as a node of the scene."""
    scan = read.read(path)
    file = folder / "ct.nrrd"
    sitk.WriteImage(sitk.Cast(scan.native_image(scan.hu), sitk.sitkInt16), str(file))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(file))
    storage.ReadData(node)
    node.CreateDefaultDisplayNodes()


def clocks() -> tuple[float, float]:
    """Seconds on the clock, and those that this process had the processor."""
    return time.perf_counter(), time.process_time()


def main() -> None:
    """Segment once, with a clock on everything that happens in the window's thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ct", type=Path)
    arguments = parser.parse_args()
    program = QApplication([])
    with tempfile.TemporaryDirectory() as temporary, open_scene(Path(temporary)):
        sys.modules.update(stand_in(Path(temporary)))
        load(arguments.ct, Path(temporary))
        panel = Panel(load_module())
        program.processEvents()
        gaps: list[tuple[float, float, str]] = []
        last = clocks()

        def beat() -> None:
            nonlocal last
            now = clocks()
            gaps.append((now[0] - last[0], now[1] - last[1], panel.statusLabel.text().partition(",")[0]))
            last = now

        heart = QTimer()
        heart.timeout.connect(beat)
        heart.start(5)
        began = last = clocks()
        panel.click("segmentButton")
        panel.wait_for_the_end(seconds=3600)
        whole = clocks()[0] - began[0]
        beat()
        heart.stop()
        for text in dict.fromkeys(its for *_, its in gaps):
            wait, processor, _ = max(gap for gap in gaps if gap[2] == text)
            print(f"{text[:50]:52}longest wait {1000 * wait:7.0f} ms, processor {1000 * processor:7.0f} ms")
        print(f"{'whole run':52}{whole:20.1f} s")
        panel.widget.cleanup()


if __name__ == "__main__":
    main()
