"""One registration on its way: job folder, worker, result, scene."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import slicer

from inrreg import protocol
from inrreg.protocol import UserError

from . import embedded, export, hierarchy, nrrd, renewal, results
from .operation import DONE, RUNNING, Operation, remove_files
from .preview import Preview
from .process import WorkerProcess
from .request import Request

NODES = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "fixed_labels",
    "moving_labels",
    "sliding",
    "rigid",
    "exclude",
    "fixed_landmarks",
    "moving_landmarks",
    "fixed_structures",
    "moving_structures",
    "output_transform",
    "output_volume",
)
"""Entries of a request that the end of a run needs."""
DRAWN = ("mask", "labels", "landmarks", "structures")
"""What is drawn on a volume, and goes with it."""
INPUTS = NODES[: NODES.index("fixed_landmarks")]
"""Those of them whose voxels count."""


class Run(Operation):
    """A registration. When done, `transform` and `volume` are the resulting nodes, and `metrics` its figures."""

    command = "register"

    def __init__(self, request: Request, process: WorkerProcess, folder: Path) -> None:
        self.metrics: dict[str, Any] = {}
        self.transform = self.volume = None
        self._resample = request.resample
        self._shown = Preview(self._show_preview, self._on_preview_failed) if request.preview else None
        self._ids = {name: node.GetID() for name in NODES if (node := getattr(request, name)) is not None}
        self._attributes = {"Preset": request.preset, "Version": str(protocol.VERSION), "Evaluation": None}
        self._placement = hierarchy.placement(request.fixed, request.moving)
        self._voxels = {name: export.state(getattr(request, name)) for name in INPUTS if name in self._ids}
        write = request.gather(folder, folder.name)
        entries = {"resample": request.resample, "preview": request.preview}
        super().__init__(process, folder, lambda: (entries, write()))

    def end_preview(self) -> None:
        """Show no more previews; the scene is as it was."""
        if self._shown is not None:
            self._shown.undo()
            self._shown = None

    def _read(self, data: dict[str, Any]) -> tuple[Any, Any, dict[str, str]]:
        """The displacement grid, the resampled volume, and what the scene keeps of the model."""
        self.metrics = data["metrics"]
        folder = Path(data["folder"])
        grid = results.read_grid(folder / "displacement.nrrd")
        return grid, nrrd.read(Path(data["resampled"])) if self._resample else None, embedded.pack(folder)

    def _nodes(self) -> dict[str, Any]:
        return {name: slicer.mrmlScene.GetNodeByID(identifier) for name, identifier in self._ids.items()}

    def _preview(self, data: dict[str, Any]) -> None:
        if self._shown is not None and self.state == RUNNING:
            place, folder = self._process.place, self._folder
            self._shown.take(lambda: results.read_grid(Path(place.fetch(folder, data)["path"])))

    def _on_preview_failed(self, error: Exception) -> None:
        self.log.emit(f"No preview can be shown ({error!r}).")

    def _show_preview(self, grid: Any, undo: contextlib.ExitStack) -> Any:
        """Put the moving volume under a coarse field, in the place that its result will have."""
        nodes = self._nodes()
        fixed, moving = nodes["fixed"], nodes["moving"]
        if fixed is None or moving is None:
            return None
        made = results.grid_transform(*grid)
        node = results.show_transform(made, nodes.get("output_transform"), fixed, moving, {}, undo)
        hierarchy.place(node, fixed, moving, *self._sides(nodes), undo)
        return node

    def _sides(self, nodes: dict[str, Any]) -> list[list[Any]]:
        """Masks, labels and landmarks of the moving and of the fixed volume."""
        return [[node for name in DRAWN if (node := nodes.get(f"{side}_{name}"))] for side in ("moving", "fixed")]

    def _show(self, read: tuple[Any, Any, dict[str, str]]) -> Iterator[None]:
        grid, voxels, packed = read
        nodes = self._nodes()
        fixed, moving, output = nodes["fixed"], nodes["moving"], nodes.get("output_transform")
        if fixed is None or moving is None:
            hint = "Choose the volumes and register again."
            raise UserError("scene", "A volume was deleted while it was registered.", hint)
        if hierarchy.placement(fixed, moving) != self._placement:
            hint = "Leave their transforms alone meanwhile, and register again."
            raise UserError("scene", "A volume was moved while it was registered.", hint)
        shown = self._shown.node if self._shown is not None else None
        if shown is not None and shown.GetScene() is None:
            shown = None  # the user has deleted it
        with contextlib.ExitStack() as undo:
            volume = None
            if voxels is not None:
                shared = hierarchy.frame(fixed, moving)
                volume = results.show_volume(*voxels, nodes.get("output_volume"), fixed, moving, shared, undo)
                yield  # of a large pair each takes a while
            attributes = self._attributes | {"Result": str(self._folder / "result"), "Alpha": self._alpha()}
            attributes["Metrics"] = None  # of what was there before
            made = results.grid_transform(*grid)
            transform = results.show_transform(made, output or shown, fixed, moving, attributes, undo)
            yield
            embedded.show(packed, transform, undo)
            undo.callback(transform.SetNodeReferenceID, renewal.VOLUME, transform.GetNodeReferenceID(renewal.VOLUME))
            transform.SetNodeReferenceID(renewal.VOLUME, volume.GetID() if volume is not None else None)
            if volume is not None:
                undo.callback(volume.SetAttribute, results.ALPHA, volume.GetAttribute(results.ALPHA))
                volume.SetAttribute(results.ALPHA, self._alpha())
            hierarchy.place(transform, fixed, moving, *self._sides(nodes), undo)
            undo.pop_all()
        if self._shown is not None:
            self._shown.keep()
        embedded.remove_orphans()
        self.transform, self.volume = transform, volume
        self.warnings += self._changed(nodes)

    def _alpha(self) -> str | None:
        chosen = self.metrics.get("alpha")
        return repr(float(chosen["chosen"])) if chosen else None

    def _changed(self, nodes: dict[str, Any]) -> list[str]:
        """What to tell of inputs that were edited, or whose voxels were replaced, meanwhile."""
        text = "'{}' was changed while it was registered: the result is that of what it was before. Register again."
        return [
            text.format(node.GetName())
            for name, before in self._voxels.items()
            if (node := nodes[name]) is not None and export.state(node) != before
        ]

    def _tidy(self) -> None:
        """Keep the result of a registration that is done; of any other, not even a preview."""
        if self.state != DONE:
            self.end_preview()
        if self.state == DONE:
            remove_files(self._folder)
        else:
            super()._tidy()
