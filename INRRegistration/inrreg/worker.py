"""The worker process: takes commands on stdin, runs one registration at a time, answers with events.

Run as `python -m inrreg.worker`. It stays alive between jobs, so that importing torch and opening a GPU
context is paid once. Events go, one JSON line each, to what was stdout when the process began; whatever
libraries print lands on stderr. End of stdin ends the process at once and from any state: the panel that
owned it is gone, however it went.

Commands are `inrreg.protocol.COMMANDS`. `cancel` names by its request id the job to cancel. `register` may
carry `resample: true`: the moving image is then also resampled onto the fixed grid, and the `result` event
names that file as `resampled`. `alpha` evaluates a conditioned result, which stays in memory for the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import math
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from inrreg import protocol
from inrreg.protocol import Job, Message, UserError
from inrreg.versions import versions

HEARTBEAT = 1.0
"""Seconds between heartbeats during a job."""

SEIZED = 30.0
"""Seconds without a heartbeat after which a process that runs no Python any more ends itself."""

RESULT_FILES = ("displacement.nrrd", "model.safetensors", "model.json", "metrics.json", "job.json")
"""What a result folder holds at least, before it is announced."""


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
    """One process's state: at most one job, which the command thread can cancel at any time."""

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
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
        while True:
            message = self._queue.get()
            if message.kind == "alpha":
                self._evaluate(message)
            else:
                self._register(message)

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
                error = UserError("busy", "A registration is already running.", "Wait for it, or cancel it.")
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
        except (OSError, RuntimeError) as broken:
            hint = "Reinstall it with the PyTorch extension's PyTorch Utils module, and restart Slicer."
            error = UserError("torch", f"PyTorch is installed but cannot be loaded ({broken}).", hint)
        # The fastest first: what `auto` takes.
        entries = [{"id": key, "name": found[key]} for key in sorted(found, key="cpu".__eq__)]
        self._events.send("hello", {"versions": versions(), "devices": entries})
        if error is not None:
            self._error(error, "", "")

    def _register(self, message: Message) -> None:
        """Run one job from its folder; whatever happens becomes exactly one closing event."""
        beating = threading.Event()
        names = (message.request, message.job)
        threading.Thread(target=self._beat, args=(beating, *names), daemon=True, name="heartbeat").start()
        error = None
        try:
            kind, data = "result", self._run_job(message)
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

    def _run_job(self, message: Message) -> dict[str, Any]:
        folder = Path(message.data["folder"]).resolve()

        def emit(kind: str, data: dict[str, Any]) -> None:
            self._events.send(kind, data, message.request, message.job)

        job = Job.load(folder)
        # Before the working directory changes: they are found from there.
        from inrreg.optimization import Cancelled
        from inrreg.registration import register

        with working_in(folder):
            job = dataclasses.replace(job, **{name: os.path.relpath(path) for name, path in job.files().items()})
            output = Path("result")

            def stop_if_cancelled() -> None:
                if self._cancel.is_set():
                    shutil.rmtree(output, ignore_errors=True)
                    raise Cancelled

            stop_if_cancelled()
            metrics = register(job, output, emit=emit, cancelled=self._cancel.is_set)
            check_result(output)
            data = {"folder": str(folder / output), "metrics": metrics}
            stop_if_cancelled()
            if message.data.get("resample"):
                data["resampled"] = str(folder / resample(job, output, Path("resampled.nrrd"), self._cancel.is_set))
                stop_if_cancelled()
        return data

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
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        hint = "Choose the CPU as device, close other programs that use the GPU, or use smaller images."
        return UserError("gpu-memory", "The graphics card has too little free memory for this registration.", hint)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        hint = "Close other programs, or crop or resample the images."
        return UserError("memory", "The computer has too little free memory for this registration.", hint)
    if isinstance(error, OSError) and error.errno == 28:
        return UserError("disk", "The disk is full.", "Free some space in the temporary folder.")
    hint = "The log holds the details; please report them."
    return UserError("internal", f"The registration failed unexpectedly ({type(error).__name__}: {text}).", hint)


def check_result(folder: Path) -> None:
    """Read a result folder back. Raises `UserError` (code `result`) where it is incomplete or damaged."""
    import numpy as np
    import SimpleITK as sitk

    hint = "Is the disk full? The log holds the details."
    missing = [name for name in RESULT_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError("result", f"The result lacks {', '.join(missing)}.", hint)
    try:
        field = sitk.ReadImage(str(folder / "displacement.nrrd"))
    except RuntimeError as error:
        raise UserError("result", f"The result cannot be read back ({error}).", hint) from None
    if field.GetNumberOfComponentsPerPixel() != 3 or not np.isfinite(sitk.GetArrayViewFromImage(field)).all():
        raise UserError("result", "The resulting displacement field holds values that are no numbers.", hint)


def resample(job: Job, result: Path, path: Path, cancelled: Callable[[], bool] = lambda: False) -> Path:
    """Write the moving image resampled onto the fixed grid with the result's displacement; returns `path`.

    Cancelled on the way it writes nothing.
    """
    import SimpleITK as sitk

    from inrreg.warping import padding_value

    # ITK's own transform, the whole grid at once: it may hold a hundred million voxels.
    field = sitk.ReadImage(str(result / "displacement.nrrd"), sitk.sitkVectorFloat64)
    moving = sitk.ReadImage(job.moving)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(sitk.ReadImage(job.fixed))
    resampler.SetTransform(sitk.DisplacementFieldTransform(field))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(padding_value(moving))
    resampler.SetNumberOfThreads(job.threads or os.cpu_count() or 1)
    resampler.AddCommand(sitk.sitkProgressEvent, lambda: resampler.Abort() if cancelled() else None)
    try:
        warped = resampler.Execute(moving)
    except RuntimeError:  # SimpleITK's word for an abort, too
        if not cancelled():
            raise
        return path
    partial = path.with_name("partial-" + path.name)
    sitk.WriteImage(warped, str(partial), False)
    partial.replace(path)
    return path


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The folder as working directory, so that relative names will do.

    On Windows SimpleITK's readers fail on absolute names with letters beyond the code page. Left again at the end,
    since Windows removes no folder that a process works in.
    """
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        hint = "Choose another temporary folder in Slicer's settings, with a shorter name."
        raise UserError("file", f"The folder {folder} cannot be used ({error.strerror}).", hint) from None
    try:
        yield
    finally:
        os.chdir(before)


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
    Worker(guarded_stdin(), guarded_stdout()).run()


if __name__ == "__main__":
    main()
