"""A result from the scene to a file that other programs read, in the scene's or the DICOM images' coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrreg.protocol import UserError

from . import export, hierarchy, nrrd, results, series, transforms
from .operation import Operation
from .process import WorkerProcess

MODEL = "model"
FORMATS = {".h5": "ITK (.h5)", ".tfm": "ITK (.tfm)", ".nrrd": "NRRD (.nrrd)", ".nii.gz": "NIfTI (.nii.gz)"} | {
    ".dcm": "DICOM (.dcm)",
    MODEL: "Model (folder)",
}
"""Names of the formats, by ending."""


@dataclass
class ExportRequest:
    """What to write. `spacing` is in mm, 0 for the engine's choice; `mask` is where an inverse is measured apart.

    The series of a volume that the DICOM database does not know are taken from `fixed_folder` and `moving_folder`.
    """

    transform: Any
    output: str | Path
    part: str = "whole"
    inverse: bool = False
    spacing: float = 0.0
    mask: Any = None
    mask_segments: list[str] | None = None
    fixed_folder: str = ""
    moving_folder: str = ""

    @property
    def ending(self) -> str:
        """One of `FORMATS`; "" for a file that is none."""
        name = Path(self.output).name.lower()
        found = [ending for ending in FORMATS if ending != MODEL and name.endswith(ending)]
        return found[0] if found else "" if Path(name).suffix else MODEL

    def check(self) -> None:
        """Raise `UserError` with what is missing or contradictory; the first thing first."""
        results.check(self.transform)
        if not self.ending:
            names = ", ".join(ending for ending in FORMATS if ending != MODEL)
            raise UserError("output", f"{self.output} has no ending of a transform.", f"Use one of: {names}.")
        if self.ending == MODEL:
            return
        if self.part not in results.parts_of(self.transform):
            raise UserError("part", f"This result has no part '{self.part}'.", "Choose another part.")
        if not 0 <= self.spacing < np.inf:
            raise UserError("spacing", "A spacing cannot be negative.")
        self._around()
        if self.ending == ".dcm":
            self._series()

    def entries(self) -> dict[str, Any]:
        """The command's entries. Raises `UserError` as `check`."""
        self.check()
        entries = {"result": str(results.folder_of(self.transform)), "output": str(Path(self.output).absolute())}
        if self.ending == MODEL:
            return entries
        entries["alpha"] = results.alpha_of(self.transform)
        entries |= {"part": self.part, "inverse": self.inverse, "spacing": self.spacing, **self._around()}
        return entries | (self._series() if self.ending == ".dcm" else {})

    def gather(self, folder: Path) -> Callable[[], tuple[dict[str, Any], list[str]]]:
        """Read the scene, and return what writes the job folder and gives the command's entries."""
        entries, mask = self.entries(), None
        if self.mask is not None and self.inverse and self.ending != MODEL:
            to_frame = hierarchy.composed(hierarchy.shown(self.mask, self.transform.GetParentTransformNode()))
            mask = export.labels(self.mask, to_frame, chosen=self.mask_segments)

        def write() -> tuple[dict[str, Any], list[str]]:
            if mask is None:
                return entries, []
            mask.write(folder / "mask.nrrd")
            return entries | {"mask": "mask.nrrd"}, []

        return write

    def _around(self) -> dict[str, Any]:
        """What brings the file's coordinates to the result's before the map, and back after it.

        The result is in coordinates of its frame. A file is in the scene's; a DICOM object in those of the images.
        """
        shared = self.transform.GetParentTransformNode()
        if self.ending == ".dcm":
            fixed, moving = self._volumes()
            before = hierarchy.shown(fixed, shared)
            after = hierarchy.inverse(hierarchy.unmoved(moving, shared, moving))
        else:
            after = [(above, False) for above in hierarchy.chain(self.transform)]
            before = hierarchy.inverse(after)
        matrices = [transforms.matrix(hierarchy.composed(path)) for path in (before, after)]
        if any(matrix is None for matrix in matrices):
            hint = "Harden that transform on the volumes, and register again."
            raise UserError("frame", "The volumes are under a transform that is not linear.", hint)
        if all(np.allclose(matrix, np.eye(4)) for matrix in matrices):
            return {}
        lps = [(nrrd.LPS @ matrix @ nrrd.LPS).tolist() for matrix in matrices]
        return dict(zip(("before", "after"), lps, strict=True))

    def _volumes(self) -> tuple[Any, Any]:
        nodes = [self.transform.GetNodeReference(role) for role in (hierarchy.FIXED, hierarchy.MOVING)]
        if None in nodes:
            raise UserError("scene", "A volume of this result is not in the scene any more.", "Choose another format.")
        return nodes[0], nodes[1]

    def _series(self) -> dict[str, Any]:
        found = {}
        for side, node in zip(("fixed", "moving"), self._volumes(), strict=True):
            folder = getattr(self, f"{side}_folder")
            known = {"folder": folder} if folder else series.of_volume(node)
            if known is None:
                text = f"'{node.GetName()}' is not from Slicer's DICOM database."
                raise UserError("dicom", text, f"Choose the folder of the {side} series.")
            found[f"{side}_series"] = known
        return found


class Export(Operation):
    """Writes a file. When done, `figures` say what was written: spacing, and errors in mm."""

    command = "export"

    def __init__(self, request: ExportRequest, process: WorkerProcess, folder: Path) -> None:
        self.figures: dict[str, Any] = {}
        super().__init__(process, folder, request.gather(folder))

    def _show(self, read: dict[str, Any]) -> None:
        self.figures = read
