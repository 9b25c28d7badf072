"""A QTableWidget that is filled from Python, and heard only when the user changes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import qt

from .widgets import connect

AT_ONCE = 12
"""Rows that are filled in one turn of the event loop."""


class Cells:
    """Rows of items. `quiet` tells that a change is ours: both bindings give signals for it, too."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._rows: list[list[Any]] = []
        """Kept: Python's side of an item is to live as long as it."""
        self._shown: list[list[tuple[Any, ...]]] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        connect(self._timer.timeout, self._fill)
        self.quiet = False

    def stop(self) -> None:
        """Fill no more: the table is about to go."""
        self._timer.stop()

    def text(self, text: str, *, tip: str = "", edit: bool = False, colour: str | None = None) -> tuple[Any, ...]:
        """A cell of text, for `show`."""
        return ("text", text, tip, edit, colour)

    def check(self, checked: bool) -> tuple[Any, ...]:
        """A cell with a check box, for `show`."""
        return ("check", checked)

    def show(self, rows: list[list[tuple[Any, ...]]]) -> None:
        """Show these rows of cells, where they are others than those shown: the first at once, the rest by and by."""
        if rows == self._shown and not self._edited():
            return
        self._shown, self._rows = rows, []
        with self._quietly():
            self._table.setRowCount(len(rows))
        self._fill()
        with self._quietly():
            self._table.resizeColumnsToContents()

    def _fill(self) -> None:
        with self._quietly():
            first = len(self._rows)
            for row, cells in enumerate(self._shown[first : first + AT_ONCE], start=first):
                items = [_item(cell) for cell in cells]
                for column, item in enumerate(items):
                    self._table.setItem(row, column, item)
                self._rows.append(items)
        if len(self._rows) < len(self._shown):
            self._timer.start()

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def read(self, row: int, column: int) -> str:
        """The text of a cell, as the user left it."""
        return self._table.item(row, column).text()

    def checked(self, row: int, column: int) -> bool:
        """Whether a cell is checked."""
        return self._table.item(row, column).checkState() == qt.Qt.Checked

    def _edited(self) -> bool:
        """Whether the user has changed what was shown."""
        for items, cells in zip(self._rows, self._shown, strict=False):
            for item, cell in zip(items, cells, strict=True):
                if (item.checkState() == qt.Qt.Checked) != cell[1] if cell[0] == "check" else item.text() != cell[1]:
                    return True
        return False


def _item(cell: tuple[Any, ...]) -> Any:
    kind, value, *rest = cell
    item = qt.QTableWidgetItem("" if kind == "check" else value)
    flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
    if kind == "check":
        item.setFlags(flags | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if value else qt.Qt.Unchecked)
        return item
    tip, edit, colour = rest
    item.setFlags(flags | qt.Qt.ItemIsEditable if edit else flags)
    item.setToolTip(tip)
    if colour:
        item.setForeground(qt.QBrush(qt.QColor(colour)))
    return item
