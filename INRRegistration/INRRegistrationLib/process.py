"""The worker process, seen from Slicer: started once, kept warm, and never left behind."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from inrreg import relay
from inrreg.protocol import EVENTS, Message, UserError

from .places import LOST, Here, Host
from .signal import Signal
from .widgets import connect

CANCEL_GRACE = 3000
"""Milliseconds that the worker has to answer a cancellation before it is ended."""
KILL_GRACE = 500
"""Milliseconds from the polite end (its stdin closed) to terminate, and from that to kill."""
SILENCE = 15000
"""Milliseconds without a word from a worker at work, which sends a heartbeat each second, until we say so."""
RETRY = 3000
"""Milliseconds between attempts to reach a worker again to which the connection was lost."""
_ending: list[Any] = []
"""Processes on their way out. Kept here, as they may outlive the object that started them."""
TAIL = 30
"""Lines of stderr that are kept for the message when the process dies."""
TURN = 0.01
"""Seconds for which lines are taken in at a time: the user has a turn between, however much the worker says."""
LONGEST, SHOWN = 1 << 22, 1000
"""Bytes that are kept of one line, and characters of one that is no event."""


class Inbox:
    """What a process has said and nobody has heard yet."""

    def __init__(self) -> None:
        self.rest = {"out": b"", "err": b""}
        """Lines that are not whole yet, by channel."""
        self.lines: deque[tuple[Callable[[str], None], bytes]] = deque()
        self.waiting = False
        """Whether there will be another turn for them."""
        self.then: Callable[[], None] | None = None
        """What follows the last line."""


class WorkerProcess:
    """Starts the worker on the first job, hands it commands, passes on its events.

    Signals: `hello` (data), `event` (message of the current request), `answered` (message that answers the newest
    question), `output` (line of text), `silent` () when it should have said something, `lost` () when the connection
    was lost and is sought again, and `ended` (error) when it ended during a request, or could not start. Events of
    other requests, and answers that a newer question or a task has made stale, are dropped. A warm worker that ends
    before it has said a word about a request is started again, once: it may have been ended while nobody looked.
    """

    def __init__(self, place: Here | Host | None = None) -> None:
        self.place = place or Here()
        self.hello, self.event, self.output = Signal(), Signal(), Signal()
        self.silent, self.ended, self.answered, self.lost = Signal(), Signal(), Signal(), Signal()
        self.devices: list[dict[str, str]] = []
        self._process: Any = None
        self._ready = False
        self._pending: Message | None = None
        self._unheard: Message | None = None
        """What a warm worker was sent and has not answered yet."""
        self._request = self._question = ""
        self._asked: Message | None = None
        """The newest question, while the worker is not ready for it."""
        self._tail: list[str] = []
        self._heard = 0
        """Events of this worker so far."""
        self._lost_since: float | None = None
        self._retry_timer = _timer(self._follow)
        self._kill_timer = _timer(self._on_overdue)
        self._silence_timer = _timer(lambda *_: self.silent.emit())

    @property
    def running(self) -> bool:
        """Whether there is a process, ready or not."""
        return self._process is not None

    @property
    def process_id(self) -> int:
        """The process's id, 0 without one."""
        return int(self._process.processId()) if self._process is not None else 0

    def start(self) -> None:
        """Start the worker unless it runs. Failure comes through `ended`, or as `UserError` at once."""
        if self._process is not None:
            return
        self._heard = 0
        self._launch(self.place.command())

    def _launch(self, command: list[str]) -> None:
        program, *arguments = command
        process = qt.QProcess()
        # `python -m` looks for modules in the working directory: no environment has to be passed through
        # Slicer's launcher.
        process.setWorkingDirectory(str(Path(__file__).resolve().parents[1]))
        self._process, self._ready, self._tail = process, False, []
        inbox = Inbox()
        process.readyReadStandardOutput.connect(lambda *_: self._read(process, inbox))
        process.readyReadStandardError.connect(lambda *_: self._read(process, inbox))
        process.finished.connect(lambda code, *_: self._on_finished(process, inbox, code))
        process.errorOccurred.connect(lambda error, *_: self._on_error(process, error))
        process.start(program, arguments)

    def submit(self, command: str, folder: str, **entries: Any) -> None:
        """Hand over a task in its job folder, as `place` calls that; its events follow.

        A worker that is not there yet is started.
        """
        self._kill_timer.stop()
        self._question, self._asked = "", None
        self._request = uuid.uuid4().hex
        self._pending = Message(command, {"folder": folder, **entries}, self._request, Path(folder).name)
        self._unheard = self._pending if self._ready else None
        self._silence_timer.start(SILENCE)
        self.start()
        self._send_pending()

    def ask(self, command: str, folder: Path, **entries: Any) -> None:
        """Ask a question between tasks; the answer to the newest one follows as `answered`, unless a task begins.

        While there is a task nothing is asked. A worker that is not there yet is started.
        """
        if self._request:
            return
        self._question = uuid.uuid4().hex
        self._asked = Message(command, {"folder": str(folder), **entries}, self._question)
        self.start()
        self._send_pending()

    def cancel(self) -> None:
        """Ask the worker to cancel the current request; end it where it does not answer, or cannot be asked."""
        if self._pending is not None or self._lost_since is not None:
            # Whether it is slow to start or stuck cannot be told apart.
            self._end_request()
        elif self._process is not None:
            self._unheard = None
            self._write(Message("cancel", {}, self._request))
            self._kill_timer.start(CANCEL_GRACE)

    def stop(self) -> None:
        """End the worker without a word and without waiting: closed stdin ends it, and kill what does not obey."""
        self._forget()
        process, self._process, self._ready = self._process, None, False
        if process is None or process.state() == qt.QProcess.NotRunning:
            return
        _ending.append(process)
        # One on a host outlives a connection that ends without a word.
        process.write(Message("shutdown").encode().encode("utf-8") + b"\n")
        process.closeWriteChannel()
        # The timers are the process's own, and go with it.
        for delay, end in ((KILL_GRACE, process.terminate), (2 * KILL_GRACE, process.kill)):
            timer = qt.QTimer(process)
            timer.setSingleShot(True)
            connect(timer.timeout, end)
            timer.start(delay)

    def wait_for_end(self) -> None:
        """Wait for processes that were stopped, and kill what does not obey: for when no timer will fire any more."""
        for process in list(_ending):
            if not process.waitForFinished(KILL_GRACE):
                process.kill()
                process.waitForFinished(KILL_GRACE)

    # --------------------------------------------------------------------------------------- events

    def _send_pending(self) -> None:
        if self._ready and self._pending is not None:
            message, self._pending = self._pending, None
            self._write(message)
        if self._ready and self._asked is not None:
            message, self._asked = self._asked, None
            self._write(message)

    def _write(self, message: Message) -> None:
        # Writing to a process that has ended reports success; its end comes through `finished`.
        self._process.write(message.encode().encode("utf-8") + b"\n")

    def _read(self, process: Any, inbox: Inbox) -> None:
        """Take what has arrived, split it into whole lines and keep the rest."""
        channels = (
            ("out", process.readAllStandardOutput, self._take_event),
            ("err", process.readAllStandardError, self._take_text),
        )
        for name, read, take in channels:
            *lines, rest = (inbox.rest[name] + read().data()).split(b"\n")
            inbox.lines.extend((take, line) for line in lines)
            inbox.rest[name] = rest[:LONGEST]
        self._take_lines(process, inbox)

    def _take_lines(self, process: Any, inbox: Inbox) -> None:
        """Take lines for one turn; the others, and what is to follow the last of them, have the next turns."""
        end = time.monotonic() + TURN
        while inbox.lines and time.monotonic() < end:
            take, line = inbox.lines.popleft()
            if process is self._process and line.strip():
                take(line.decode("utf-8", "replace").rstrip())
        if inbox.lines and not inbox.waiting:
            inbox.waiting = True
            qt.QTimer.singleShot(0, lambda: self._next_turn(process, inbox))
        elif not inbox.lines and inbox.then is not None:
            then, inbox.then = inbox.then, None
            then()

    def _next_turn(self, process: Any, inbox: Inbox) -> None:
        inbox.waiting = False
        self._take_lines(process, inbox)

    def _take_event(self, line: str) -> None:
        try:
            message = Message.decode(line, EVENTS)
        except ValueError:
            self._take_text(line)
            return
        self._heard += 1
        self._lost_since = None
        if message.kind == "hello":
            self.devices, self._ready = message.data["devices"], True
            self.hello.emit(message.data)
            self._send_pending()
        elif self._question and message.request in ("", self._question):
            self._question = ""
            self.answered.emit(message)
        elif message.request in ("", self._request) and self._request:
            self._unheard = None
            if message.kind in ("result", "done", "cancelled", "error"):
                self._forget()
            else:
                self._silence_timer.start(SILENCE)
            self.event.emit(message)

    def _take_text(self, line: str) -> None:
        line = line[:SHOWN]
        self._tail = [*self._tail, line][-TAIL:]
        self.output.emit(line)

    def _on_finished(self, process: Any, inbox: Inbox, code: int) -> None:
        for name in inbox.rest:
            inbox.rest[name] += b"\n"
        inbox.then = lambda: self._on_last_word(process, code)
        self._read(process, inbox)
        process.deleteLater()
        if process in _ending:
            _ending.remove(process)

    def _on_last_word(self, process: Any, code: int) -> None:
        if process is not self._process:
            return
        if code == LOST and self._request and self._heard and self._seek():
            return
        last = f" Its last words: {self._tail[-1]}" if self._tail else ""
        hint = "Register again to restart it; the log holds what it printed."
        known = self.place.explain(self._tail)
        self._end(known or UserError("worker", f"The registration process ended unexpectedly.{last}", hint))

    def _seek(self) -> bool:
        """Whether the worker goes on without us and waits: then it is sought again."""
        if not self.place.follow(self._heard):
            return False
        if self._lost_since is None:
            self._lost_since = time.monotonic()
            self._silence_timer.stop()
            self.lost.emit()
        if time.monotonic() - self._lost_since > relay.ALONE:
            return False
        self._process, self._ready = None, False
        self._retry_timer.start(RETRY)
        return True

    def _follow(self, *_: Any) -> None:
        """Another connection; what the worker may not have heard of is said again."""
        self._launch(self.place.follow(self._heard))
        self._ready, self._pending = True, self._unheard
        self._send_pending()

    def _on_error(self, process: Any, error: Any) -> None:
        # A process that fails to start emits no `finished`.
        if process is self._process and error == qt.QProcess.FailedToStart:
            program = process.program()
            process.deleteLater()
            hint = "Check that Slicer is installed completely."
            self._end(UserError("start", f"The registration process could not start ({program}).", hint))

    def _on_overdue(self, *_: Any) -> None:
        """The worker did not answer a cancellation: it hangs."""
        self._end_request()

    def _end_request(self) -> None:
        request = self._request
        self.stop()
        self.event.emit(Message("cancelled", {}, request))

    def _forget(self) -> None:
        """There is no current request any more."""
        self._retry_timer.stop()
        self._lost_since = None
        self._kill_timer.stop()
        self._silence_timer.stop()
        self._pending = self._unheard = self._asked = None
        self._request = self._question = ""

    def _end(self, error: UserError) -> None:
        self._process, self._ready = None, False
        if self._unheard is not None:
            self._pending, self._unheard = self._unheard, None
            self.start()
            return
        request, question = self._request, self._question
        self._forget()
        # Not from within `start`: its caller is not ready to hear of it.
        if request:
            qt.QTimer.singleShot(0, lambda: self.ended.emit(error))
        elif question:
            data = {"code": error.code, "message": error.message, "hint": error.hint}
            qt.QTimer.singleShot(0, lambda: self.answered.emit(Message("error", data, question)))


def _timer(slot: Any) -> Any:
    """A timer that fires once after each start."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.timeout.connect(slot)
    return timer
