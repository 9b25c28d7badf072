"""A VTK render window without a window of its own, painted by Qt."""

from __future__ import annotations

import functools
import os
from ctypes.util import find_library

import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util import numpy_support

BUTTONS = {
    QtCore.Qt.MouseButton.LeftButton: "LeftButton",
    QtCore.Qt.MouseButton.MiddleButton: "MiddleButton",
    QtCore.Qt.MouseButton.RightButton: "RightButton",
}
FRAME = 15
"""Milliseconds from the request of a frame to the frame: Slicer renders at most 60 times a second."""


@functools.cache
def opengl() -> str:
    """The kind of render window that works here without a display, EGL or else OSMesa; "" where none does."""
    # VTK tries EGL, and takes OSMesa where that fails, there or not.
    os.environ["VTK_DEFAULT_OPENGL_WINDOW"] = "vtkEGLRenderWindow"
    name = vtk.vtkRenderWindow().GetClassName()
    works = name == "vtkEGLRenderWindow" or (name == "vtkOSOpenGLRenderWindow" and find_library("OSMesa"))
    return name if works else ""


class Canvas(QtWidgets.QWidget):
    """Paints a render window and forwards mouse, wheel and keys to its interactor.

    Without OpenGL there is neither; then `picture` is all that is painted. Device pixels are Qt's pixels.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setMinimumSize(80, 80)
        self.setMouseTracking(True)
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.StrongFocus)
        self._picture = None
        self._window = self._renderer = self._interactor = None
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.forceRender)
        if opengl():
            self._window, self._renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
            self._window.SetOffScreenRendering(True)
            self._window.SetMultiSamples(0)
            self._window.AddRenderer(self._renderer)
            self._interactor = vtk.vtkGenericRenderWindowInteractor()
            self._interactor.SetRenderWindow(self._window)
            self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
            self._interactor.Initialize()

    def renderWindow(self):
        return self._window

    def interactor(self):
        return self._interactor

    def scheduleRender(self):
        if not self._timer.active:
            self._timer.start(FRAME)

    def forceRender(self):
        self._timer.stop()
        if self._window is None:
            self._picture = self.picture()
        else:
            columns, rows = self.width, self.height
            self._window.SetSize(columns, rows)
            self._interactor.SetSize(columns, rows)
            self._window.Render()
            pixels = vtk.vtkUnsignedCharArray()
            self._window.GetRGBACharPixelData(0, 0, columns - 1, rows - 1, 0, pixels)
            self._picture = image_of(numpy_support.vtk_to_numpy(pixels).reshape(rows, columns, 4))
        self.update()

    def picture(self):
        """What to paint without OpenGL: an image or nothing."""

    def finalize(self):
        """Let go of OpenGL."""
        self._timer.stop()
        self._timer.timeout.disconnect(self.forceRender)
        if self._window is not None:
            self._window.Finalize()

    def resizeEvent(self, event):
        self.scheduleRender()

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.fillRect(self.rect, QtCore.Qt.GlobalColor.black)
        if self._picture is not None:
            painter.drawImage(0, 0, self._picture)
        painter.end()

    # ------------------------------------------------------------------------------------------- input

    def _forward(self, event, name, position=None, key="\0", symbol=None):
        if self._interactor is None:
            return
        modifiers = event.modifiers()
        control = bool(modifiers & QtCore.Qt.KeyboardModifier.ControlModifier)
        shift = bool(modifiers & QtCore.Qt.KeyboardModifier.ShiftModifier)
        x, y = self._interactor.GetEventPosition()
        if position is not None:
            x, y = int(position.x()), self.height - 1 - int(position.y())
        self._interactor.SetEventInformation(x, y, control, shift, key, 0, symbol)
        getattr(self._interactor, f"{name}Event")()

    def mousePressEvent(self, event):
        self._forward(event, f"{BUTTONS[event.button()]}Press", event.position())

    def mouseReleaseEvent(self, event):
        self._forward(event, f"{BUTTONS[event.button()]}Release", event.position())

    def mouseMoveEvent(self, event):
        self._forward(event, "MouseMove", event.position())

    def wheelEvent(self, event):
        direction = "Forward" if event.angleDelta().y() > 0 else "Backward"
        self._forward(event, f"MouseWheel{direction}", event.position())

    def keyPressEvent(self, event):
        symbol = QtGui.QKeySequence(event.key()).toString()
        self._forward(event, "KeyPress", None, event.text()[:1] or "\0", symbol)
        self._forward(event, "Char", None, event.text()[:1] or "\0", symbol)

    def keyReleaseEvent(self, event):
        self._forward(event, "KeyRelease", None, "\0", QtGui.QKeySequence(event.key()).toString())


def image_of(array):
    """A Qt image from rows of RGB or RGBA bytes, the lowest row first."""
    rows, columns, channels = array.shape
    array = array[::-1].copy()
    form = QtGui.QImage.Format.Format_RGB888 if channels == 3 else QtGui.QImage.Format.Format_RGBX8888
    return QtGui.QImage(array.data, columns, rows, channels * columns, form).copy()
