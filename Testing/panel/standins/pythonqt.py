"""A stand-in for PythonQt, Slicer's binding of Qt, on PySide6.

PythonQt reads and writes Qt properties as attributes, without parentheses, and connects signals by their C++ signature.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

MODULES = (QtCore, QtGui, QtWidgets)


class Proxy:
    """A Qt object as PythonQt shows it."""

    def __init__(self, qt_object: Any) -> None:
        object.__setattr__(self, "qt_object", qt_object)

    def __getattr__(self, name: str) -> Any:
        if name == "name":
            return self.qt_object.objectName()
        if self._is_property(name):
            return wrap(self.qt_object.property(name))
        return _method(getattr(self.qt_object, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._is_property(name):
            raise AttributeError(f"{type(self.qt_object).__name__} has no property '{name}'")
        self.qt_object.setProperty(name, unwrap(value))

    def __eq__(self, other: object) -> bool:
        return self.qt_object == unwrap(other)

    def __hash__(self) -> int:
        return hash(self.qt_object)

    def _is_property(self, name: str) -> bool:
        qt_object = self.qt_object
        return isinstance(qt_object, QtCore.QObject) and qt_object.metaObject().indexOfProperty(name) >= 0

    def connect(self, signature: str, slot: Any) -> None:
        """Connect a signal, given as in C++, for example "clicked(bool)"."""
        name, _, types = signature.rstrip(")").partition("(")
        # PySide looks at how many arguments the receiver takes, and gives none to one that takes any number.
        receivers = (
            lambda: slot(),
            lambda first: slot(wrap(first)),
            lambda first, second: slot(wrap(first), wrap(second)),
        )
        getattr(self.qt_object, name).connect(receivers[len(types.split(",")) if types else 0])


class Class:
    """A Qt class as PythonQt shows it: calling it makes a proxy."""

    def __init__(self, qt_class: Any) -> None:
        self._class = qt_class

    def __call__(self, *arguments: Any) -> Any:
        return wrap(self._class(*map(unwrap, arguments)))

    def __getattr__(self, name: str) -> Any:
        return _method(getattr(self._class, name))


def wrap(value: Any) -> Any:
    """A Qt object as a proxy; numbers, texts and the like as they are."""
    if isinstance(value, list):
        return [wrap(entry) for entry in value]
    plain = isinstance(value, (QtCore.QByteArray, str, int, float, type(None)))
    is_qt = type(value).__module__.startswith("PySide6") or isinstance(value, QtCore.QObject)
    return Proxy(value) if is_qt and not plain and not _is_enum(value) else value


def unwrap(value: Any) -> Any:
    """What `wrap` was given."""
    if isinstance(value, (list, tuple)):
        return [unwrap(entry) for entry in value]
    return value.qt_object if isinstance(value, Proxy) else value


def _is_enum(value: Any) -> bool:
    return hasattr(value, "name") and hasattr(value, "value") and not isinstance(value, QtCore.QObject)


def _method(member: Any) -> Any:
    """A member of an object or class; what it is called with and what it returns are translated."""
    if not callable(member) or isinstance(member, type):
        return member
    return lambda *arguments: wrap(member(*map(unwrap, arguments)))


def module(widgets: ModuleType) -> ModuleType:
    """The module `qt`, whose .ui loader knows the stand-in widgets of the module `widgets`."""

    class Loader(QtUiTools.QUiLoader):
        def __init__(self) -> None:
            super().__init__()
            for widget in vars(widgets).values():
                if isinstance(widget, type) and widget.__module__ == widgets.__name__:
                    self.registerCustomWidget(widget)

    class Qt(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name == "QUiLoader":
                return Class(Loader)
            for source in MODULES:
                if name[0] != "_" and hasattr(source, name):
                    return Class(getattr(source, name))
            raise AttributeError(name)  # dunder names among them: Python asks every module for those

    return Qt("qt")
