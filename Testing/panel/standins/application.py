"""Stand-ins for Slicer's Python base classes, over real MRML nodes, and for `slicer.app`."""

from __future__ import annotations

import pathlib
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import slicer
from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication, QVBoxLayout, QWidget

from .pythonqt import Proxy, unwrap, wrap


class ScriptedLoadableModule:
    """Keeps the description that the module writes about itself."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    """A panel in a window of its own."""

    def __init__(self, parent: Any = None) -> None:
        self.window = QWidget()
        QVBoxLayout(self.window).setContentsMargins(0, 0, 0, 0)
        self.parent = SimpleNamespace(isEntered=True)
        self.layout = wrap(self.window.layout())

    def setup(self) -> None: ...

    def resourcePath(self, name: str) -> str:
        return str(pathlib.Path(__file__).resolve().parents[3] / "LabelFreeCovidSeg" / "Resources" / name)


class ScriptedLoadableModuleLogic:
    """The module's one parameter node, which is saved with the scene."""

    moduleName = "LabelFreeCovidSeg"

    def getParameterNode(self) -> Any:
        scene, kind = slicer.mrmlScene, "vtkMRMLScriptedModuleNode"
        node = scene.GetSingletonNode(self.moduleName, kind)
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest:
    """Run by the application only."""


class WithinRange:
    """The bounds of a number; Slicer's wrapper checks them."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


def parameter_node_wrapper(cls: type) -> type:
    """Typed attributes, kept as texts and node references of a MRML node, and bound to widgets by their names."""
    kinds = {
        name: get_args(hint)[0] if get_origin(hint) is not None else hint
        for name, hint in get_type_hints(cls, include_extras=False).items()
    }

    def is_node(kind: type) -> bool:
        return kind.__name__.startswith("vtkMRML")

    class Wrapper:
        def __init__(self, node: Any) -> None:
            object.__setattr__(self, "node", node)
            object.__setattr__(self, "connections", [])
            for name, kind in kinds.items():
                if not is_node(kind) and not node.GetParameter(name) and hasattr(cls, name):
                    setattr(self, name, getattr(cls, name))

        def __getattr__(self, name: str) -> Any:
            if name not in kinds:
                return getattr(self.node, name)
            kind = kinds[name]
            if is_node(kind):
                return self.node.GetNodeReference(name)
            text = self.node.GetParameter(name)
            return text == "True" if kind is bool else kind(text)

        def __setattr__(self, name: str, value: Any) -> None:
            if is_node(kinds[name]):
                self.node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
            else:
                self.node.SetParameter(name, str(value))

        def connectGui(self, ui: Any) -> int:
            for widget in vars(ui).values():
                name = unwrap(widget).property("SlicerParameterName") if isinstance(widget, Proxy) else None
                if name:
                    self._bind(unwrap(widget), name)
            self.connections.append(self.node.AddObserver("ModifiedEvent", lambda *_: [u() for u in self._updates]))
            return len(self.connections)

        @property
        def _updates(self) -> list[Any]:
            return self.__dict__.setdefault("updates", [])

        def _bind(self, widget: Any, name: str) -> None:
            """One widget, both ways."""
            read, changed, write = {
                "qMRMLNodeComboBox": (widget_method("currentNode"), "currentNodeChanged", "setCurrentNode"),
                "ctkSliderWidget": (widget_property("value"), "valueChanged", "value"),
                "ctkPathLineEdit": (widget_property("currentPath"), "currentPathChanged", "currentPath"),
                "QCheckBox": (widget_property("checked"), "toggled", "checked"),
            }[type(widget).__name__]

            def to_widget() -> None:
                value = getattr(self, name)
                if read(widget) == value or (isinstance(value, pathlib.Path) and pathlib.Path(read(widget)) == value):
                    return
                value = str(value) if isinstance(value, pathlib.Path) else value
                getattr(widget, write)(value) if write.startswith("set") else widget.setProperty(write, value)

            def to_parameter(*_: Any) -> None:
                if self.connections:
                    setattr(self, name, read(widget))

            to_widget()
            self._updates.append(to_widget)
            getattr(widget, changed).connect(to_parameter)

        def disconnectGui(self, connection: int) -> None:
            for tag in self.connections:
                self.node.RemoveObserver(tag)
            self.connections.clear()
            self._updates.clear()

    Wrapper.__name__ = cls.__name__
    return Wrapper


def widget_method(name: str) -> Any:
    return lambda widget: getattr(widget, name)()


def widget_property(name: str) -> Any:
    return lambda widget: widget.property(name)


def application(folder: pathlib.Path) -> SimpleNamespace:
    """`slicer.app`: events and settings."""
    settings = QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat)
    return SimpleNamespace(
        connect=lambda signal, slot: None,
        processEvents=lambda *_: QApplication.processEvents(),
        userSettings=lambda: wrap(settings),
        layoutManager=lambda: None,
    )


def modules() -> dict[str, ModuleType]:
    """Modules of Slicer's that slicer-core does not have, by name."""
    names = ("", "Widget", "Logic", "Test")
    contents = {
        "slicer.i18n": {"tr": str, "translate": lambda context, text: text},
        "slicer.parameterNodeWrapper": {
            "Choice": list,
            "WithinRange": WithinRange,
            "parameterNodeWrapper": parameter_node_wrapper,
        },
        "slicer.ScriptedLoadableModule": {
            f"ScriptedLoadableModule{name}": globals()[f"ScriptedLoadableModule{name}"] for name in names
        },
    }
    found = {}
    for name, content in contents.items():
        found[name] = ModuleType(name)
        vars(found[name]).update(content)
    return found
