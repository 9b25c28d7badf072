"""The ctk widgets that panels use, with the slots, signals and properties that Python sees of them in Slicer.

Setters that are no slots are missing there and here: such properties are assigned, or set by `setProperty`.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets

from .qtshell import stored


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A section with a title bar that folds its contents away."""

    HEIGHT = 24
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setContentsMargins(0, self.HEIGHT, 0, 0)

    def _on_change(self):
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not self.collapsed)
        self.setMaximumHeight(self.HEIGHT if self.collapsed else 16777215)
        self.update()
        self.contentsCollapsed.emit(self.collapsed)

    text = stored(str, "", lambda self: self.update())
    collapsed = stored(bool, False, _on_change)

    def childEvent(self, event):
        # A child that comes while the section is folded is folded away too.
        child = event.child()
        if event.polished() and isinstance(child, QtWidgets.QWidget) and self.collapsed:
            child.setVisible(False)
        super().childEvent(event)

    def mousePressEvent(self, event):
        if event.position().y() <= self.HEIGHT:
            self.setProperty("collapsed", not self.collapsed)

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        bar = QtCore.QRect(0, 0, QtWidgets.QWidget.width.fget(self), self.HEIGHT)
        painter.fillRect(bar, self.palette.color(QtGui.QPalette.ColorRole.Midlight))
        sign = "\u25b8" if self.collapsed else "\u25be"
        painter.drawText(bar.adjusted(6, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, f"{sign}  {self.text}")
        painter.end()


def _of(child, name, kind):
    """A property that is one of a child widget's."""
    return QtCore.Property(
        kind,
        lambda self: getattr(self, child).property(name),
        lambda self, value: getattr(self, child).setProperty(name, value),
    )


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box with one value; the slider moves in single steps."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider, self._box = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal), QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._slider.setTracking(True)
        self._slider.valueChanged.connect(self._on_slider)
        self._slider.sliderReleased.connect(lambda: self._box.setValue(self._at(self._slider.value)))
        self._box.valueChanged.connect(self._on_box)
        self._resize()

    def _resize(self):
        self._slider.blockSignals(True)
        self._slider.setMaximum(max(1, round((self.maximum - self.minimum) / self.singleStep)))
        self._slider.setValue(round((self.value - self.minimum) / self.singleStep))
        self._slider.blockSignals(False)

    def _bound(name):
        def setter(self, value):
            self._box.setProperty(name, value)
            self._resize()

        return QtCore.Property(float, lambda self: self._box.property(name), setter)

    minimum, maximum, singleStep = _bound("minimum"), _bound("maximum"), _bound("singleStep")
    value = _of("_box", "value", float)
    decimals = _of("_box", "decimals", int)
    prefix, suffix = _of("_box", "prefix", str), _of("_box", "suffix", str)
    tickInterval = _of("_slider", "tickInterval", float)
    pageStep = stored(float, 10.0)
    tracking = stored(bool, True)
    spinBoxVisible = _of("_box", "visible", bool)

    def setValue(self, value):
        self._box.setValue(value)

    def reset(self):
        self.setValue(0.0)

    def setSpinBoxVisible(self, visible):
        self._box.setVisible(visible)

    def _at(self, position):
        return self.minimum + position * self.singleStep

    def _on_slider(self, position):
        if self.tracking or not self._slider.sliderDown:
            self._box.setValue(self._at(position))
        else:
            self.valueIsChanging.emit(self._at(position))

    def _on_box(self, value):
        self._resize()
        self.valueChanged.emit(value)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path with a button that asks for it."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)
    Dirs, Files, Drives, Readable, Writable = 0x001, 0x002, 0x004, 0x010, 0x020

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit, self._button = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        self._button.setText("\u2026")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit, 1)
        layout.addWidget(self._button)
        self._edit.textChanged.connect(self.currentPathChanged)
        self._button.clicked.connect(self.browse)

    label = stored(str, "")
    filters = stored(int, Dirs | Files)
    nameFilters = stored("QStringList", [])
    settingKey = stored(str, "")
    currentPath = _of("_edit", "text", str)
    showBrowseButton = _of("_button", "visible", bool)
    showHistoryButton = stored(bool, True)

    def setCurrentPath(self, path):
        self._edit.setText(path)

    def addCurrentPathToHistory(self):
        """The stand-in keeps no history."""

    def browse(self):
        dialog = QtWidgets.QFileDialog
        if not self.filters & self.Files:
            path = dialog.getExistingDirectory(self, self.label, self.currentPath)
        else:
            ask = dialog.getSaveFileName if self.filters & self.Writable else dialog.getOpenFileName
            path, _ = ask(self, self.label, self.currentPath, ";;".join(self.nameFilters))
        if path:
            self.setCurrentPath(path)


WIDGETS = {kind.__name__: kind for kind in (ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget)}
"""By the names that Python and .ui files use."""
