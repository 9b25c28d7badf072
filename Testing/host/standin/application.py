"""`slicer.app`, `slicer.modules` and the scene: puts the stand-ins where a module imports them from."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

from PySide6 import QtCore, QtWidgets

from . import ctkwidgets, qmrml, qtshell
from .layout import qMRMLLayoutManager
from .plots import qMRMLPlotView
from .tables import qMRMLTableView


class ModuleManager:
    """Tells widgets that their module is about to be unloaded."""

    def __init__(self):
        self._slots = []

    def connect(self, signal, slot):
        self._slots.append(slot)

    def disconnect(self, signal, slot):
        self._slots.remove(slot)

    def unload(self, name):
        for slot in list(self._slots):
            slot(name)


class Application:
    """The part of qSlicerApplication that panels use; anything else raises `AttributeError`."""

    applicationName = "Slicer stand-in"

    def __init__(self):
        self._application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
        self._application.setOrganizationName("INRRegistration tests")
        self._modules = ModuleManager()
        self.aboutToQuit = self._application.aboutToQuit
        self.testing = True
        self._logic = self._layout_manager = self._cache = self._input = None

    def processEvents(self):
        QtCore.QCoreApplication.processEvents()
        # Without the event loop's own turn, objects given to deleteLater would stay.
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)

    def testingEnabled(self):
        return self.testing

    def moduleManager(self):
        return self._modules

    def layoutManager(self):
        return self._layout_manager

    def applicationLogic(self):
        return self._logic

    def pauseRender(self):
        self._logic.PauseRender()

    def resumeRender(self):
        self._logic.ResumeRender()

    def topLevelWidgets(self):
        return self._application.topLevelWidgets()

    def setOverrideCursor(self, cursor):
        self._application.setOverrideCursor(cursor)

    def restoreOverrideCursor(self):
        self._application.restoreOverrideCursor()


def start_qt():
    """Make `qt`, `ctk`, `slicer.app` and their like importable; the module `slicer`."""
    import slicer

    if "qt" in sys.modules:
        return slicer
    qt, ctk = qtshell.make_qt(), types.ModuleType("ctk")
    vars(ctk).update(ctkwidgets.WIDGETS)
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    widgets = (*qmrml.WIDGETS, qMRMLTableView, qMRMLPlotView)
    for widget in widgets:
        setattr(slicer, widget.__name__, widget)
    qtshell.Loader.custom = ctkwidgets.WIDGETS | {widget.__name__: widget for widget in widgets}
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    sys.modules["slicer.i18n"] = slicer.i18n = i18n
    slicer.modules = types.SimpleNamespace()
    slicer.app = Application()
    sys.modules["slicer.ScriptedLoadableModule"] = importlib.import_module("standin.scripted")
    return slicer


def start(temporary: Path):
    """Make this process look like Slicer, with an empty scene, and settings and files below `temporary`."""
    slicer = start_qt()
    Path(temporary).mkdir(parents=True, exist_ok=True)
    slicer.app.temporaryPath = str(temporary)
    settings = QtCore.QSettings
    settings.setDefaultFormat(settings.Format.IniFormat)
    for form in (settings.Format.IniFormat, settings.Format.NativeFormat):
        settings.setPath(form, settings.Scope.UserScope, str(temporary))
    make_scene(slicer)
    return slicer


_logics = []
"""Module logics live as long as their scene."""

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}
"""Slicer's own modules that are there, as `slicer.modules.<name in lower case>.logic()`."""


def make_scene(slicer):
    """An empty scene that knows the nodes of the modules, with Slicer's default nodes and views."""
    app = slicer.app
    if app._layout_manager is not None:
        app._layout_manager.finalize()
    qmrml.forget_all()
    for logic in _logics:
        logic.SetMRMLScene(None)
    _logics.clear()
    scene = slicer.vtkMRMLScene()
    app._logic = slicer.vtkSlicerApplicationLogic()
    app._logic.SetHomeDirectory(app.temporaryPath)
    app._logic.SetShareDirectory("share")
    (Path(app.temporaryPath) / "share" / "ColorFiles").mkdir(parents=True, exist_ok=True)
    app._logic.SetMRMLScene(scene)
    for name, kind in LOGICS.items():
        logic = getattr(slicer, kind)()
        logic.SetMRMLApplicationLogic(app._logic)
        logic.SetMRMLScene(scene)
        _logics.append(logic)
        app._logic.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), types.SimpleNamespace(logic=lambda logic=logic: logic))
    _logics.append(app._logic)
    # Its toolbar, which plays, is of the Qt shell: here one only sees what it was given.
    slicer.modules.sequences.showSequenceBrowser = partial(setattr, slicer.modules.sequences, "browser")
    app._logic.SetColorLogic(_logics[0])
    crosshair = scene.CreateNodeByClass("vtkMRMLCrosshairNode")
    crosshair.UnRegister(None)
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    # What reading a bundle asks for.
    app._cache, app._input = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    (Path(app.temporaryPath) / "RemoteIO").mkdir(exist_ok=True)
    (Path(app.temporaryPath) / "RemoteIO" / ".slicer-cache").touch()
    app._cache.SetRemoteCacheDirectory(str(Path(app.temporaryPath) / "RemoteIO"))
    app._input.SetCacheManager(app._cache)
    scene.SetCacheManager(app._cache)
    scene.SetDataIOManager(app._input)
    slicer.mrmlScene = scene
    app._layout_manager = qMRMLLayoutManager(scene, app._logic)
    return scene


def load_module(path: Path):
    """Load a scripted module and open its panel; returns its widget object."""
    import slicer

    path = Path(path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    spec.loader.exec_module(source)
    parent = types.SimpleNamespace(path=str(path))
    getattr(source, name)(parent)
    panel = qmrml.qSlicerScriptedLoadableModuleWidget(name)
    panel.setMRMLScene(slicer.mrmlScene)
    module = types.SimpleNamespace(path=str(path), parent=parent, widgetRepresentation=lambda: panel)
    setattr(slicer.modules, name.lower(), module)
    panel.reload()
    return getattr(slicer.modules, f"{name}Widget")


def unload_module(name: str):
    """As when Slicer exits."""
    import slicer

    slicer.app.moduleManager().unload(name)
    getattr(slicer.modules, name.lower()).widgetRepresentation().deleteLater()
    delattr(slicer.modules, f"{name}Widget")
    slicer.app.processEvents()


def load_volume(path: Path, *, labels: bool = False):
    """Read a volume or label map file through the real storage node, as Slicer's Add data does."""
    import slicer

    kind = "vtkMRMLLabelMapVolumeNode" if labels else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, Path(path).stem)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise OSError(f"{path} cannot be read")
    node.CreateDefaultDisplayNodes()
    return node
