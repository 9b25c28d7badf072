"""Slice, table and plot views as the layout shows them: MRML's own displayable managers, in widgets of Qt."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util import numpy_support

from . import canvas
from .canvas import Canvas, image_of
from .qmrml import observe, qMRMLWidget

SLICE_MANAGERS = (
    "VolumeGlyphSliceDisplayableManager",
    "ModelSliceDisplayableManager",
    "CrosshairDisplayableManager",
    "OrientationMarkerDisplayableManager",
    "RulerDisplayableManager",
    "ScalarBarDisplayableManager",
    "ColorLegendDisplayableManager",
    "SegmentationsDisplayableManager2D",
    "TransformsDisplayableManager2D",
    "MarkupsDisplayableManager",
)
"""What Slicer registers for slice views, as far as the wheel has it."""


def slice_managers(application_logic):
    """The factory of displayable managers for slice views."""
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(application_logic)
    for name in SLICE_MANAGERS:
        if not factory.IsDisplayableManagerRegistered(f"vtkMRML{name}"):
            factory.RegisterDisplayableManager(f"vtkMRML{name}")
    return factory


class qMRMLSliceView(Canvas):
    """The slice itself: the blended volumes below all else that MRML displays.

    Without OpenGL only the volumes are shown: the displayable managers need a renderer.
    """

    def __init__(self, logic, factory):
        super().__init__()
        self._logic = logic
        self._group = self._style = None
        if canvas.opengl():
            # Colour legends have a layer of their own.
            self._window.SetNumberOfLayers(2)
            self._renderer.GetActiveCamera().ParallelProjectionOn()
            # The logic has applied window and level already.
            self._mapper, self._actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
            self._mapper.SetColorWindow(255)
            self._mapper.SetColorLevel(127.5)
            self._actor.SetMapper(self._mapper)
            self._actor.GetProperty().SetDisplayLocationToBackground()
            self._group = factory.InstantiateDisplayableManagers(self._renderer)
            self._style = slicer.vtkMRMLSliceViewInteractorStyle()
            self._style.SetDisplayableManagers(self._group)
            self._style.SetInteractor(self._interactor)
            self._style.SetSliceLogic(logic)
            observe(self._group, "UpdateEvent", self.scheduleRender)
            self._group.SetMRMLDisplayableNode(logic.GetSliceNode())
        observe(logic, "ModifiedEvent", self.scheduleRender)

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def interactorObserver(self):
        return self._style

    def displayableManagerByClassName(self, name):
        return self._group.GetDisplayableManagerByClassName(name)

    def forceRender(self):
        scene = self._logic.GetMRMLScene()
        if scene.IsBatchProcessing():
            self.scheduleRender()
            return
        connection = self._logic.GetImageDataConnection()
        if canvas.opengl():
            self._mapper.SetInputConnection(connection)
            if connection is None:
                self._renderer.RemoveViewProp(self._actor)
            elif not self._renderer.HasViewProp(self._actor):
                self._renderer.AddViewProp(self._actor)
        super().forceRender()

    def picture(self):
        connection = self._logic.GetImageDataConnection()
        if connection is None:
            return None
        connection.GetProducer().Update()
        image = connection.GetProducer().GetOutputDataObject(connection.GetIndex())
        columns, rows, _ = image.GetDimensions()
        scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        return image_of(scalars.reshape(rows, columns, -1)[:, :, :3])

    def resizeEvent(self, event):
        self._logic.ResizeSliceNode(self.width, self.height)
        super().resizeEvent(event)

    def finalize(self):
        if self._group is not None:
            self._group.SetMRMLDisplayableNode(None)
            self._style.SetInteractor(None)
        super().finalize()


class qMRMLSliceControllerWidget(QtWidgets.QWidget):
    """The bar above a slice: its name, a slider for the offset, and what scripts set through it."""

    STEPS = 1000

    def __init__(self, logic):
        super().__init__()
        self._logic = logic
        node = logic.GetSliceNode()
        colour = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
        self._label = QtWidgets.QLabel(node.GetLayoutLabel())
        self._label.setStyleSheet(f"background: {colour.toRgb().name()}; padding: 2px 8px;")
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._slider.setMaximum(self.STEPS)
        self._offset = QtWidgets.QLabel()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 4, 0)
        for widget in (self._label, self._slider, self._offset):
            layout.addWidget(widget)
        self._slider.valueChanged.connect(self._on_slider)
        observe(logic, "ModifiedEvent", self._show)
        observe(node, "ModifiedEvent", self._show)

    def setSliceOffsetValue(self, offset):
        self._logic.StartSliceOffsetInteraction()
        self._logic.SetSliceOffset(offset)
        self._logic.EndSliceOffsetInteraction()

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()

    def setSliceLink(self, linked):
        """Of all views, as in Slicer."""
        for node in self._composites():
            node.SetLinkedControl(linked)

    def setHotLinked(self, hot):
        for node in self._composites():
            node.SetHotLinkedControl(hot)

    def _composites(self):
        return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")

    def _range(self):
        bounds, step = [0.0, 1.0], vtk.reference(1.0)
        self._logic.GetSliceOffsetRangeResolution(bounds, step)
        return bounds

    def _show(self):
        low, high = self._range()
        offset = self._logic.GetSliceOffset()
        self._slider.blockSignals(True)
        self._slider.setValue(round(self.STEPS * (offset - low) / max(1e-6, high - low)))
        self._slider.blockSignals(False)
        self._offset.setText(f"{offset:.1f} mm")

    def _on_slider(self, value):
        low, high = self._range()
        self.setSliceOffsetValue(low + value / self.STEPS * (high - low))


class qMRMLSliceWidget(qMRMLWidget):
    """A slice view with its controller."""

    def __init__(self, node, application_logic):
        super().__init__()
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetSliceNode(node)
        # Displayable managers look there for the volumes that their view shows.
        application_logic.GetSliceLogics().AddItem(self._logic)
        self._controller = qMRMLSliceControllerWidget(self._logic)
        self._view = qMRMLSliceView(self._logic, slice_managers(application_logic))
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._controller)
        layout.addWidget(self._view, 1)

    def sliceController(self):
        return self._controller

    def sliceView(self):
        return self._view

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def interactorStyle(self):
        return self._view.interactorObserver()

    def fitSliceToBackground(self):
        self._controller.fitSliceToBackground()

    def finalize(self):
        self._view.finalize()
        self._logic.SetMRMLScene(None)
