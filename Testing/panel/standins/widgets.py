"""Stand-ins for the qMRML and ctk widgets of the panel: the properties, signals and slots that it uses."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import Property, QEvent, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

HEADER = 26


class qMRMLWidget(QWidget):
    """Hands the scene on to its children; in Slicer the .ui file's connections do."""

    def setMRMLScene(self, scene: Any) -> None:
        for child in self.findChildren(QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)


class qMRMLNodeComboBox(QComboBox):
    """The nodes of one class in the scene."""

    currentNodeChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._ids: list[str | None] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.activated.connect(lambda _index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent):
            scene.AddObserver(event, lambda *_: self._list())
        self._list()

    def currentNode(self) -> Any:
        index = self.currentIndex()
        return self._scene.GetNodeByID(self._ids[index]) if 0 <= index < len(self._ids) and self._ids[index] else None

    def setCurrentNode(self, node: Any) -> None:
        self._list()
        wanted = node.GetID() if node is not None else None
        self.setCurrentIndex(self._ids.index(wanted) if wanted in self._ids else 0)

    def _list(self) -> None:
        current = self.currentNode()
        (kind,) = self.property("nodeTypes")
        nodes = [node for node in slicer.util.getNodesByClass(kind, self._scene) if not node.GetHideFromEditors()]
        self._ids = [None] + [node.GetID() for node in nodes]
        self.clear()
        self.addItems([self.property("noneDisplay") or "None"] + [node.GetName() for node in nodes])
        if current is not None and current.GetID() in self._ids:
            self.setCurrentIndex(self._ids.index(current.GetID()))


class qMRMLSegmentsTableView(QTableWidget):
    """Name and colour of each segment."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, 3, parent)
        self.setHorizontalHeaderLabels(["", "", "Name"])
        self.verticalHeader().hide()
        self.horizontalHeader().setStretchLastSection(True)
        self.setTabKeyNavigation(False)

    def setMRMLScene(self, scene: Any) -> None: ...

    def setSegmentationNode(self, node: Any) -> None:
        segmentation = node.GetSegmentation() if node is not None else None
        ids = segmentation.GetSegmentIDs() if segmentation else ()
        self.setRowCount(len(ids))
        for row, segment_id in enumerate(ids):
            segment = segmentation.GetSegment(segment_id)
            eye, colour, name = QTableWidgetItem("x"), QTableWidgetItem(), QTableWidgetItem(segment.GetName())
            colour.setBackground(QColor.fromRgbF(*segment.GetColor()))
            for column, item in enumerate((eye, colour, name)):
                self.setItem(row, column, item)
        for column in (0, 1):
            self.setColumnWidth(column, 34)


class qMRMLSegmentEditorWidget(QFrame):
    """Remembers its nodes, and takes the room of the real editor's tools."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.nodes: dict[str, Any] = {}
        QVBoxLayout(self).addWidget(QLabel("Slicer's Segment Editor (stand-in)"))

    def setMRMLScene(self, scene: Any) -> None: ...

    def setMaximumNumberOfUndoStates(self, count: int) -> None: ...

    def setSegmentationNodeSelectorVisible(self, visible: bool) -> None: ...

    def setSourceVolumeNodeSelectorVisible(self, visible: bool) -> None: ...

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self.nodes["editor"] = node

    def setSegmentationNode(self, node: Any) -> None:
        self.nodes["segmentation"] = node

    def setSourceVolumeNode(self, node: Any) -> None:
        self.nodes["volume"] = node


class ctkCollapsibleButton(QWidget):
    """A title with everything below it, or alone."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setContentsMargins(0, HEADER, 0, 0)

    def getText(self) -> str:
        return self._text

    def setText(self, text: str) -> None:
        self._text = text
        self.update()

    text = Property(str, getText, setText)

    def getCollapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._apply()
        self.contentsCollapsed.emit(collapsed)

    collapsed = Property(bool, getCollapsed, setCollapsed, notify=contentsCollapsed)

    def _apply(self) -> None:
        """Leave no room for what is below the title; what is hidden for reasons of its own stays hidden."""
        self.setMaximumHeight(HEADER if self._collapsed else 16777215)

    def minimumSizeHint(self) -> QSize:
        return QSize(80, HEADER) if self._collapsed else super().minimumSizeHint()

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() < HEADER:
            self.setCollapsed(not self._collapsed)

    def keyPressEvent(self, event: Any) -> None:
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return):
            self.setCollapsed(not self._collapsed)

    def paintEvent(self, event: Any) -> None:
        painter, option = QPainter(self), QStyleOptionButton()
        option.initFrom(self)
        option.rect = option.rect.adjusted(0, 0, 0, HEADER - self.height() - 2)
        self.style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelButtonCommand, option, painter, self)
        arrow = (
            "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}" if self._collapsed else "\N{BLACK DOWN-POINTING SMALL TRIANGLE}"
        )
        painter.drawText(option.rect.adjusted(8, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, f"{arrow} {self._text}")


def _double(name: str) -> Any:
    """A property of the spin box as one of the whole widget."""
    setter = f"set{name[0].upper()}{name[1:]}"
    return Property(
        float, lambda self: getattr(self._box, name)(), lambda self, value: getattr(self._box, setter)(value)
    )


class ctkSliderWidget(QWidget):
    """A slider and a spin box that agree."""

    valueChanged = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._box = QSlider(Qt.Orientation.Horizontal), QDoubleSpinBox()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.setRange(0, 100)
        self._slider.valueChanged.connect(lambda value: self._box.setValue(value / 100))
        self._box.valueChanged.connect(self._on_value)

    def event(self, event: Any) -> bool:
        if event.type() == QEvent.Type.ToolTipChange:
            for part in (self._slider, self._box):
                part.setToolTip(self.toolTip())
        return super().event(event)

    def _on_value(self, value: float) -> None:
        self._slider.setValue(round(100 * value))
        self.valueChanged.emit(value)

    minimum, maximum, singleStep, value = map(_double, ("minimum", "maximum", "singleStep", "value"))


class ctkPathLineEdit(QWidget):
    """A line for a path and a button that would open a file dialog."""

    currentPathChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._line, self._button = QLineEdit(), QToolButton()
        self._button.setText("...")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(self._button)
        self._line.textChanged.connect(self.currentPathChanged)

    def event(self, event: Any) -> bool:
        if event.type() == QEvent.Type.ToolTipChange:
            for part in (self._line, self._button):
                part.setToolTip(self.toolTip())
        return super().event(event)

    currentPath = Property(str, lambda self: self._line.text(), lambda self, path: self._line.setText(path))
