"""Something that the worker does for the panel: job folder, worker, what it made, scene."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import qt
import slicer

from inrreg.protocol import Message, UserError

from .background import Task, aside
from .process import WorkerProcess
from .signal import Signal

WRITING, RUNNING, CANCELLING, LOADING, SHOWN = "writing", "running", "cancelling", "loading", "shown"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"


class Operation:
    """Begins when made; `finished` is emitted once, when `state` is `done`, `cancelled` or `failed`.

    Signals: `progress` (data of the event), `alive` (seconds at work, each second; None when the worker has
    gone silent), `lost` () when the connection to it was lost and is sought again, `log` (line of text), `finished` ().
    The scene changes only when it is done; then `warnings` says what to look at. After a failure `error` says why.
    Kinds of it give the worker's `command`, and override `_read`, `_show` and `_tidy`. They hold nodes by id: the user
    may delete them while it runs.
    """

    command = ""
    """What the worker is told to do: one of `inrreg.tasks.TASKS`."""

    def __init__(
        self, process: WorkerProcess, folder: Path, write: Callable[[], tuple[dict[str, Any], list[str]]]
    ) -> None:
        """`write` writes the job folder, off the GUI thread, and gives the command's entries and notes for the log."""
        self.progress, self.alive, self.lost = Signal(), Signal(), Signal()
        self.log, self.finished = Signal(), Signal()
        self.state = WRITING
        self.error: UserError | None = None
        self.warnings: list[str] = []
        self.seconds = 0.0
        self._start = time.monotonic()
        self._folder, self._process = folder, process
        self._steps: Iterator[None] | None = None
        # While the files are written: a cold start takes seconds.
        process.start()
        for signal, slot in self._connections():
            signal.connect(slot)
        self._observer = slicer.mrmlScene.AddObserver(slicer.mrmlScene.StartCloseEvent, self._on_scene_close)
        self._task = Task(lambda: self._write(write), self._on_written)

    @property
    def active(self) -> bool:
        """Whether it has not finished."""
        return self.state not in (DONE, CANCELLED, FAILED)

    def cancel(self) -> None:
        """Ask for the end; `finished` follows within the worker's grace."""
        if self.state == RUNNING:
            self.state = CANCELLING
            self._process.cancel()
        elif self.state in (WRITING, LOADING):
            self._finish(CANCELLED)

    def abort(self) -> None:
        """End at once, and the worker with it where it is at work: scene closed, module unloaded."""
        if not self.active:
            return
        if self.state in (RUNNING, CANCELLING):
            self._process.stop()
        self._finish(CANCELLED)

    # ----------------------------------------------------------------------------- of its own kind

    def _read(self, data: dict[str, Any]) -> Any:
        """Off the GUI thread: what the files that the closing event names hold."""
        return data

    def _show(self, read: Any) -> Iterator[None] | None:
        """Change the scene, all of it or nothing. Raises `UserError` where that cannot be.

        A generator is gone on with after each `yield` from the event loop, so that much of it is no long stop; where it
        is closed before its end it takes back what it did. Once the scene is changed nothing is cancelled any more.
        """

    def _preview(self, data: dict[str, Any]) -> None:
        """There is something to look at on the way."""

    def _tidy(self) -> None:
        """Remove what is not needed any more from the job folder; by default, all of it."""
        aside(shutil.rmtree, self._folder, True)

    # ---------------------------------------------------------------------------------------- stages

    def _write(self, write: Callable[[], tuple[dict[str, Any], list[str]]]) -> Any:
        """Off the GUI thread. What is still being written when the end comes could not be removed by then."""
        try:
            return (*write(), self._process.place.send(self._folder))
        finally:
            if not self.active:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _on_written(self, written: Any, error: BaseException | None) -> None:
        if error is not None:
            self._fail(_as_user_error(error))
            return
        entries, notes, there = written
        for note in notes:
            self.log.emit(note)
        self.state = RUNNING
        self._process.submit(self.command, there, **entries)

    def _on_event(self, message: Message) -> None:
        if self.state not in (RUNNING, CANCELLING):
            return
        data = message.data
        if message.kind == "progress":
            self.progress.emit(data)
        elif message.kind == "heartbeat":
            self.alive.emit(data["seconds"])
        elif message.kind == "preview":
            self._preview(data)
        elif message.kind == "warning":
            self.warnings.append(data["message"])
            self.log.emit(f"Warning: {data['message']}")
        elif message.kind == "log":
            self.log.emit(data["text"])
        elif message.kind == "cancelled" or self.state == CANCELLING:
            # However it ended meanwhile: the user wants none of it.
            self._finish(CANCELLED)
        elif message.kind in ("result", "done"):
            self.state = LOADING
            place, folder = self._process.place, self._folder
            self._task = Task(lambda: self._read(place.fetch(folder, data)), self._on_read)
        elif message.kind == "error":
            if data["code"] in ("torch", "package"):
                # What it failed to import it would not find after an installation either.
                self._process.stop()
            self._fail(UserError(data["code"], data["message"], data["hint"]))

    def _on_read(self, read: Any, error: BaseException | None) -> None:
        try:
            if error is not None:
                raise error
            self._steps = self._show(read)
        except Exception as raised:
            self._fail(_as_user_error(raised))
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.state != LOADING:
            return
        try:
            ended = self._steps is None or next(self._steps, self) is self
        except Exception as raised:
            self._fail(_as_user_error(raised))
            return
        if ended:
            self.state = SHOWN
        # What the end brings about has a turn of its own.
        qt.QTimer.singleShot(0, self._on_shown if ended else self._go_on)

    def _on_shown(self) -> None:
        if self.state == SHOWN:
            self._finish(DONE)

    # ------------------------------------------------------------------------------------------ ends

    def _fail(self, error: UserError) -> None:
        self.error = error
        self._finish(FAILED)

    def _finish(self, state: str) -> None:
        self._task.abandon()
        self._process.place.interrupt()
        if self._steps is not None:
            self._steps.close()
        for signal, slot in self._connections():
            signal.disconnect(slot)
        slicer.mrmlScene.RemoveObserver(self._observer)
        self.state, self.seconds = state, time.monotonic() - self._start
        self._tidy()
        self.finished.emit()

    def _connections(self) -> list[tuple[Signal, Any]]:
        process = self._process
        return [
            (process.event, self._on_event),
            (process.ended, self._on_ended),
            (process.silent, self._on_silent),
            (process.lost, self.lost.emit),
            (process.output, self.log.emit),
        ]

    def _on_silent(self) -> None:
        self.alive.emit(None)

    def _on_ended(self, error: UserError) -> None:
        if self.state == CANCELLING:
            self._finish(CANCELLED)
        elif self.state not in (LOADING, SHOWN):
            # While loading, all that was to come from the worker is on disk.
            self._fail(error)

    def _on_scene_close(self, *_: Any) -> None:
        self.abort()


def remove_files(folder: Path) -> None:
    """Remove the files that are in a job folder now, off the GUI thread, but not its folders.

    What another program holds open stays until Slicer exits: no reason to lose a result over it.
    """
    aside(_unlink, [path for path in folder.iterdir() if path.is_file()])


def _unlink(files: list[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()


def _as_user_error(error: BaseException) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        hint = "Is the disk of the temporary folder full?"
        return UserError("disk", f"A file could not be written or read ({error}).", hint)
    return UserError("internal", f"This failed unexpectedly ({error!r}).", "Please report this.")
