"""What the sections of the panel have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Section:
    """A part of the panel. It holds no state of its own: whatever it shows follows from the parameters and the scene.

    Attributes:
        parameters: the module's parameter node while the panel is bound to it; else None.
    """

    parameters: Any = None

    def bind(self, parameters: Any) -> None:
        """Stand for these parameters from now on."""
        self.parameters = parameters
        self.show()

    def unbind(self) -> None:
        """Let go of the parameters and of every node."""
        self.parameters = None

    def show(self) -> None:
        """Bring the widgets in line with the parameters and the scene. Called after every change; changes nothing."""


class Choice:
    """A combo box whose entries have a name for the program and a title for the user.

    Slicer's own binding of combo boxes shows the names.

    Args:
        options: name -> title, in the order of the list.
        chosen: called with the name when the user picks an entry.
    """

    def __init__(self, box: Any, options: Mapping[str, str], chosen: Callable[[str], None]) -> None:
        self._box = box
        self._names = list(options)
        self._chosen = chosen
        for title in options.values():
            box.addItem(title)
        box.connect("activated(int)", lambda index: self._chosen(self._names[index]))

    def show(self, name: str) -> None:
        """Show the entry called `name`; nothing if there is none, as in a scene of another version."""
        self._box.setCurrentIndex(self._names.index(name) if name in self._names else -1)
