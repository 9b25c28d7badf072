"""Registrations from Python: one worker and one running registration for all of Slicer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from inrreg.protocol import UserError

from . import dependencies
from .folders import JobsFolder, remove_abandoned
from .process import WorkerProcess
from .request import Request
from .run import DONE, FAILED, Run


class Registrations:
    """Starts runs, one at a time, over a worker that stays warm; owns the folder that the jobs lie in."""

    def __init__(self) -> None:
        self.process = WorkerProcess()
        self.run: Run | None = None
        self._folder: JobsFolder | None = None
        self._starting = self._watching = False

    def warm_up(self) -> None:
        """Start the worker ahead of any registration: it knows the devices."""
        self._watch_exit()
        self.process.start()

    def start(self, request: Callable[[], Request]) -> Run:
        """Begin the registration that `request` gives, asked again after an installation: the scene may be another.

        Raises `UserError` where it cannot: busy, wrong input, missing packages.
        """
        if self._starting or (self.run is not None and self.run.active):
            raise UserError("busy", "A registration is already running.", "Wait for it, or cancel it.")
        # An installation asks and reports in dialogs, below which the user may click again.
        self._starting = True
        try:
            request().check()
            dependencies.ensure()
            checked = request()
            checked.check()
            self.run = self._start(checked)
        finally:
            self._starting = False
        return self.run

    def _start(self, request: Request) -> Run:
        if self._folder is None:
            temporary = Path(slicer.app.temporaryPath)
            self._folder = JobsFolder(temporary)
            threading.Thread(target=remove_abandoned, args=(temporary,), daemon=True).start()
        self._watch_exit()
        folder = self._folder.new()
        try:
            return Run(request, self.process, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def wait(self, run: Run) -> Any:
        """Process events until a run has finished; its transform node. Raises `UserError` where it failed."""
        while run.active:
            slicer.app.processEvents()
            time.sleep(0.005)
        if run.state == FAILED:
            raise run.error
        if run.state != DONE:
            raise UserError("cancelled", "The registration was cancelled.")
        return run.transform

    def close(self) -> None:
        """End the run and the worker, remove all files, keep no connection: before the module is reloaded."""
        if self.run is not None:
            self.run.abort()
        self.process.stop()
        if self._watching:
            self._watching = False
            slicer.app.aboutToQuit.disconnect(self.quit)
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _watch_exit(self) -> None:
        if not self._watching:
            self._watching = True
            slicer.app.aboutToQuit.connect(self.quit)

    def quit(self, *_: Any) -> None:
        """Slicer exits: there is no event loop any more that would see to the worker's end."""
        if self.run is not None:
            self.run.abort()
        self.process.stop()
        self.process.wait_for_end()
        self.close()


_shared: Registrations | None = None


def shared() -> Registrations:
    """The one instance that panel and scripts use: a second worker would fight for the same memory."""
    global _shared
    if _shared is None:
        _shared = Registrations()
    return _shared
