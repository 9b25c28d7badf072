"""Shows a conditioned result at any alpha: at once from coarse fields, exactly once alpha rests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer

from inrreg.protocol import Message, UserError

from . import alphafields, embedded, results
from .alphafields import AlphaFields
from .background import Task
from .logic import Registrations
from .results import ALPHA, RESULT
from .signal import Signal

REST = 250
"""Milliseconds without a change after which the exact field is asked for."""
METRICS = "INRRegistration.Metrics"
"""Attribute with what is known of a transform's alpha, as JSON."""


class Tuner:
    """Moves one transform node over alpha. It holds the node by id: the user may delete it.

    Signals: `changed` (), when there are fields to tune with, or none any more; `moved` (), when the node shows another
    alpha, or the same one exactly; `failed` (error), when the exact field could not be had: the coarse one stays.
    """

    def __init__(self, registrations: Registrations) -> None:
        self.changed, self.moved, self.failed = Signal(), Signal(), Signal()
        self.fields: AlphaFields | None = None
        self._loaded: AlphaFields | None = None
        """The fields without what has been asked since."""
        self.alpha = 0.0
        self.exact = False
        """Whether the node shows the network's own field at `alpha`, not one interpolated between coarse ones."""
        self.settled = False
        """Whether nothing better than what is shown is to be expected."""
        self._registrations = registrations
        self._key: tuple[Any, ...] = ()
        self._array: np.ndarray | None = None
        self._coarse: Any = None
        self._asked: tuple[float, Path] | None = None
        self._load = self._read = None
        self._rest = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST)
        self._rest.timeout.connect(self._on_rest)
        registrations.process.answered.connect(self._on_answered)

    @property
    def transform(self) -> Any:
        """The node, None where there is none to tune."""
        return slicer.mrmlScene.GetNodeByID(self._key[0]) if self._key else None

    def take(self, transform: Any) -> None:
        """Tune this node from now on; None for none. Its fields are read off the GUI thread."""
        text = transform.GetNodeReference(embedded.FIELDS) if transform is not None else None
        key = (transform.GetID(), transform.GetAttribute(RESULT), text.GetID(), text.GetMTime()) if text else ()
        if _source(key) == _source(self._key):
            return
        self.release()
        self._key = key
        if not key:
            return
        self.alpha = results.alpha_of(transform) or 0.0
        self.exact = self.settled = True
        folder = Path(key[1])
        if (folder / alphafields.FILE).is_file() and (folder / "alpha_00.nrrd").is_file():
            self._load = Task(lambda: alphafields.load(folder), self._on_loaded)
        else:
            packed = text.GetText()
            self._load = Task(lambda: embedded.unpack_fields(packed), self._on_loaded)

    def release(self) -> None:
        """Tune nothing any more; the node stays as it is."""
        for task in (self._load, self._read):
            if task is not None:
                task.abandon()
        self._rest.stop()
        self._key, self._array, self._coarse, self._asked = (), None, None, None
        if self.fields is not None:
            self.fields = self._loaded = None
            self.changed.emit()

    def judge(self, landmarks: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Have the curves tell the error of landmarks, (N, 3) RAS of both sides, unless the training knew some."""
        if self._loaded is None or "error" in self._loaded.curves:
            return
        curves = dict(self._loaded.curves)
        if landmarks is not None and len(landmarks[0]):
            curves["error"] = self._loaded.errors(*landmarks)
        if curves != self.fields.curves:
            self.fields = dataclasses.replace(self._loaded, curves=curves)
            self.changed.emit()

    def resume(self) -> None:
        """Ask for the exact field that is still owed: while something else was done, nothing could be asked."""
        if self.fields is not None and not self.settled:
            self._rest.start()

    def close(self) -> None:
        """Let go of everything."""
        self.release()
        self._registrations.process.answered.disconnect(self._on_answered)

    @property
    def range(self) -> tuple[float, float]:
        """The trained range of alpha."""
        return float(self.fields.alphas[0]), float(self.fields.alphas[-1])

    def drag(self, alpha: float) -> None:
        """Show the interpolated field at `alpha`, clamped to the trained range, and the exact one once it rests."""
        node = self.transform
        if self.fields is None or node is None:
            return
        self.alpha = float(np.clip(alpha, *self.range))
        self.exact = self.settled = False
        if self._array is None:
            self._array = np.empty(self.fields.vectors.shape[1:], np.float32)
            self._coarse = results.grid_transform(self._array, self.fields.matrix)
        self.fields.interpolate(self.alpha, self._array)
        self._coarse.GetDisplacementGrid().GetPointData().GetScalars().Modified()
        self._coarse.GetDisplacementGrid().Modified()
        if node.GetTransformFromParent() is self._coarse:
            self._coarse.Modified()
        else:
            node.SetAndObserveTransformFromParent(self._coarse)
        self._rest.start()
        if not self._registrations.process.running:
            # It is there by the time that the slider rests.
            with contextlib.suppress(UserError):
                self._registrations.warm_up()
        self.moved.emit()

    def show(self, alpha: float, grid: Any) -> None:
        """Show a field that is known exactly: the displacement grid of a transform node that keeps it."""
        node = self.transform
        if node is None:
            return
        self._rest.stop()
        self._asked = None
        self.alpha, self.exact, self.settled = alpha, True, True
        shown = results.sharing(grid.GetTransformFromParent())
        node.SetAndObserveTransformFromParent(shown)
        self._describe(node)
        self.moved.emit()

    def _describe(self, node: Any) -> None:
        with slicer.util.NodeModify(node):
            node.SetAttribute(ALPHA, repr(self.alpha))
            node.SetAttribute(METRICS, json.dumps(self.fields.figures(self.alpha)))

    # -------------------------------------------------------------------------------------- exactly

    def _on_loaded(self, fields: AlphaFields | None, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
        elif fields is not None and self.transform is not None:
            self.fields = self._loaded = fields
            self._describe(self.transform)
            self.changed.emit()

    def _on_rest(self, *_: Any) -> None:
        node = self.transform
        if node is None or self.fields is None or self._registrations.busy:
            return
        self._describe(node)
        try:
            folder = results.folder_of(node)
        except (UserError, OSError) as error:
            self._fail(error)
            return
        # A folder that was restored is the same result.
        self._key = (self._key[0], str(folder), *self._key[2:])
        path = folder.parent / f"{uuid.uuid4().hex}.nrrd"
        self._asked = self.alpha, path
        try:
            self._registrations.process.ask("alpha", folder, alpha=self.alpha, path=str(path))
        except UserError as error:
            self._fail(error)

    def _on_answered(self, message: Message) -> None:
        if self._asked is None:
            return
        alpha, path = self._asked
        if message.kind == "error" and alpha == self.alpha:
            if message.data["code"] in ("torch", "package"):
                # What it failed to import it would not find after an installation either.
                self._registrations.process.stop()
            self._fail(UserError(message.data["code"], message.data["message"], message.data["hint"]))
        elif message.kind == "alpha":
            self._read = Task(lambda: _consume(path), lambda grid, error: self._on_read(alpha, grid, error))

    def _on_read(self, alpha: float, grid: Any, error: BaseException | None) -> None:
        node = self.transform
        if node is None or alpha != self.alpha or self.exact:
            return
        if error is not None:
            self._fail(error)
            return
        self.exact = self.settled = True
        node.SetAndObserveTransformFromParent(results.grid_transform(*grid))
        self.moved.emit()

    def _fail(self, error: BaseException) -> None:
        self.settled = True
        known = error if isinstance(error, UserError) else UserError("alpha", f"No exact field ({error}).")
        self.failed.emit(known)


def _source(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells one result from another: its texts, wherever its files lie."""
    return key[:1] + key[2:]


def _consume(path: Path) -> Any:
    """Read a file that only we know of, and remove it."""
    try:
        return results.read_grid(path)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
