"""What panel and scripts start: one worker and one operation at a time for all of Slicer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import slicer

from inrreg.protocol import UserError

from . import dependencies, results
from .background import aside
from .evaluation import Evaluation, Judged
from .folders import JobsFolder, remove_abandoned, trim
from .operation import DONE, FAILED, Operation
from .places import Host
from .process import WorkerProcess
from .request import Request
from .run import Run
from .signal import Signal


class Registrations:
    """Starts operations, one at a time, over a worker that stays warm; owns the folder that the jobs lie in.

    Signal: `changed` (), when an operation has begun or ended.
    """

    def __init__(self) -> None:
        self.process = WorkerProcess()
        """The worker on this computer."""
        self._remote: WorkerProcess | None = None
        self.changed = Signal()
        self.operation: Operation | None = None
        self._folder: JobsFolder | None = None
        self._starting = self._watching = False

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return self._starting or (self.operation is not None and self.operation.active)

    def warm_up(self) -> None:
        """Start the worker ahead of any registration: it knows the devices."""
        self._watch_exit()
        self.process.start()

    def worker(self, host: str) -> WorkerProcess:
        """The worker on a host, '' for this computer; the one on another host ends. Raises `UserError` for no name."""
        if not host:
            return self.process
        if self._remote is None or self._remote.place.name != host:
            place = Host(host)
            if self._remote is not None:
                self._remote.stop()
            self._remote = WorkerProcess(place)
        return self._remote

    def start(self, request: Callable[[], Request]) -> Run:
        """Begin the registration that `request` gives, asked again after an installation: the scene may be another.

        Raises `UserError` where it cannot: busy, wrong input, missing packages.
        """

        def make(process: WorkerProcess, folder: Path) -> Run:
            checked = request()
            checked.check()
            return Run(checked, process, folder)

        first = request()
        first.check()
        return self.begin(make, first.host)

    def evaluate(self, judged: Callable[[], Judged], report: str = "") -> Evaluation:
        """Begin to judge the result that `judged` gives, asked again after an installation; `report` names a file.

        Raises `UserError` where it cannot: busy, wrong input, missing packages.
        """

        def make(process: WorkerProcess, folder: Path) -> Evaluation:
            checked = judged()
            checked.check()
            return Evaluation(checked, process, folder, report)

        judged().check()
        return self.begin(make, packages=dependencies.REPORT if report else {})

    def begin(
        self,
        make: Callable[[WorkerProcess, Path], Operation],
        host: str = "",
        packages: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """Begin the operation that `make(process, folder)` gives, once what it needs, and `packages`, are there.

        On a `host` they are not this computer's to see to.

        Raises `UserError` where it cannot: busy, missing packages, or what `make` raises.
        """
        if self.busy:
            raise UserError("busy", "An operation is already running.", "Wait for it, or cancel it.")
        # An installation asks and reports in dialogs, below which the user may click again.
        self._starting = True
        try:
            if not host:
                dependencies.ensure(packages)
            self.operation = operation = self._make(make, self.worker(host))
        finally:
            self._starting = False
        operation.finished.connect(self._trim)
        operation.finished.connect(self.changed.emit)
        self.changed.emit()
        return operation

    def _make(self, make: Callable[[WorkerProcess, Path], Operation], process: WorkerProcess) -> Operation:
        folder = self.new_folder()
        try:
            return make(process, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def new_folder(self) -> Path:
        """An empty folder that goes when Slicer exits. Raises `UserError` (code `disk`) where there can be none."""
        temporary = Path(slicer.app.temporaryPath)
        self._watch_exit()
        try:
            if self._folder is None:
                self._folder = JobsFolder(temporary)
                scene = slicer.mrmlScene
                self._observer = scene.AddObserver(scene.EndCloseEvent, self._trim)
                aside(remove_abandoned, temporary)
            return self._folder.new()
        except OSError as error:
            hint = "Free some space there, or choose another temporary folder in Slicer's settings."
            raise UserError("disk", f"Nothing can be written in {temporary} ({error.strerror}).", hint) from None

    def _trim(self, *_: Any) -> None:
        """Remove what no transform in the scene needs any more; nothing of it is written or read now."""
        if self._folder is not None and not self.busy:
            transforms = slicer.util.getNodesByClass("vtkMRMLTransformNode")
            needed = {Path(path).parent for node in transforms if (path := node.GetAttribute(results.RESULT))}
            aside(trim, self._folder.jobs(), needed)

    def wait(self, operation: Operation) -> None:
        """Process events until an operation is done. Raises `UserError` where it failed or was cancelled."""
        while operation.active:
            slicer.app.processEvents()
            time.sleep(0.005)
        if operation.state == FAILED:
            raise operation.error
        if operation.state != DONE:
            raise UserError("cancelled", "This was cancelled.")

    def close(self) -> None:
        """End the operation and the worker, remove all files, keep no connection: before the module is reloaded."""
        if self.operation is not None:
            self.operation.abort()
        self._stop()
        if self._watching:
            self._watching = False
            slicer.app.aboutToQuit.disconnect(self.quit)
        if self._folder is not None:
            slicer.mrmlScene.RemoveObserver(self._observer)
            self._folder.remove()
            self._folder = None

    def _watch_exit(self) -> None:
        if not self._watching:
            self._watching = True
            slicer.app.aboutToQuit.connect(self.quit)

    def quit(self, *_: Any) -> None:
        """Slicer exits: there is no event loop any more that would see to the worker's end."""
        if self.operation is not None:
            self.operation.abort()
        self._stop()
        self.process.wait_for_end()
        self.close()

    def _stop(self) -> None:
        self.process.stop()
        if self._remote is not None:
            self._remote.stop()


_shared: Registrations | None = None


def shared() -> Registrations:
    """The one instance that panel and scripts use: a second worker would fight for the same memory."""
    global _shared
    if _shared is None:
        _shared = Registrations()
    return _shared
