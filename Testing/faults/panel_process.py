"""The panel's reader of events without Qt: `INRRegistrationLib.process` over a stand-in for the little it uses."""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from INRRegistrationLib.signal import Signal

FILE = Path(__file__).parents[2] / "INRRegistration" / "INRRegistrationLib" / "process.py"


class Timer:
    """Never fires."""

    def __init__(self, *_: Any) -> None:
        self.timeout = Signal()

    def setSingleShot(self, *_: Any) -> None: ...

    @staticmethod
    def singleShot(*_: Any) -> None: ...

    def start(self, *_: Any) -> None: ...

    def stop(self, *_: Any) -> None: ...


class Bytes(bytes):
    """What a channel holds."""

    def data(self) -> bytes:
        return bytes(self)


class Process:
    """Two channels to read, and what was written."""

    def __init__(self) -> None:
        self.out, self.err, self.written = b"", b"", b""

    def readAllStandardOutput(self) -> Bytes:
        taken, self.out = Bytes(self.out), b""
        return taken

    def readAllStandardError(self) -> Bytes:
        taken, self.err = Bytes(self.err), b""
        return taken

    def write(self, data: bytes) -> None:
        self.written += data


@cache
def module() -> Any:
    """The panel's module, under a name of its own: the real one may be loaded over the real Qt, or will be."""
    known, before = sys.modules.get("qt"), set(sys.modules)
    sys.modules["qt"] = types.SimpleNamespace(QTimer=Timer, QProcess=Process)
    try:
        spec = importlib.util.spec_from_file_location("INRRegistrationLib.process_without_qt", FILE)
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    finally:
        if known is None:
            del sys.modules["qt"]
        else:
            sys.modules["qt"] = known
        for name in set(sys.modules) - before:
            package, _, last = name.rpartition(".")
            if package == "INRRegistrationLib":
                del sys.modules[name]
                delattr(sys.modules[package], last)
    return made


class Reader:
    """A worker's handle that takes the bytes it is given: `events`, `lines` of text, and `hellos`."""

    def __init__(self, request: str) -> None:
        self.handle = module().WorkerProcess()
        self.handle._process, self.handle._request, self.handle._ready = Process(), request, True
        self.events, self.lines, self.hellos = [], [], []
        self.handle.event.connect(self.events.append)
        self.handle.output.connect(self.lines.append)
        self.handle.hello.connect(self.hellos.append)
        self._inbox = module().Inbox()

    def take(self, data: bytes) -> None:
        """What arrives in one piece on stdout."""
        self.handle._process.out = data
        self.handle._read(self.handle._process, self._inbox)
        while self._inbox.lines:
            self.handle._next_turn(self.handle._process, self._inbox)
