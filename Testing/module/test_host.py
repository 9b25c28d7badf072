"""The stand-in is as strict as what it stands for, and MRML is the real one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FAKES, MODULE, ROOT
from PySide6 import QtCore, QtWidgets
from PySide6.QtTest import QTest
from standin import application, pythonqt


def test_properties_are_attributes_as_in_pythonqt(slicer):
    import qt

    label = qt.QLabel("text")
    assert label.text == "text"
    with pytest.raises(TypeError):
        label.text()
    label.text = "other"
    assert label.property("text") == "other"
    label.setObjectName("label")
    assert label.name == "label"


def test_native_objects_take_no_new_attributes(slicer):
    import qt

    for widget in (qt.QLabel(), qt.QProcess(), qt.QTimer()):
        with pytest.raises(AttributeError):
            widget.remark = 1


def as_our_module(text, **names):
    """Run a line as if it stood in our module."""
    exec(text, {"__name__": "INRRegistrationLib.panel", **names})


@pytest.mark.parametrize(
    "text",
    [
        "qt.QSignalBlocker(label)",
        "qt.QDialog()",
        "label.receivers('linkActivated(QString)')",
        "label.isSignalConnected",
        "label.window()",
        "label.heightForWidth(3)",
        "label.staticMetaObject",
        "process.isOpen()",
        "selector.setNodeTypes([])",
    ],
)
def test_our_module_may_only_use_what_was_looked_up_in_pythonqt(slicer, text):
    import qt

    names = {"qt": qt, "label": qt.QLabel(), "process": qt.QProcess(), "selector": slicer.qMRMLNodeComboBox()}
    with pytest.raises(AttributeError):
        as_our_module(text, **names)


def test_our_module_may_use_slots_properties_signals_and_what_is_listed(slicer):
    import qt

    text = "label.setText('a'); assert label.property('text') == 'a'; label.linkActivated.connect(print); qt.QWidget()"
    as_our_module(text, qt=qt, label=qt.QLabel())


def test_static_members_of_qt_are_listed():
    """PySide has enumerators under several names; PythonQt has them in their class."""
    used = set()
    for path in [MODULE, *(MODULE.parent / "INRRegistrationLib").glob("*.py")]:
        used |= set(re.findall(r"\bqt\.(Q\w+\.[\w.]+)", path.read_text("utf-8")))
    assert used <= pythonqt.STATICS


@pytest.mark.parametrize("name", ["Signal", "Slot", "Property", "QtCore", "QEnum"])
def test_inventions_of_the_binding_are_missing(slicer, name):
    import qt

    assert not hasattr(qt, name)


def test_what_the_application_lacks_raises(slicer):
    with pytest.raises(AttributeError):
        slicer.app.somethingElse()
    with pytest.raises(AttributeError):
        slicer.qMRMLTreeView  # noqa: B018


def test_ui_files_with_unknown_widgets_or_properties_raise(slicer, tmp_path, uncaught):
    ui = '<ui version="4.0"><class>A</class><widget class="QWidget" name="A">{}</widget></ui>'
    path = tmp_path / "a.ui"
    path.write_text(
        ui.format('<widget class="QLabel" name="b"><property name="nonsense"><bool>true</bool></property></widget>')
    )
    with pytest.raises(AttributeError, match="nonsense"):
        slicer.util.loadUI(str(path))
    path.write_text(ui.format('<widget class="qMRMLTreeView" name="b"/>'))
    try:
        slicer.util.loadUI(str(path))
    except (NameError, RuntimeError):
        return
    assert any("qMRMLTreeView" in text for text in uncaught)
    uncaught.clear()


@pytest.fixture
def selector(slicer):
    """Of volumes, without their subclasses, or none."""
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.showChildNodeTypes = selector.addEnabled = selector.removeEnabled = False
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def test_the_node_selector_follows_the_scene(slicer, selector):
    told = []
    selector.currentNodeChanged.connect(told.append)
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "One")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Child class")
    assert (selector.nodeCount(), selector.currentNode()) == (1, None)
    selector.setCurrentNode(volume)
    assert (told, selector.currentNodeID) == ([volume], volume.GetID())
    volume.SetName("Renamed")
    assert told == [volume, volume]
    slicer.mrmlScene.RemoveNode(volume)
    assert told == [volume, volume, None]


@pytest.mark.parametrize(("removed", "next_one"), [(0, 1), (1, 2), (2, 1)])
def test_the_node_selector_jumps_when_its_node_is_removed(slicer, selector, removed, next_one):
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ABC"]
    selector.setCurrentNode(volumes[removed])
    told = []
    selector.currentNodeChanged.connect(told.append)
    slicer.mrmlScene.RemoveNode(volumes[removed])
    assert told == [volumes[next_one]]
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None


def test_without_none_the_first_node_is_chosen(slicer, selector):
    selector.noneEnabled = False
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "One")
    assert selector.currentNode() is volume


def test_nodes_are_checked(slicer):
    import qt

    selector = slicer.qMRMLCheckableNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.addEnabled = selector.removeEnabled = False
    selector.setMRMLScene(slicer.mrmlScene)
    one, two = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "AB")
    told = []
    selector.checkedNodesChanged.connect(lambda: told.append(selector.checkedNodes()))
    selector.check(two)
    assert (told, selector.uncheckedNodes()) == ([(two,)], (one,))
    assert selector.checkState(two) == qt.Qt.Checked


def test_the_slider_widget(slicer):
    import ctk

    slider = ctk.ctkSliderWidget()
    with pytest.raises(AttributeError):
        slider.setMinimum(-4)
    slider.minimum, slider.maximum, slider.singleStep = -4, 0, 0.5
    told = []
    slider.valueChanged.connect(told.append)
    slider.setValue(-1.5)
    slider.value = -9
    assert told == [-1.5, -4]
    inner = slider.findChild(QtWidgets.QSlider)
    inner.setValue(3)
    assert slider.value == -2.5
    changing = []
    slider.valueIsChanging.connect(changing.append)
    slider.tracking = False
    inner.setSliderDown(True)
    inner.setValue(4)
    assert (changing, slider.value) == ([-2], -2.5)
    inner.setSliderDown(False)
    assert slider.value == -2


def test_the_path_widget(slicer):
    import ctk

    edit = ctk.ctkPathLineEdit()
    told = []
    edit.currentPathChanged.connect(told.append)
    edit.setCurrentPath("/a/b.h5")
    edit.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Writable
    assert (told, edit.currentPath, edit.filters) == (["/a/b.h5"], "/a/b.h5", 0x022)


def test_shortcuts(slicer):
    import qt

    window, told = qt.QWidget(), []
    shortcut = qt.QShortcut(window)
    shortcut.setKey(qt.QKeySequence("Ctrl+Space"))
    shortcut.activated.connect(lambda *_: told.append(True))
    window.show()
    window.activateWindow()
    slicer.app.processEvents()
    QTest.keyClick(window, QtCore.Qt.Key.Key_Space, QtCore.Qt.KeyboardModifier.ControlModifier)
    assert told == [True]


def test_mrml_and_util_are_the_real_ones(slicer):
    assert slicer.util.__file__.endswith(str(Path("slicer") / "util.py"))
    assert type(slicer.mrmlScene).__module__.startswith("slicer_core")


def test_settings_are_isolated(slicer, tmp_path):
    import qt

    settings = qt.QSettings()
    settings.setValue("key", 1)
    settings.sync()
    assert Path(settings.fileName()).is_relative_to(tmp_path)
    assert slicer.util.settingsValue("key", 0, converter=int) == 1


HOST = f"""
import sys, time, os
sys.path[:0] = [{str(ROOT / "Testing" / "host")!r}, {str(MODULE.parent)!r}]
from standin import application
slicer = application.start(sys.argv[1])
from inrreg import methods
methods.__path__.append({str(FAKES / "methods")!r})
widget = application.load_module({str(MODULE)!r})
from INRRegistrationLib import places, selftest
if sys.argv[2] == "real":
    arguments = dict(overrides={{"steps": [5000, 10, 10]}}, threads=1)
