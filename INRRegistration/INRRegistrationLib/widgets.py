"""Small helpers that read the same under PythonQt and PySide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def read(widget: Any, name: str) -> Any:
    """A Qt property. PythonQt gives properties as attributes, PySide as methods; both know `property`."""
    return widget.property(name)


def fill(combo: Any, entries: list[tuple[str, Any]], data: Any = None) -> None:
    """Fill a QComboBox with (text, data) pairs and select one by its data, without a word to its listeners."""
    combo.blockSignals(True)
    combo.clear()
    for text, value in entries:
        combo.addItem(text, value)
    choose(combo, data)
    combo.blockSignals(False)


def choose(combo: Any, data: Any) -> None:
    """Select the entry with that data; the first where there is none."""
    combo.setCurrentIndex(max(0, combo.findData(data)))


def chosen(combo: Any) -> Any:
    """The data of the selected entry."""
    return combo.itemData(read(combo, "currentIndex"))


def connect(signal: Any, slot: Callable[[], Any]) -> None:
    """Call `slot` without the signal's arguments."""
    signal.connect(lambda *_: slot())
