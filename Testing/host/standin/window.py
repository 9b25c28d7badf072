"""A window like Slicer's: the panel on the left, slices on the right.

The slices come from MRML's own slice logic (reslicing, window and level, blending), painted without OpenGL.
"""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util import numpy_support

from .qmrml import observe


class SliceView(QtWidgets.QLabel):
    """One slice through the background and foreground volume."""

    def __init__(self, slicer, name, orientation):
        super().__init__()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.logic.AddSliceNode(name)
        self.logic.GetSliceNode().SetOrientation(orientation)
        self.setStyleSheet("background: black;")
        self.setMinimumSize(100, 100)
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.draw)
        observe(self.logic, "ModifiedEvent", self._request)

    def resizeEvent(self, event):
        size = event.size()
        self.logic.ResizeSliceNode(size.width(), size.height())
        self.logic.FitSliceToBackground()
        self._request()

    def fit(self):
        """Show the whole background volume."""
        self.logic.FitSliceToBackground()
        self.draw()

    def _request(self, *_):
        self._timer.start(30)

    def draw(self):
        """Reslice and show."""
        blend = self.logic.GetBlend()
        if self.logic.GetImageDataConnection() is None:
            self.clear()
            return
        blend.Update()
        image = blend.GetOutput()
        columns, rows, _ = image.GetDimensions()
        scalars = image.GetPointData().GetScalars()
        if scalars is None or not columns * rows:
            return
        array = numpy_support.vtk_to_numpy(scalars).reshape(rows, columns, -1)[::-1, :, :3].copy()
        picture = QtGui.QImage(array.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
        self.setPixmap(QtGui.QPixmap.fromImage(picture))


class Window(QtWidgets.QMainWindow):
    """1280 x 800, as a small laptop shows Slicer."""

    def __init__(self, slicer, panel):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer stand-in: INR Registration")
        self._slicer = slicer
        scroll = QtWidgets.QScrollArea()
        scroll.setWidget(panel)
        scroll.setWidgetResizable(True)
        scroll.setFixedWidth(470)
        right = QtWidgets.QWidget()
        grid = QtWidgets.QGridLayout(right)
        grid.setSpacing(2)
        names = (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))
        self.views = [SliceView(slicer, *entry) for entry in names]
        for index, view in enumerate(self.views):
            grid.addWidget(view, index // 2, index % 2)
        centre = QtWidgets.QWidget()
        layout = QtWidgets.QHBoxLayout(centre)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll)
        layout.addWidget(right, 1)
        self.setCentralWidget(centre)
        self.resize(1280, 800)

    def show_volumes(self, background, foreground=None, opacity=0.5):
        """As the user would in the slice views' controllers."""
        for view in self.views:
            node = view.logic.GetSliceCompositeNode()
            node.SetBackgroundVolumeID(background.GetID() if background else None)
            node.SetForegroundVolumeID(foreground.GetID() if foreground else None)
            node.SetForegroundOpacity(opacity)
            view.fit()

    def save(self, path):
        """A picture of the window."""
        self._slicer.app.processEvents()
        for view in self.views:
            view.draw()
        self._slicer.app.processEvents()
        self.grab().save(str(path))
