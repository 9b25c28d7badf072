"""The worker process: takes commands on stdin, carries out one task at a time, answers with events.

Run as `python -m inrreg.worker`. It stays alive between jobs, so that importing torch and opening a GPU
context is paid once. Events go, one JSON line each, to what was stdout when the process began; whatever
libraries print lands on stderr. End of stdin ends the process at once and from any state: the panel that
owned it is gone, however it went. With `--lasting`, as on another host, commands and events go through
files in the working directory instead, to which connections come and go: see `inrreg.relay`.

Commands are `inrreg.protocol.COMMANDS`; what they do is `inrreg.tasks`. `cancel` names by its request id the task to
cancel. `alpha` evaluates a conditioned result, which stays in memory for the next one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from inrreg import protocol, relay
from inrreg.memory import exhausted, give_back, is_exhausted
from inrreg.protocol import Message, UserError
from inrreg.tasks import TASKS
from inrreg.versions import versions

HEARTBEAT = 1.0
"""Seconds between heartbeats during a job."""

SEIZED = 30.0
"""Seconds without a heartbeat after which a process that runs no Python any more ends itself."""


class EventWriter:
    """Writes events to a binary stream, one whole line at a time, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, kind: str, data: dict[str, Any], request: str = "", job: str = "") -> None:
        """Send one event. A broken pipe ends the process: nobody is there to read."""
        line = Message(kind, finite(data), request, job).encode().encode("utf-8") + b"\n"
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except OSError:
            os._exit(0)


class Worker:
    """One process's state: at most one task, which the command thread can cancel at any time."""

    def __init__(self, commands: Iterable[bytes], events: BinaryIO) -> None:
        self._commands = commands
        self._events = EventWriter(events)
        self._queue: queue.Queue[Message] = queue.Queue()
        self._lock = threading.Lock()
        self._request: str | None = None
        self._newest: Message | None = None
        self._tuned: tuple[tuple[str, int], Any] = (("", 0), None)
        self._cancel = threading.Event()

    def run(self) -> None:
        """Say hello, then run jobs until stdin ends or `shutdown` arrives; does not return."""
        threading.Thread(target=self._read_commands, daemon=True, name="commands").start()
        self._hello()
        warm_up(lambda: not self._queue.empty())
        while True:
            message = self._queue.get()
            if message.kind == "alpha":
                self._evaluate(message)
            else:
                self._work(message)
                give_back()

    # ------------------------------------------------------------------------------------- commands

    def _read_commands(self) -> None:
        """Thread: obey each line at once. Ends the process at the end of the stream."""
        try:
            for line in self._commands:
                if line.strip():
                    self._obey(line)
        finally:
            # Not sys.exit: the main thread may hang in a step, and nothing here is worth a clean-up.
            os._exit(0)

    def _obey(self, line: bytes) -> None:
        try:
            message = Message.decode(line.decode("utf-8"), protocol.COMMANDS)
        except (ValueError, TypeError) as error:
            self._error(UserError("command", f"The worker did not understand a command ({error})."), "", "")
            return
        if message.kind == "shutdown":
            os._exit(0)
        elif message.kind == "cancel":
            with self._lock:
                if message.request == self._request:
                    self._cancel.set()
        else:
            with self._lock:
                busy = self._request is not None
                if message.kind == "alpha":
                    self._newest = message
                elif not busy:
                    self._request = message.request
                    self._cancel.clear()
            if busy:
                error = UserError("busy", "The registration process is busy.", "Wait for it, or cancel what it does.")
                self._error(error, message.request, message.job)
            else:
                self._queue.put(message)

    # ----------------------------------------------------------------------------------------- jobs

    def _hello(self) -> None:
        found, error = {}, None
        try:
            from inrreg.devices import devices

            found = devices()
        except ImportError as missing:
            error = missing
        except (OSError, RuntimeError, AttributeError) as broken:  # an uninstallation may leave an empty package
            hint = "Reinstall it with the PyTorch extension's PyTorch Utils module, and restart Slicer."
            error = UserError("torch", f"PyTorch is installed but cannot be loaded ({broken}).", hint)
        # The fastest first: what `auto` takes.
        entries = [{"id": key, "name": found[key]} for key in sorted(found, key="cpu".__eq__)]
        self._events.send("hello", {"versions": versions(), "devices": entries})
        if error is not None:
            self._error(error, "", "")

    def _work(self, message: Message) -> None:
        """Carry out one command in its job folder; whatever happens becomes exactly one closing event."""
        beating = threading.Event()
        names = (message.request, message.job)
        threading.Thread(target=self._beat, args=(beating, *names), daemon=True, name="heartbeat").start()
        error = None
        try:
            folder = Path(message.data["folder"]).resolve()
            data = TASKS[message.kind](folder, message.data, partial(self._emit, *names), self._cancel.is_set)
            kind = "result" if message.kind == "register" else "done"
        except BaseException as raised:
            kind, data, error = "cancelled", {}, raised
        beating.set()
        with self._lock:
            # Before the closing event, since the next command may follow it at once.
            self._request = None
        if error is None or type(error).__name__ == "Cancelled":
            self._events.send(kind, data, *names)
        else:
            self._error(error, *names)

    def _emit(self, request: str, job: str, kind: str, data: dict[str, Any]) -> None:
        self._events.send(kind, data, request, job)

    def _beat(self, stopped: threading.Event, request: str, job: str) -> None:
        start = time.monotonic()
        while True:
            # A step that never gives the interpreter's lock back hears neither cancel nor the end of stdin.
            faulthandler.dump_traceback_later(SEIZED, exit=True, file=sys.__stderr__)
            if stopped.wait(HEARTBEAT):
                break
            self._events.send("heartbeat", {"seconds": time.monotonic() - start}, request, job)
        faulthandler.cancel_dump_traceback_later()

    def _error(self, error: BaseException, request: str, job: str) -> None:
        known = explain(error)
        if known.code == "internal":
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.flush()
        data = {"code": known.code, "message": known.message, "hint": known.hint}
        self._events.send("error", data, request, job)

    # ---------------------------------------------------------------------------------------- alpha

    def _evaluate(self, message: Message) -> None:
        """Answer one `alpha` command, unless a newer one waits."""
        names = (message.request, message.job)
        if message is not self._newest:
            self._events.send("cancelled", {}, *names)
            return
        try:
            data = message.data
            path = write_at(self._result(Path(data["folder"])), data["alpha"], data.get("spacing"), Path(data["path"]))
        except Exception as raised:
            self._error(raised, *names)
        else:
            self._events.send("alpha", {"alpha": data["alpha"], "path": str(path)}, *names)

    def _result(self, folder: Path) -> Any:
        """The deformation in a result folder, read once."""
        from inrreg.deformation import Deformation

        model = folder / "model.json"
        key = str(model), model.stat().st_mtime_ns if model.is_file() else 0
        if self._tuned[0] != key:
            self._tuned = key, Deformation.load(folder)
        return self._tuned[1]


