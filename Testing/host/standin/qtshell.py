"""The modules `qt` and `ctk` over PySide6, with the manners of PythonQt."""

from __future__ import annotations

import types

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import pythonqt

HIDDEN = {"QEnum", "QFlag"}
"""Names of PySide6 that have no counterpart in C++."""


KEPT = {"sizeHint", "minimumSizeHint", "singleShot"}
"""Properties left as methods: Qt calls the first two, and would take an attribute for an override; the third
is a static method too.
"""


def _attribute(name: str) -> property:
    return property(lambda self: self.property(name), lambda self, value: self.setProperty(name, value))


def _assign(self, name, value):
    """Assignment as PythonQt does it: C++ objects take no attribute they do not have; PySide6's take any.

    PySide6 itself keeps the signals it has looked up.
    """
    known = getattr(type(self), name, None)
    if isinstance(known, (property, QtCore.Property)):
        self.setProperty(name, value)
    elif type(self).__module__.startswith("PySide6") and not isinstance(value, QtCore.SignalInstance):
        raise AttributeError(f"{type(self).__name__} has no property '{name}'")
    else:
        self.__dict__[name] = value


def _be_like_pythonqt(cls: type) -> None:
    """Make a class's Qt properties attributes, as PythonQt does, instead of methods."""
    cls.__setattr__ = _assign
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in KEPT:
            setattr(cls, name, _attribute(name))


class QtModule(types.ModuleType):
    """Offers our own module only what was looked up in PythonQt."""

    def __getattribute__(self, name):
        if pythonqt.asked_by_us(name) and name not in pythonqt.CLASSES:
            raise AttributeError(f"qt.{name} is not known to be in PythonQt: see {pythonqt.__name__}")
        return super().__getattribute__(name)


def make_qt() -> types.ModuleType:
    """The module `qt`: all Qt classes under one roof, without PySide6's own inventions."""
    qt = QtModule("qt")
    for source in (QtCore, QtGui, QtWidgets):
        for name in dir(source):
            if name.startswith("Q") and name not in HIDDEN:
                setattr(qt, name, getattr(source, name))
    for value in list(vars(qt).values()):
        if isinstance(value, type) and issubclass(value, QtCore.QObject):
            _be_like_pythonqt(value)
            pythonqt.guard(value)
    QtCore.QObject.name = _attribute("objectName")
    qt.QUiLoader = Loader
    return qt


class Loader(QtUiTools.QUiLoader):
    """Loads .ui files with the host's custom widgets; complains about what they do not know."""

    custom: dict[str, type] = {}  # noqa: RUF012

    def createWidget(self, class_name, parent=None, name=""):
        if class_name in self.custom:
            widget = self.custom[class_name](parent)
            widget.setObjectName(name)
            return widget
        if not class_name.startswith("Q"):
            raise NameError(f"the host has no widget {class_name}")
        return super().createWidget(class_name, parent, name)

    def load(self, file, parent=None):
        widget = super().load(file, parent)
        if widget is not None:
            for child in [widget, *widget.findChildren(QtWidgets.QWidget)]:
                unknown = [bytes(entry).decode() for entry in child.dynamicPropertyNames()]
                unknown = [entry for entry in unknown if not entry.startswith("_")]
                if unknown:
                    raise AttributeError(f"{child.objectName} has no property {', '.join(unknown)}")
        return widget


def stored(kind, default, on_change=None):
    """A Qt property that stores its value on the object, as `_<name>`."""
    holder = {}

    def name_of(self):
        if "name" not in holder:
            holder["name"] = next(
                f"_{name}" for cls in type(self).__mro__ for name, value in vars(cls).items() if value is result
            )
        return holder["name"]

    def setter(self, value):
        setattr(self, name_of(self), value)
        if on_change:
            on_change(self)

    result = QtCore.Property(kind, lambda self: getattr(self, name_of(self), default), setter)
    return result
