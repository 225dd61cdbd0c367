"""The panel without the application: the unchanged module file and .ui, real MRML, and a real child process.

What stands in for Qt's Python binding, Slicer's base classes and its widgets lies in `standins`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from mrml import any_patient, centres, child, make_results, patient, scene, temporary  # noqa: F401

try:
    from PySide6.QtWidgets import QApplication
except ImportError as error:
    raise ImportError(f"Qt can't be loaded for the panel's tests ({error}): install what README.md names.") from error

sys.path.insert(0, str(Path(__file__).parent))
from user import Panel, load_module, stand_in


@pytest.fixture(scope="session")
def qt_application() -> QApplication:
    """The one application object of the process."""
    program = QApplication.instance() or QApplication([])
    program.setStyle("Fusion")
    return program


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Exceptions in slots, which Qt would only print: a test that leaves one fails."""
    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: raised.append(error))
    yield raised
    assert not raised


@pytest.fixture
def module(
    scene: Any,  # noqa: F811
    qt_application: QApplication,
    errors: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ModuleType:
    """The unchanged `LabelFreeCovidSeg.py`."""
    for name in ("app", "util.mainWindow"):  # whatever they were is put back after the test
        monkeypatch.setattr(f"slicer.{name}", None, raising=False)
    for name, module in stand_in(tmp_path).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("LABELFREECOVIDSEG_MODELS", str(tmp_path / "Models"))
    return load_module()


@pytest.fixture
def panel(module: ModuleType) -> Iterator[Panel]:
    """The panel on an empty scene, or on what a test has put into the scene before."""
    opened = Panel(module)
    yield opened
    opened.widget.cleanup()
    opened.window.close()
    opened.window.deleteLater()
    QApplication.processEvents()


@pytest.fixture
def reopen(module: ModuleType) -> Callable[[], Panel]:
    """Another panel on the scene as it is by now."""
    return lambda: Panel(module)
