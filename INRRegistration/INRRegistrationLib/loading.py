"""A transform file, or a result or model folder, as a transform of the scene that takes fixed to moving points."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import slicer

from inrreg.protocol import UserError

from . import export, hierarchy, nrrd, results
from .operation import Operation
from .process import WorkerProcess

MODEL_FILES = ("model.json", "model.safetensors", "displacement.nrrd")
"""Files that stand for the folder they lie in."""


class Load(Operation):
    """Reads a transform. When done, `transform` is the node, in world coordinates; it has a model where `has_model`.

    Where the volumes are given it is taken as a registration of these.
    """

    command = "load"

    def __init__(self, path: Path, fixed: Any, moving: Any, process: WorkerProcess, folder: Path) -> None:
        path = Path(path)
        if path.name in MODEL_FILES and (path.parent / "model.json").is_file():
            path = path.parent
        self.transform, self.has_model = None, False
        self._path = path.absolute()
        self._ids = [node.GetID() if node is not None else "" for node in (fixed, moving)]
        entries: dict[str, Any] = {"path": str(self._path)}
        if fixed is not None:
            with contextlib.suppress(UserError):  # only what has no grid of its own needs one
                entries["reference"] = export.grid_of(fixed, hierarchy.composed(hierarchy.shown(fixed, None)))
        super().__init__(process, folder, lambda: (entries, []))

    def _read(self, data: dict[str, Any]) -> tuple[bool, Any, Any]:
        grid = results.read_grid(Path(data["field"])) if "field" in data else None
        return data["model"], grid, data.get("matrix")

    def _show(self, read: tuple[bool, Any, Any]) -> None:
        self.has_model, grid, matrix = read
        name = self._path.name.split(".")[0] or self._path.name
        with contextlib.ExitStack() as undo:
            if grid is None:
                title = slicer.mrmlScene.GenerateUniqueName(name)
                node = results.add("vtkMRMLLinearTransformNode", title, undo)
                toward_moving = slicer.util.vtkMatrixFromArray(nrrd.LPS @ matrix @ nrrd.LPS)
                node.SetMatrixTransformFromParent(toward_moving)
            else:
                fixed, moving = (slicer.mrmlScene.GetNodeByID(each) if each else None for each in self._ids)
                attribute = "Result" if self.has_model else "File"
                values, field = {attribute: str(self._path)}, results.grid_transform(*grid)
                node = results.show_transform(field, None, fixed, moving, values, undo, name)
            undo.pop_all()
        self.transform = node
