"""The stand-in is as strict as what it stands for, and MRML is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FAKES, MODULE, ROOT
from standin import application


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
from INRRegistrationLib import process, selftest
process.command = lambda: [sys.executable, {str(FAKES / "fake_worker.py")!r}]
from INRRegistration import INRRegistrationLogic
run = INRRegistrationLogic().register(
    *selftest.make_pair(), preset="fake", overrides={{"behaviour": sys.argv[2], "steps": 100000}}, wait=False
)
worker = widget.panel.registrations.process
end = time.monotonic() + float(sys.argv[3])
said = False
while time.monotonic() < end:
    slicer.app.processEvents()
    if run.state == "running" and not said:
        said = True
        print(worker.process_id, flush=True)
    time.sleep(0.01)
application.unload_module("INRRegistration")
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("behaviour", "end"), [("register", "kill"), ("hang", "kill"), ("hang", "close")])
def test_no_worker_outlives_the_host(tmp_path, behaviour, end):
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
