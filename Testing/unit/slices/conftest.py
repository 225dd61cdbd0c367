"""What the tests of `segment --slices` share."""

import pytest
from LabelFreeCovidSegLib.methods import base
from slice_pictures import chest_slice
from slice_runs import WINDOW, write


@pytest.fixture
def register(monkeypatch):
    """Offers a method, as if its weights shipped."""

    def offer(method):
        module = type("Module", (), {"CARD": method.card, "load": staticmethod(lambda: method)})
        monkeypatch.setitem(base.REGISTRY, method.card.name, method.card.name)
        monkeypatch.setitem(__import__("sys").modules, method.card.name, module)
        return method

    return offer


@pytest.fixture
def folder(tmp_path):
    """Two slices of different sizes."""
    write(tmp_path / "in" / "s2.png", chest_slice().window(*WINDOW))
    write(tmp_path / "in" / "s10.png", chest_slice().cropped().window(*WINDOW))
    return tmp_path / "in"
