"""`slicer.app.layoutManager()`: views arranged by MRML's own layout logic and descriptions."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .plots import qMRMLPlotWidget
from .qmrml import observe
from .tables import qMRMLTableWidget
from .views import qMRMLSliceWidget

ORIENTATIONS = {"horizontal": QtCore.Qt.Orientation.Horizontal, "vertical": QtCore.Qt.Orientation.Vertical}


class qMRMLLayoutManager(QtCore.QObject):
    """Makes a view for each view node that the layout names, and keeps it when the layout changes.

    There are no 3D views here: a blank stands in their place, and they are not counted.
    """

    layoutChanged = QtCore.Signal(int)

    threeDViewCount = QtCore.Property(int, lambda self: 0)
    tableViewCount = QtCore.Property(int, lambda self: len(self._of(qMRMLTableWidget)))
    plotViewCount = QtCore.Property(int, lambda self: len(self._of(qMRMLPlotWidget)))

    def __init__(self, scene, application_logic):
        super().__init__()
        self._scene, self._application_logic = scene, application_logic
        self._widgets = {}
        self._shown = None
        self._viewport = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(self._viewport)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slice_logics = vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slice_logics)
        application_logic.SetViewLogics(vtk.vtkCollection())
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(scene)
        observe(self._logic.GetLayoutNode(), "ModifiedEvent", self._arrange)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    layout = QtCore.Property(
        int,
        lambda self: self._logic.GetLayoutNode().GetViewArrangement(),
        lambda self, value: self.setLayout(value),
        notify=layoutChanged,
    )

    def setLayout(self, layout):
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    def layoutLogic(self):
        return self._logic

    def viewport(self):
        return self._viewport

    def sliceViewNames(self):
        return tuple(widget.mrmlSliceNode().GetLayoutName() for widget in self._of(qMRMLSliceWidget))

    def sliceWidget(self, name):
        found = [widget for widget in self._of(qMRMLSliceWidget) if widget.mrmlSliceNode().GetLayoutName() == name]
        return found[0] if found else None

    def tableWidget(self, index):
        return self._of(qMRMLTableWidget)[index]

    def plotWidget(self, index):
        return self._of(qMRMLPlotWidget)[index]

    def mrmlSliceLogics(self):
        return self._slice_logics

    def resetSliceViews(self):
        for widget in self._of(qMRMLSliceWidget):
            widget.sliceLogic().FitSliceToAll()

    def finalize(self):
        """Before the scene goes."""
        for widget in self._widgets.values():
            widget.finalize()
        self._viewport.deleteLater()
        self._application_logic.SetSliceLogics(None)
        self._application_logic.SetViewLogics(None)
        self._logic.SetMRMLScene(None)

    def _of(self, kind):
        return [widget for widget in self._widgets.values() if isinstance(widget, kind)]

    def _arrange(self):
        description = self._logic.GetLayoutNode().GetCurrentLayoutDescription()
        if not description or description == self._shown:
            return
        self._shown = description
        outer = self._viewport.layout()
        old = outer.takeAt(0)
        for widget in self._widgets.values():
            widget.setVisible(False)
            widget.setParent(self._viewport)
        widget = self._made(ElementTree.fromstring(description))
        outer.addWidget(widget)
        widget.setVisible(True)
        if old is not None:
            old.widget().deleteLater()
        self.layoutChanged.emit(self.layout)

    def _made(self, element):
        """The widget for a `layout` or `view` element of a layout's description."""
        if element.tag == "view":
            return self._view(element)
        splitter = QtWidgets.QSplitter(ORIENTATIONS[element.get("type", "horizontal")])
        splitter.setHandleWidth(3)
        items = element.findall("item")
        for item in items:
            widget = self._made(item[0])
            splitter.addWidget(widget)
            widget.setVisible(True)
        splitter.setSizes([10000] * len(items))
        return splitter

    def _view(self, element):
        node = self._scene.GetSingletonNode(element.get("singletontag"), element.get("class"))
        if node.GetID() not in self._widgets:
            widget = self._new_view(node)
            if widget is None:
                return Blank()
            self._widgets[node.GetID()] = widget
        return self._widgets[node.GetID()]

    def _new_view(self, node):
        if node.IsA("vtkMRMLSliceNode"):
            return qMRMLSliceWidget(node, self._application_logic)
        kinds = {"vtkMRMLTableViewNode": qMRMLTableWidget, "vtkMRMLPlotViewNode": qMRMLPlotWidget}
        kind = kinds.get(node.GetClassName())
        return kind(node) if kind else None


class Blank(QtWidgets.QLabel):
    """Where Slicer has a 3D view."""

    def __init__(self):
        super().__init__("no 3D view in the stand-in")
        self.setAlignment(QtCore.Qt.AlignmentFlag.AlignCenter)
        self.setStyleSheet("background: #5a5a78; color: #8c8caa;")
