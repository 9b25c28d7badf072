"""What PythonQt offers of Qt, where it is less than what PySide offers: held against our own module only.

PythonQt takes properties, signals and slots from C++'s own meta-objects. All other methods are those of its
generated wrappers and decorators; of these the ones below were looked up, and anything else raises until it is
looked up too. Sources: https://github.com/MeVisLab/pythonqt, of which Slicer builds a fork, with
`src/PythonQtStdDecorators.h` (property, setProperty, QTimer.singleShot), `generated_cpp_515` (QObject, QProcess),
and for the other classes public copies of its generated wrappers, where the version of Qt was not told.
"""

from __future__ import annotations

import functools
import sys

from PySide6 import QtCore

OURS = ("INRRegistration", "INRRegistrationLib")

METHODS = {
    "QObject": {"blockSignals", "property", "setObjectName", "setProperty"},
    "QIODevice": {"write"},
    "QProcess": {
        "closeWriteChannel",
        "processId",
        "program",
        "readAllStandardError",
        "readAllStandardOutput",
        "setWorkingDirectory",
        "start",
        "state",
        "waitForFinished",
    },
    "QSettings": {"setValue", "value"},
    "QTimer": {"setInterval", "setSingleShot"},
    "QWidget": {"layout", "setToolTip"},
    "QAbstractButton": {"setShortcut", "setText"},
    "QToolButton": {"setMenu"},
    "QComboBox": {"addItem", "findData", "itemData"},
    "QMenu": {"addAction", "clear"},
    "QAction": {"setCheckable"},
    "QTableWidget": {"item", "setItem", "setRowCount"},
    "QLayout": {"removeWidget"},
    "QBoxLayout": {"addWidget", "setStretch"},
    "QFormLayout": {"addRow"},
}
"""Methods by class that are neither slots nor signals."""

CLASSES = {
    "QBrush",
    "QCheckBox",
    "QColor",
    "QDesktopServices",
    "QFileDialog",
    "QFormLayout",
    "QKeySequence",
    "QLineEdit",
    "QMenu",
    "QProcess",
    "QSettings",
    "QTableWidgetItem",
    "QTimer",
    "QUrl",
    "QVBoxLayout",
    "QWidget",
    "Qt",
}
"""What may be taken from the module `qt`."""

STATICS = {
    "QDesktopServices.openUrl",
    "QFileDialog.getOpenFileName",
    "QFileDialog.getSaveFileName",
    "QProcess.FailedToStart",
    "QProcess.NotRunning",
    "QTimer.singleShot",
    "QUrl.fromLocalFile",
    "Qt.Checked",
    "Qt.ItemIsEditable",
    "Qt.ItemIsEnabled",
    "Qt.ItemIsSelectable",
    "Qt.ItemIsUserCheckable",
    "Qt.Unchecked",
}
"""Enumerators and static methods, which PySide also has under other names."""


def asked_by_us(name: str) -> bool:
    """Whether the caller's caller is a line of our module that names it; the host and its tests are free.

    PySide looks up virtual methods on its own while our lines run; it names what they do not.
    """
    frame = sys._getframe(2)
    return frame.f_globals.get("__name__", "").partition(".")[0] in OURS and name in frame.f_code.co_names


@functools.cache
def offered(cls: type) -> frozenset[str]:
    """The names that PythonQt has for an instance of a class; of the host's own widgets, all that is public."""
    names = set()
    for base in cls.__mro__:
        if base.__module__.startswith("standin"):
            names |= {name for name in vars(base) if not name.startswith("_")}
        elif issubclass(base, QtCore.QObject):
            meta = base.staticMetaObject
            names |= METHODS.get(base.__name__, set())
            names |= {meta.property(index).name() for index in range(meta.propertyCount())}
            methods = (meta.method(index) for index in range(meta.methodCount()))
            public = (method for method in methods if method.access() != QtCore.QMetaMethod.Access.Private)
            names |= {bytes(method.name()).decode() for method in public}
    return frozenset(names)


def guard(cls: type) -> None:
    """Have a Qt class raise where our module asks for what PythonQt lacks."""
    plain = cls.__getattribute__

    def get(self, name):
        if asked_by_us(name) and name not in offered(type(self)):
            raise AttributeError(f"{type(self).__name__}.{name} is not known to be in PythonQt: see {__name__}")
        return plain(self, name)

    cls.__getattribute__ = get
