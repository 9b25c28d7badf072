"""Small helpers that read the same under PythonQt and PySide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer


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


def ask_for_file(title: str, start: str, filters: str, *, save: bool = False) -> str:
    """The file that the user names in a dialog, "" for none; one to save to, after asking where it exists already."""
    ask = qt.QFileDialog.getSaveFileName if save else qt.QFileDialog.getOpenFileName
    answer = ask(slicer.util.mainWindow(), title, start, filters)
    return answer if isinstance(answer, str) else answer[0]  # PySide gives the filter as well
