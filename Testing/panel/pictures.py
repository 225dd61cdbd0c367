"""Pictures of the panel on the bundled sample, light and dark, narrow and wide.

    python Testing/panel/pictures.py docs/pictures

The segmentation is the program's own; Qt's binding and the qMRML and ctk widgets are stand-ins (`standins`).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402
from LabelFreeCovidSegLib import phantom  # noqa: E402
from mrml import open_scene  # noqa: E402
from PySide6.QtGui import QColor, QPalette  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402
from user import Panel, load_module, stand_in  # noqa: E402

WIDTHS = (400, 700)
DARK = {
    QPalette.ColorRole.Window: "#353535", QPalette.ColorRole.WindowText: "#f0f0f0", QPalette.ColorRole.Base: "#232323",
    QPalette.ColorRole.AlternateBase: "#2d2d2d", QPalette.ColorRole.Text: "#f0f0f0",
    QPalette.ColorRole.Button: "#404040", QPalette.ColorRole.ButtonText: "#f0f0f0",
    QPalette.ColorRole.Highlight: "#2a82da", QPalette.ColorRole.HighlightedText: "#000000",
}  # fmt: skip
"""Slicer's dark style, nearly."""


def palettes(program: QApplication) -> dict[str, QPalette]:
    """Colours by the name of the style."""
    light, dark = program.palette(), program.palette()
    for role, colour in DARK.items():
        dark.setColor(role, QColor(colour))
        if "Text" in role.name:
            dark.setColor(QPalette.ColorGroup.Disabled, role, QColor("#808080"))
    return {"light": light, "dark": dark}


def load_sample(folder: Path) -> object:
    """The sample as a node of the scene."""
    file = folder / "ct.nrrd"
    sitk.WriteImage(sitk.Cast(phantom.make().image(), sitk.sitkInt16), str(file))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Chest CT")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(file))
    storage.ReadData(node)
    node.CreateDefaultDisplayNodes()
    return node


def take(panel: Panel, folder: Path, name: str, styles: dict[str, QPalette]) -> None:
    """The panel as it is, in both widths and styles."""
    for style, palette in styles.items():
        QApplication.setPalette(palette)
        for width in WIDTHS:
            panel.window.resize(width, 100)  # as low as what is in it lets it be
            QApplication.processEvents()
            panel.window.resize(width, panel.window.layout().minimumHeightForWidth(width))
            QApplication.processEvents()
            panel.window.grab().save(str(folder / f"panel-{name}-{style}-{width}.png"))


def main() -> None:
    """Take the pictures of a panel before, during and after a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    program = QApplication([])
    program.setStyle("Fusion")
    styles = palettes(program)
    with tempfile.TemporaryDirectory() as temporary, open_scene(Path(temporary)):
        sys.modules.update(stand_in(Path(temporary)))
        load_sample(Path(temporary))
        panel = Panel(load_module())
        take(panel, folder, "before", styles)
        panel.click("segmentButton")
        panel.wait(lambda: panel.progressBar.value() > 50)
        take(panel, folder, "running", styles)
        panel.wait_for_the_end()
        take(panel, folder, "after", styles)
        for section in ("review", "models", "batch"):
            getattr(panel, f"{section}CollapsibleButton").setProperty("collapsed", False)
        take(panel, folder, "all", styles)
        panel.widget.cleanup()


if __name__ == "__main__":
    main()
