"""The qMRML widgets that the panel uses, over the real MRML scene."""

from __future__ import annotations

import sys
import weakref

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .qtshell import stored

NODE_EVENTS = {
    slicer.vtkMRMLScene.NodeAddedEvent,
    slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent,
}
"""Events of the scene whose call data is a node."""

_observations = []
"""What the host observes in the scene: (subject, tag)."""


def observe(subject, event, method, priority=0.0):
    """Observe without keeping the method's object alive, until `forget_all`; node events bring their node."""
    reference = weakref.WeakMethod(method)

    def call(caller, name, *data):
        bound = reference()
        if bound is not None:
            bound(*data)

    if event in NODE_EVENTS:
        call.CallDataType = vtk.VTK_OBJECT
    _observations.append((subject, subject.AddObserver(event, call, priority)))


def forget_all():
    """Before a scene is destroyed: VTK would call Python while it is collected."""
    while _observations:
        subject, tag = _observations.pop()
        subject.RemoveObserver(tag)


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return getattr(self, "_scene", None)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The widget that a scripted module's panel lives in; makes the Python side anew on reload."""

    def __init__(self, name):
        super().__init__()
        self._name = name
        self.setLayout(QtWidgets.QVBoxLayout())

    def reload(self):
        widget = getattr(sys.modules[self._name], f"{self._name}Widget")(self)
        setattr(slicer.modules, f"{self._name}Widget", widget)
        widget.setup()


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of some classes; with `noneEnabled`, also none, which is then the choice to begin with.

    As in Slicer a row goes when its node is about to be removed, and QComboBox then goes on to the row that
    takes its place, or to the last one: the choice jumps to another node, with a signal, though `noneEnabled`.
    """

    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._tell)

    def _rebuild(self):
        """All rows anew; closing a scene does so too."""
        if self._scene is None:
            return
        current = self.currentNodeID
        for row in reversed(range(self._combo.count)):
            self._combo.removeItem(row)
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        for index in range(self._scene.GetNumberOfNodes()):
            self._on_added(self._scene.GetNthNode(index))
        if self._row(current) >= 0:
            self.setCurrentNodeID(current)

    nodeTypes = stored("QStringList", [], _rebuild)
    showChildNodeTypes = stored(bool, True, _rebuild)
    noneEnabled = stored(bool, False, _rebuild)
    noneDisplay = stored(str, "None", _rebuild)
    addEnabled = stored(bool, True)
    removeEnabled = stored(bool, True)

    def setMRMLScene(self, scene):
        if self.addEnabled or self.removeEnabled:
            raise NotImplementedError(f"{self.name}: the host's selector offers no actions; disable add and remove")
        if scene is self._scene:
            return
        self._scene = scene
        # The priorities of Slicer's.
        observe(scene, scene.NodeAddedEvent, self._on_added, 10.0)
        observe(scene, scene.NodeAboutToBeRemovedEvent, self._on_about_to_be_removed, -10.0)
        observe(scene, scene.EndCloseEvent, self._rebuild)
        self._rebuild()

    def mrmlScene(self):
        return self._scene

    def currentNode(self):
        identifier = self.currentNodeID
        return self._scene.GetNodeByID(identifier) if self._scene and identifier else None

    currentNodeID = QtCore.Property(str, lambda self: self._combo.currentData or "")

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, identifier):
        row = self._row(identifier)
        self._combo.setCurrentIndex(row if row >= 0 else self._none_rows() - 1)

    def nodeCount(self):
        return self._combo.count - self._none_rows()

    def _none_rows(self):
        return 1 if self.noneEnabled else 0

    def _row(self, identifier):
        return self._combo.findData(identifier) if identifier else -1

    def _offers(self, node):
        exact = node.GetClassName() in self.nodeTypes
        child = self.showChildNodeTypes and any(node.IsA(name) for name in self.nodeTypes)
        return (exact or child) and not node.GetHideFromEditors()

    def _on_added(self, node):
        if self._offers(node) and self._row(node.GetID()) < 0:
            self._combo.addItem(node.GetName(), node.GetID())
            observe(node, "ModifiedEvent", self._on_node_modified)

    def _on_about_to_be_removed(self, node):
        row = self._row(node.GetID())
        if row >= 0 and not self._scene.IsClosing():
            self._combo.removeItem(row)

    def _on_node_modified(self):
        for row in range(self._none_rows(), self._combo.count):
            node = self._scene.GetNodeByID(self._combo.itemData(row))
            if node is not None and node.GetName() != self._combo.itemText(row):
                self._combo.setItemText(row, node.GetName())
                if node is self.currentNode():
                    self._tell()

    def _tell(self, *_):
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(self.currentNodeID)


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Chooses several nodes, by check boxes."""

    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._combo.model().itemChanged.connect(lambda item: self.checkedNodesChanged.emit())

    def checkedNodes(self):
        return self._with(QtCore.Qt.CheckState.Checked)

    def uncheckedNodes(self):
        return self._with(QtCore.Qt.CheckState.Unchecked)

    def noneChecked(self):
        return not self.checkedNodes()

    def allChecked(self):
        return not self.uncheckedNodes()

    def checkState(self, node):
        row = self._row(node.GetID())
        return self._combo.model().item(row).checkState() if row >= 0 else QtCore.Qt.CheckState.Unchecked

    def setCheckState(self, node, state):
        self._combo.model().item(self._row(node.GetID())).setCheckState(state)

    def check(self, node):
        self.setCheckState(node, QtCore.Qt.CheckState.Checked)

    def uncheck(self, node):
        self.setCheckState(node, QtCore.Qt.CheckState.Unchecked)

    def _with(self, state):
        nodes = [self._scene.GetNodeByID(self._combo.itemData(row)) for row in range(self._combo.count)]
        return tuple(node for node in nodes if node is not None and self.checkState(node) == state)

    def _on_added(self, node):
        super()._on_added(node)
        row = self._row(node.GetID())
        if row >= 0:
            item = self._combo.model().item(row)
            self._combo.model().blockSignals(True)
            item.setCheckable(True)
            item.setCheckState(item.checkState())
            self._combo.model().blockSignals(False)


WIDGETS = (qMRMLWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox)
"""What Python and .ui files know by name."""
