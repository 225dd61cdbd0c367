"""What the computation needs: nothing without consent, nothing of Slicer's own replaced, each failure explained.

The dialog is a real one, offscreen; pip is a stand-in, because no test may install anything.
"""

from __future__ import annotations

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest
import slicer
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QMessageBox


@pytest.fixture
def install(module, monkeypatch):
    from LabelFreeCovidSegLib.panel import install

    monkeypatch.setattr(install, "needed", lambda: ["numpy>=1", "surely-not-there>=2"])
    return install


@pytest.fixture
def pip(monkeypatch):
    """What pip was asked for, with the constraints as they were then."""
    calls = []

    def stand_in(arguments):
        path = arguments.partition('-c "')[2].partition('"')[0]
        with open(path, encoding="utf-8") as file:
            calls.append((arguments, file.read()))

    monkeypatch.setattr(slicer.util, "pip_install", stand_in)
    return calls


def answer(text):
    """Press the dialog's button of this text as soon as it is there; the dialog's words."""
    words = []

    def press():
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(20, press)
            return
        words.append(box.text())
        (button,) = (button for button in box.buttons() if button.text().replace("&", "") == text)
        button.click()

    QTimer.singleShot(20, press)
    return words


def test_what_is_there_in_a_sufficient_version_is_not_missing(install):
    requirements = ["numpy>=1", "numpy>=999", "surely-not-there>=2"]
    assert install.missing(requirements) == requirements[1:]


def test_nothing_missing_asks_nothing(install, pip, monkeypatch):
    monkeypatch.setattr(install, "needed", lambda: ["numpy>=1"])
    assert install.ensure(print)
    assert not pip


def test_a_refusal_installs_nothing(install, pip):
    words, told = answer("Cancel"), []
    assert not install.ensure(told.append)
    assert "surely-not-there" in words[0]
    assert told == ["Nothing was installed, so nothing was computed."]
    assert not pip


def test_consent_installs_what_is_missing_and_holds_the_rest(install, pip):
    answer("Install")
    told = []
    assert not install.ensure(told.append)  # the stand-in installs nothing
    ((arguments, constraints),) = pip
    assert arguments.startswith('"surely-not-there>=2" -c ')
    assert f"numpy=={importlib.metadata.version('numpy')}\n" in constraints
    assert f"torch=={importlib.metadata.version('torch')}\n" in constraints
    assert "docs/troubleshooting.md" in told[-1]


def test_a_torch_that_is_too_old_is_not_held_while_a_newer_one_is_installed_from_wheels(install, pip, monkeypatch):
    monkeypatch.setattr(install, "needed", lambda: ["torch>=999", "surely-not-there>=2"])
    monkeypatch.setattr(install, "_ask", lambda lacking: "/wheels")
    install.ensure(lambda text: None)
    ((arguments, constraints),) = pip
    assert arguments.startswith('"torch>=999" "surely-not-there>=2" -c ')
    assert arguments.endswith('--no-index --find-links "/wheels"')
    assert "torch" not in constraints
    assert f"numpy=={importlib.metadata.version('numpy')}\n" in constraints


def test_slicers_own_installer_is_used_where_there_is_one(install, pip, monkeypatch):
    calls = []
    packaging = SimpleNamespace(pip_ensure=lambda wanted, **options: calls.append((list(map(str, wanted)), options)))
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    answer("Install")
    install.ensure(lambda text: None)
    ((wanted, options),) = calls
    assert wanted == ["surely-not-there>=2"]
    assert options["prompt_install"] is False  # it was asked already
    assert not pip


def test_torch_comes_through_its_extension_or_not_at_all(install, pip, monkeypatch):
    monkeypatch.setattr(install, "TORCH", "surely-no-torch>=2.8")
    monkeypatch.setattr(install, "needed", lambda: ["surely-no-torch>=2.8"])
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    answer("Install")
    told = []
    assert not install.ensure(told.append)
    assert "the extension 'PyTorch' is missing" in told[-1]
    assert not pip
