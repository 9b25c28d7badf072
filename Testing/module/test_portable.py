"""The Slicer side keeps to what PythonQt and PySide share, and opens with nothing installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODULE, ROOT

SOURCES = [MODULE, *sorted((MODULE.parent / "INRRegistrationLib").glob("*.py"))]
QT_SIDE = {"qt", "ctk", "slicer"}


def root_name(node):
    """The name that a chain of attributes begins with: `qt` for `qt.QProcess.NotRunning`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def owners(target):
    """The names before the last one of an attribute that is assigned to: self, ui, button of self.ui.button.text."""
    names, node = [], target.value if isinstance(target, ast.Attribute) else None
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*names, node.id] if isinstance(node, ast.Name) else names


def is_qt(node):
    return isinstance(node, ast.Attribute) and root_name(node) in {"qt", "ctk"}


def offences(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            names = []
        if any(name.startswith(("PySide", "PyQt", "shiboken")) for name in names):
            yield node, "imports a binding by name"
        if isinstance(node, ast.Call) and is_qt(node.func) and node.keywords:
            yield node, "keyword arguments to Qt"
        identity = isinstance(node, ast.Compare) and any(isinstance(entry, (ast.Is, ast.IsNot)) for entry in node.ops)
        if identity and any(map(is_qt, [node.left, *node.comparators])):
            yield node, "compares a Qt enum with `is`"
        if isinstance(node, ast.ClassDef) and any(is_qt(base) for base in node.bases):
            yield node, "derives from a Qt class"
        if isinstance(node, ast.Attribute) and is_qt(node) and node.attr in {"Signal", "Slot", "Property"}:
            yield node, "defines Qt signals in Python"
        if isinstance(node, ast.Assign) and any("ui" in owners(target) for target in node.targets):
            yield node, "sets an attribute on a widget"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_what_both_bindings_have(path):
    found = [f"{path.name}:{node.lineno}: {what}" for node, what in offences(ast.parse(path.read_text("utf-8")))]
    assert not found


def test_the_check_sees_offences():
    text = """
import PySide6
class A(qt.QWidget):
    s = qt.Signal()
qt.QLabel(text="a")
x is qt.QProcess.NotRunning
self.ui.button.text = "a"
"""
    assert len(list(offences(ast.parse(text)))) == 6


BARE = f"""
import sys, os
os.environ["QT_QPA_PLATFORM"] = "offscreen"
ALLOWED = {{"numpy", "vtk", "vtkmodules", "slicer", "slicer_core", "PySide6", "shiboken6", "standin", "inrreg"}}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "SimpleITK", "safetensors", "typer", "rich", "scipy", "packaging"}}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
sys.path.insert(0, {str(ROOT / "Testing" / "host")!r})
from standin import application
slicer = application.start(sys.argv[1])
widget = application.load_module({str(MODULE)!r})
from INRRegistrationLib.selftest import make_pair
fixed, moving = make_pair()
ui = widget.panel.ui
ui.fixedSelector.setCurrentNode(fixed)
ui.movingSelector.setCurrentNode(moving)
ui.advancedSection.collapsed = False
assert ui.applyButton.enabled
assert ui.presetSelector.count
application.unload_module("INRRegistration")
print("opened")
"""


def test_the_panel_opens_with_nothing_but_what_slicer_brings(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.stdout.split()[-1:] == ["opened"], answer.stderr


def test_the_ui_file_uses_only_widgets_that_slicer_has():
    import xml.etree.ElementTree as ElementTree

    path = MODULE.parent / "Resources" / "UI" / "INRRegistration.ui"
    classes = {node.get("class") for node in ElementTree.parse(path).iter("widget")}
    assert {name for name in classes if not name.startswith("Q")} == {
        "qMRMLWidget",
        "qMRMLNodeComboBox",
        "ctkCollapsibleButton",
        "ctkPathLineEdit",
    }
    assert Path(path).read_text("utf-8").count("For research use only") == 1
