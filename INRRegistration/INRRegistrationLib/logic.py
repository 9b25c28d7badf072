"""Registrations from Python: one worker and one running registration for all of Slicer."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import slicer

from inrreg.protocol import UserError

from . import dependencies
from .process import WorkerProcess
from .request import Request
from .run import DONE, FAILED, Run


class Registrations:
    """Starts runs, one at a time, over a worker that stays warm; owns the folder that the jobs lie in."""

    def __init__(self) -> None:
        self.process = WorkerProcess()
        self.run: Run | None = None
        self._folder: Path | None = None
        self._count = 0
        slicer.app.aboutToQuit.connect(self.close)

    def start(self, request: Request) -> Run:
        """Begin a registration. Raises `UserError` where it cannot: busy, wrong input, missing packages."""
        if self.run is not None and self.run.active:
            raise UserError("busy", "A registration is already running.", "Wait for it, or cancel it.")
        request.check()
        dependencies.ensure()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="INRRegistration-", dir=slicer.app.temporaryPath))
        self._count += 1
        folder = self._folder / f"job-{self._count}"
        folder.mkdir()
        try:
            self.run = Run(request, self.process, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.run

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

    def close(self, *_: Any) -> None:
        """End the run and the worker, remove all files: before exit and before the module is reloaded."""
        if self.run is not None:
            self.run.abort()
        self.process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


_shared: Registrations | None = None


def shared() -> Registrations:
    """The one instance that panel and scripts use: a second worker would fight for the same memory."""
    global _shared
    if _shared is None:
        _shared = Registrations()
    return _shared
