"""The moving volume under what the worker has found so far, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from . import results
from .background import Task


class Preview:
    """Reads the newest field, one at a time, and has it shown; `undo` restores what was there before the first.

    `show(grid, undo)` puts a grid, as `results.read_grid` gives it, into the scene. Where it cannot, `failed(error)`
    hears of it, and no more are shown: the registration does not depend on them.
    """

    def __init__(self, show: Callable[[Any, ExitStack], Any], failed: Callable[[Exception], None]) -> None:
        self._show, self._failed = show, failed
        self._given_up = False
        self._undo = ExitStack()
        self._task: Task | None = None
        self._next: Callable[[], Any] | None = None
        self.node: Any = None
        """The transform that shows it."""

    def take(self, read: Callable[[], Any]) -> None:
        """There is a new field, which `read` gives off the GUI thread. While one is read, only the newest one waits."""
        if self._task is not None or self._given_up:
            self._next = read
            return
        self._task = Task(read, self._on_read)

    def _on_read(self, grid: Any, error: BaseException | None) -> None:
        self._task = None
        # A file that could not be read is one that another has taken the place of: the next will do.
        if error is None:
            try:
                self._put(grid)
            except Exception as reason:
                self._given_up = True
                self._failed(reason)
        following, self._next = self._next, None
        if following is not None:
            self.take(following)

    def _put(self, grid: Any) -> None:
        if self.node is None:
            with ExitStack() as undo:
                self.node = self._show(grid, undo)
                self._undo = undo.pop_all()
        else:
            self.node.SetAndObserveTransformFromParent(results.grid_transform(*grid))

    def stop(self) -> None:
        """Show no more; what is shown stays."""
        if self._task is not None:
            self._task.abandon()
        self._task = self._next = None

    def undo(self) -> None:
        """Show no more, and restore the scene."""
        self.stop()
        self.node = None
        self._undo.close()

    def keep(self) -> None:
        """Show no more, and leave the scene to whoever has taken it over."""
        self.stop()
        self._undo.pop_all()
