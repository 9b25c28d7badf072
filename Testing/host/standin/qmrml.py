"""The qMRML widgets that the panel uses, over the real MRML scene."""

from __future__ import annotations

import sys
import weakref

import slicer
from PySide6 import QtCore, QtWidgets

from .qtshell import stored

_observations = []
"""What the host observes in the scene: (subject, tag)."""


def observe(subject, event, method):
    """Observe without keeping the method's object alive, until `forget_all`."""
    reference = weakref.WeakMethod(method)

    def call(*_):
        bound = reference()
        if bound is not None:
            bound()

    _observations.append((subject, subject.AddObserver(event, call)))


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
    """Chooses a node of some classes; with `noneEnabled`, also none, which is then the choice to begin with."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)

    nodeTypes = stored("QStringList", [])
    showChildNodeTypes = stored(bool, True)
    noneEnabled = stored(bool, False)
    addEnabled = stored(bool, True)
    removeEnabled = stored(bool, True)
    noneDisplay = stored(str, "None")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._current = ""
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self._combo.currentIndexChanged.connect(self._on_index)

    def setMRMLScene(self, scene):
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndBatchProcessEvent):
            observe(scene, event, self._refill)
        self._refill()

    def mrmlScene(self):
        return self._scene

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    currentNodeID = QtCore.Property(str, lambda self: self._current)

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, identifier):
        self._refill(identifier)

    def nodeCount(self):
        return len(self._nodes())

    def _nodes(self):
        found = []
        for index in range(self._scene.GetNumberOfNodes() if self._scene else 0):
            node = self._scene.GetNthNode(index)
            exact = node.GetClassName() in self.nodeTypes
            child = self.showChildNodeTypes and any(node.IsA(name) for name in self.nodeTypes)
            if (exact or child) and not node.GetHideFromEditors():
                found.append(node)
        return found

    def _refill(self, identifier=None):
        wanted = self._current if identifier is None else identifier
        nodes = self._nodes()
        entries = [("", self.noneDisplay)] * self.noneEnabled + [(node.GetID(), node.GetName()) for node in nodes]
        ids = [entry for entry, _ in entries]
        self._combo.blockSignals(True)
        self._combo.clear()
        for entry, text in entries:
            self._combo.addItem(text, entry)
        position = ids.index(wanted) if wanted in ids else (0 if ids else -1)
        self._combo.setCurrentIndex(position)
        self._combo.blockSignals(False)
        self._select(ids[position] if ids else "")

    def _on_index(self, index):
        self._select(self._combo.itemData(index) or "")

    def _select(self, identifier):
        if identifier != self._current:
            self._current = identifier
            self.currentNodeIDChanged.emit(identifier)
            self.currentNodeChanged.emit(self.currentNode())