# ------------------------------------------------------------------------------------------- pieces


def warm_up(wanted: Callable[[], bool]) -> None:
    """Load, in the time in which nothing is `wanted`, what the first registration would have to load.

    The first optimizer alone brings a part of torch in that takes as long as torch itself. A command that comes
    meanwhile waits for no more than it would have had to load. What fails here fails there, in words.
    """
    with contextlib.suppress(Exception):
        for step in (_engine, _optimizer):
            if wanted():
                return
            step()


def _engine() -> None:
    importlib.import_module("inrreg.registration")


def _optimizer() -> None:
    import torch

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])


def explain(error: BaseException) -> UserError:
    """What to tell the user about an exception: code, sentence and hint."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ImportError) and error.name:
        package = error.name.split(".")[0]
        if package == "torch":
            hint = "Install it with the PyTorch extension's PyTorch Utils module, then register again."
            return UserError("torch", "PyTorch is not installed, or cannot be loaded.", hint)
        if package != "inrreg":
            return UserError("package", f"The Python package '{package}' is missing.", f"Install '{package}'.")
    text = str(error)
    if is_exhausted(error):
        return exhausted(error)
    if isinstance(error, OSError) and error.errno == 28:
        return UserError("disk", "The disk is full.", "Free some space in the temporary folder.")
    hint = "The log holds the details; please report them."
    return UserError("internal", f"The registration failed unexpectedly ({type(error).__name__}: {text}).", hint)


def write_at(deformation: Any, alpha: Any, spacing: Any, path: Path) -> Path:
    """Write a conditioned deformation's displacement at an alpha, on a grid of about `spacing` mm or its own.

    The file appears complete or not at all. Raises `UserError` (code `alpha`) for what are no such numbers.
    """
    import SimpleITK as sitk

    from inrreg.images import atomic

    for value in (alpha, 1.0 if spacing is None else spacing):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError("alpha", "An alpha and a spacing are numbers.")
    field = deformation.at(alpha, spacing).displacement_field()
    with atomic(path) as partial:
        sitk.WriteImage(field, str(partial), False)
    return path


def finite(value: Any) -> Any:
    """The value as plain JSON: NumPy's numbers as Python's, those that JSON cannot hold as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def guarded_stdout() -> BinaryIO:
    """A private handle to stdout; file descriptor 1 and `sys.stdout` lead to stderr from now on."""
    sys.stdout.flush()
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(private, "wb")


def guarded_stdin() -> BinaryIO:
    """A private handle to stdin; file descriptor 0 is empty from now on.

    On Windows whatever looks at the standard input, as libraries do while they load, would wait behind the read
    that the command thread is in, and so for ever.
    """
    private, empty = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return os.fdopen(private, "rb")


def main() -> None:
    """Entry of `python -m inrreg.worker`; does not return."""
    # Slicer sets it for its own ITK; SimpleITK's would load plugins that belong to Slicer's process.
    os.environ.pop("ITK_AUTOLOAD_PATH", None)
    stdin, stdout = guarded_stdin(), guarded_stdout()
    if "--lasting" in sys.argv[1:]:
        Worker(relay.commands(), open(relay.JOURNAL, "ab")).run()  # noqa: SIM115 - as long as the process
    Worker(stdin, stdout).run()


if __name__ == "__main__":
    main()
