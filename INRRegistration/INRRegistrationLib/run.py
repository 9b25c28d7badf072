"""One registration on its way: job folder, worker, result, scene."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import slicer

from inrreg import protocol
from inrreg.protocol import Message, UserError

from . import hierarchy, nrrd, results
from .background import Task
from .process import WorkerProcess
from .request import Request
from .signal import Signal

WRITING, RUNNING, CANCELLING, LOADING = "writing", "running", "cancelling", "loading"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
RESULT = "INRRegistration.Result"
"""Attribute of our transforms with the folder of the engine's result."""
NODES = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "fixed_labels",
    "moving_labels",
    "output_transform",
    "output_volume",
)
"""Entries of a request that the end of a run needs."""


class Run:
    """Begins when made; `finished` is emitted once, when `state` is `done`, `cancelled` or `failed`.

    Signals: `progress` (data of the event), `alive` (seconds at work, each second; None when the worker has
    gone silent), `log` (line of text), `finished` (). The scene changes only when it is done; then `transform`
    and `volume` are the resulting nodes, and `warnings` says what to look at. After a failure `error` says why.
    Nodes are held by id while it runs: the user may delete them.
    """

    def __init__(self, request: Request, process: WorkerProcess, folder: Path) -> None:
        self.progress, self.alive, self.log, self.finished = Signal(), Signal(), Signal(), Signal()
        self.state = WRITING
        self.error: UserError | None = None
        self.metrics: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.transform = self.volume = None
        self.seconds = 0.0
        self._start = time.monotonic()
        self._folder, self._process = folder, process
        self._resample = request.resample
        self._ids = {name: node.GetID() for name in NODES if (node := getattr(request, name)) is not None}
        self._attributes = {"Preset": request.preset, "Version": str(protocol.VERSION)}
        self._placement = hierarchy.placement(request.fixed, request.moving)
        write = request.gather(folder, folder.name)
        # While the files are written: a cold start takes seconds.
        process.start()
        for signal, slot in self._connections():
            signal.connect(slot)
        self._observer = slicer.mrmlScene.AddObserver(slicer.mrmlScene.StartCloseEvent, self._on_scene_close)
        self._task = Task(write, self._on_written)

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

    # ---------------------------------------------------------------------------------------- stages

    def _on_written(self, written: Any, error: BaseException | None) -> None:
        if error is not None:
            self._fail(_as_user_error(error))
            return
        job, notes = written
        for note in notes:
            self.log.emit(note)
        self.state = RUNNING
        self._process.submit(self._folder, job.id, resample=self._resample)

    def _on_event(self, message: Message) -> None:
        if self.state not in (RUNNING, CANCELLING):
            return
        data = message.data
        if message.kind == "progress":
            self.progress.emit(data)
        elif message.kind == "heartbeat":
            self.alive.emit(data["seconds"])
        elif message.kind == "warning":
            self.warnings.append(data["message"])
            self.log.emit(f"Warning: {data['message']}")
        elif message.kind == "log":
            self.log.emit(data["text"])
        elif message.kind == "cancelled" or self.state == CANCELLING:
            # However it ended meanwhile: the user wants none of it.
            self._finish(CANCELLED)
        elif message.kind == "result":
            self.state, self.metrics = LOADING, data["metrics"]
            self._task = Task(lambda: self._read(data), self._on_read)
        elif message.kind == "error":
            if data["code"] in ("torch", "package"):
                # What it failed to import it would not find after an installation either.
                self._process.stop()
            self._fail(UserError(data["code"], data["message"], data["hint"]))

    def _read(self, data: dict[str, Any]) -> tuple[Any, Any]:
        """Off the GUI thread: the displacement grid and the resampled volume."""
        grid = results.read_grid(Path(data["folder"]) / "displacement.nrrd")
        return grid, nrrd.read(Path(data["resampled"])) if self._resample else None

    def _on_read(self, read: Any, error: BaseException | None) -> None:
        if error is not None:
            self._fail(_as_user_error(error))
            return
        scene = slicer.mrmlScene
        nodes = {name: scene.GetNodeByID(identifier) for name, identifier in self._ids.items()}
        if nodes["fixed"] is None or nodes["moving"] is None:
            hint = "Choose the volumes and register again."
            self._fail(UserError("scene", "A volume was deleted while it was registered.", hint))
            return
        if hierarchy.placement(nodes["fixed"], nodes["moving"]) != self._placement:
            hint = "Leave their transforms alone meanwhile, and register again."
            self._fail(UserError("scene", "A volume was moved while it was registered.", hint))
            return
        try:
            self._show(nodes, *read)
        except Exception as raised:
            self._fail(_as_user_error(raised))
        else:
            self._finish(DONE)

    def _show(self, nodes: dict[str, Any], grid: Any, voxels: Any) -> None:
        """Change the scene, all of it or nothing."""
        fixed, moving, output = nodes["fixed"], nodes["moving"], nodes.get("output_transform")
        moving_side, fixed_side = (
            [node for name in ("mask", "labels") if (node := nodes.get(f"{side}_{name}"))]
            for side in ("moving", "fixed")
        )
        replaced = output.GetAttribute(RESULT) if output is not None else None
        with contextlib.ExitStack() as undo:
            volume = None
            if voxels is not None:
                shared = hierarchy.frame(fixed, moving)
                volume = results.show_volume(*voxels, nodes.get("output_volume"), fixed, moving, shared, undo)
            attributes = self._attributes | {"Result": str(self._folder / "result")}
            transform = results.show_transform(results.grid_transform(*grid), output, fixed, moving, attributes, undo)
            hierarchy.place(transform, fixed, moving, moving_side, fixed_side, undo)
            undo.pop_all()
        self.transform, self.volume = transform, volume
        if replaced:
            self._forget_result(Path(replaced))

    def _forget_result(self, folder: Path) -> None:
        """Remove the files of a replaced result, unless a copy of its node needs them, or they are the user's own."""
        nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
        needed = str(folder) in [node.GetAttribute(RESULT) for node in nodes]
        if folder.is_relative_to(self._folder.parent) and not needed:
            shutil.rmtree(folder.parent, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ ends

    def _fail(self, error: UserError) -> None:
        self.error = error
        self._finish(FAILED)

    def _finish(self, state: str) -> None:
        self._task.abandon()
        for signal, slot in self._connections():
            signal.disconnect(slot)
        slicer.mrmlScene.RemoveObserver(self._observer)
        self.state, self.seconds = state, time.monotonic() - self._start
        _tidy(self._folder, keep_result=state == DONE)
        self.finished.emit()

    def _connections(self) -> list[tuple[Signal, Any]]:
        process = self._process
        return [
            (process.event, self._on_event),
            (process.ended, self._on_ended),
            (process.silent, self._on_silent),
            (process.output, self.log.emit),
        ]

    def _on_silent(self) -> None:
        self.alive.emit(None)

    def _on_ended(self, error: UserError) -> None:
        if self.state == CANCELLING:
            self._finish(CANCELLED)
        elif self.state != LOADING:
            # While loading, all that was to come from the worker is on disk.
            self._fail(error)

    def _on_scene_close(self, *_: Any) -> None:
        self.abort()


def _tidy(folder: Path, keep_result: bool) -> None:
    """Remove a job's images, and its result unless it is to be kept.

    What another program holds open stays until Slicer exits: no reason to lose a result over it.
    """
    if not keep_result:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def _as_user_error(error: BaseException) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        hint = "Is the disk of the temporary folder full?"
        return UserError("disk", f"A file could not be written or read ({error}).", hint)
    return UserError("internal", f"The registration failed unexpectedly ({error!r}).", "Please report this.")
