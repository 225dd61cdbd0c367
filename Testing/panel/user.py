"""A user of the panel: the unchanged module file and .ui on stand-in widgets, and a mouse. For tests and pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
from PySide6.QtCore import QEventLoop, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget
from standins import application, pythonqt, widgets

MODULE = Path(__file__).resolve().parents[2] / "LabelFreeCovidSeg" / "LabelFreeCovidSeg.py"


def stand_in(folder: Path) -> dict[str, ModuleType]:
    """Give `slicer` what only the application has; the modules to be put among `sys.modules`.

    Args:
        folder: for the settings.
    """
    slicer.app = application.application(folder)
    slicer.util.mainWindow = lambda *_: None
    return application.modules() | {"qt": pythonqt.module(widgets)}


def load_module() -> ModuleType:
    """The unchanged `LabelFreeCovidSeg.py`; what `stand_in` returned must be among `sys.modules`."""
    spec = importlib.util.spec_from_file_location("LabelFreeCovidSegModule", MODULE)
    if spec is None or spec.loader is None:
        raise ImportError(f"{MODULE} can't be loaded.")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class Panel:
    """The panel as a user has it: what can be seen, and a mouse."""

    def __init__(self, module: ModuleType) -> None:
        self.widget = module.LabelFreeCovidSegWidget()
        self.widget.setup()
        self.window: QWidget = self.widget.window
        self.window.resize(400, 1500)
        self.window.show()
        QApplication.processEvents()

    def __getattr__(self, name: str) -> Any:
        """A widget by its name in the .ui file, as PySide has it."""
        return getattr(self.widget.ui, name).qt_object

    @property
    def parameters(self) -> Any:
        return self.widget._parameterNode

    def click(self, button: str) -> None:
        """A real click of the left mouse button in the middle of a button."""
        QTest.mouseClick(getattr(self, button), Qt.MouseButton.LeftButton)

    def double_click(self, button: str) -> None:
        """A real double click: Qt's own stand-in for it is the second press alone, which clicks nothing."""
        self.click(button)
        QTest.mouseDClick(getattr(self, button), Qt.MouseButton.LeftButton)
        QTest.mouseRelease(getattr(self, button), Qt.MouseButton.LeftButton)

    def wait(self, until: Callable[[], bool], seconds: float = 240.0) -> None:
        """Let events come and go until something is so."""
        loop, given_up = QEventLoop(), []
        watch, end = QTimer(), QTimer()
        watch.timeout.connect(lambda: loop.quit() if until() else None)
        end.setSingleShot(True)
        end.timeout.connect(lambda: (given_up.append(True), loop.quit()))
        watch.start(10)
        end.start(round(1000 * seconds))
        if not until():
            loop.exec()
        assert not given_up, f"nothing happened in {seconds} s; the panel says: {self.statusLabel.text()}"

    def wait_for_the_end(self, seconds: float = 240.0) -> None:
        """Until no run goes on and its button is back."""
        self.wait(lambda: not self.widget.logic.isBusy() and self.segmentButton.text() == "Segment lesions", seconds)
