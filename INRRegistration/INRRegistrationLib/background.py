"""Work off the GUI thread, its outcome delivered on the GUI thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import qt

POLL = 5
"""Milliseconds between looks at whether the work is done."""


_last: threading.Thread | None = None


def aside(work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work` in a thread, after all that was given before; nobody asks how it ends.

    It must touch neither Qt nor MRML. To be called on the GUI thread.
    """
    global _last
    before = _last

    def in_turn() -> None:
        if before is not None:
            before.join()
        work(*arguments)

    _last = threading.Thread(target=in_turn, daemon=True)
    _last.start()


class Task:
    """Runs `work` in a thread, then calls `done(result, error)` from the event loop, one of them None.

    `work` must touch neither Qt nor MRML. After `abandon`, `done` is not called.
    """

    def __init__(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._done = done
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL)
        self._timer.timeout.connect(self._look)
        self._thread.start()
        self._timer.start()

    def abandon(self) -> None:
        """Forget the outcome; the thread itself runs to its end."""
        self._timer.stop()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._result = work()
        except BaseException as error:
            self._error = error

    def _look(self, *_: Any) -> None:
        if not self._thread.is_alive():
            self._timer.stop()
            self._done(self._result, self._error)
