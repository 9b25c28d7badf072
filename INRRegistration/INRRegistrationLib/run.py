"""One registration on its way: job folder, worker, result, scene."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import slicer

from inrreg import protocol
from inrreg.protocol import UserError

from . import hierarchy, nrrd, results
from .operation import DONE, Operation, remove_files
from .process import WorkerProcess
from .request import Request
from .results import RESULT

NODES = (
    "fixed",
    "moving",
    "fixed_mask",
    "moving_mask",
    "fixed_labels",
    "moving_labels",
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


class Run(Operation):
    """A registration. When done, `transform` and `volume` are the resulting nodes, and `metrics` its figures."""

    command = "register"

    def __init__(self, request: Request, process: WorkerProcess, folder: Path) -> None:
        self.metrics: dict[str, Any] = {}
        self.transform = self.volume = None
        self._resample = request.resample
        self._ids = {name: node.GetID() for name in NODES if (node := getattr(request, name)) is not None}
        self._attributes = {"Preset": request.preset, "Version": str(protocol.VERSION), "Evaluation": None}
        self._placement = hierarchy.placement(request.fixed, request.moving)
        write = request.gather(folder, folder.name)
        super().__init__(process, folder, lambda: ({"resample": self._resample}, write()))

    def _read(self, data: dict[str, Any]) -> tuple[Any, Any]:
        """The displacement grid and the resampled volume."""
        self.metrics = data["metrics"]
        grid = results.read_grid(Path(data["folder"]) / "displacement.nrrd")
        return grid, nrrd.read(Path(data["resampled"])) if self._resample else None

    def _show(self, read: tuple[Any, Any]) -> None:
        grid, voxels = read
        scene = slicer.mrmlScene
        nodes = {name: scene.GetNodeByID(identifier) for name, identifier in self._ids.items()}
        fixed, moving, output = nodes["fixed"], nodes["moving"], nodes.get("output_transform")
        if fixed is None or moving is None:
            hint = "Choose the volumes and register again."
            raise UserError("scene", "A volume was deleted while it was registered.", hint)
        if hierarchy.placement(fixed, moving) != self._placement:
            hint = "Leave their transforms alone meanwhile, and register again."
            raise UserError("scene", "A volume was moved while it was registered.", hint)
        moving_side, fixed_side = (
            [node for name in DRAWN if (node := nodes.get(f"{side}_{name}"))] for side in ("moving", "fixed")
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

    def _tidy(self) -> None:
        """Keep the result of a registration that is done."""
        if self.state == DONE:
            remove_files(self._folder)
        else:
            super()._tidy()