else:
    places.Here.command = lambda self: [sys.executable, {str(FAKES / "fake_worker.py")!r}]
    arguments = dict(preset="fake", overrides={{"behaviour": sys.argv[2], "steps": 100000}})
from INRRegistration import INRRegistrationLogic
run = INRRegistrationLogic().register(*selftest.make_pair(), wait=False, **arguments)
steps = []
run.progress.connect(lambda data: steps.append(data["step"]))
worker = widget.panel.registrations.process
end = time.monotonic() + float(sys.argv[3])
said = False
while time.monotonic() < end:
    slicer.app.processEvents()
    if run.state == "running" and not said and (steps or sys.argv[2] == "hang"):
        said = True
        print(worker.process_id, flush=True)
    time.sleep(0.01)
application.unload_module("INRRegistration")
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("behaviour", "end"), [("register", "kill"), ("hang", "kill"), ("hang", "close"), ("real", "kill")]
)
def test_no_worker_outlives_the_host(tmp_path, behaviour, end):
    """In mid-step of the real engine, in a step of a fake that hangs, and between steps."""
    if behaviour == "real":
        pytest.importorskip("torch")
    seconds = "60" if end == "kill" else "2"
    command = [sys.executable, "-c", HOST, str(tmp_path), behaviour, seconds]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = int(host.stdout.readline())
    time.sleep(0.5)
    assert Path(f"/proc/{worker}").exists()
    if end == "kill":
        host.send_signal(signal.SIGKILL)
    host.wait(timeout=20)
    start = time.monotonic()
    while Path(f"/proc/{worker}").exists() and not is_zombie(worker):
        assert time.monotonic() - start < 2
        time.sleep(0.02)
    print(f"\nworker gone {time.monotonic() - start:.2f} s after the host ({behaviour}, {end})")


def is_zombie(process):
    """Ended, but its parent (here often the container's first process) does not reap."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_window_shows_the_panel(slicer):
    widget = application.load_module(MODULE)
    from standin.window import Window

    window = Window(slicer, slicer.modules.inrregistration.widgetRepresentation())
    window.show()
    assert widget.panel.ui.applyButton.visible
    window.takeCentralWidget()
    application.unload_module("INRRegistration")
    window.close()
