"""Judging a result: what it is judged by, as nodes, and the worker's figures on their way into the scene."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from inrreg.protocol import Job, UserError
from inrreg.verdict import Tolerances

from . import evaluation_nodes, hierarchy, nrrd, results
from .operation import Operation
from .pair import Pair
from .parameters import Parameters
from .process import WorkerProcess

EVALUATION = "INRRegistration.Evaluation"
"""Attribute of our transforms with the figures that the last evaluation gave: JSON."""


@dataclass
class Judged(Pair):
    """A result, as the transform that it is in the scene, and what judges it. `tolerances` are changes of them."""

    transform: Any = None
    tolerances: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: Parameters) -> Judged:
        """What the scene's parameters say; structures are the registration's labels where there are no others."""
        names = ("fixed", "moving", "fixed_mask", "fixed_mask_segments", "fixed_landmarks", "moving_landmarks")
        values = {name: getattr(parameters, name) for name in (*names, "tolerances")}
        labels = parameters.fixed_structures, parameters.moving_structures
        if labels == (None, None):
            labels = parameters.fixed_labels, parameters.moving_labels
        fixed, moving = labels
        return cls(**values, fixed_labels=fixed, moving_labels=moving, transform=parameters.output_transform)

    def check(self) -> None:
        """Raise `UserError` with what is missing or contradictory; the first thing first."""
        results.check(self.transform)
        super().check()
        for role, volume in ((hierarchy.FIXED, self.fixed), (hierarchy.MOVING, self.moving)):
            if self.transform.GetNodeReference(role) is not volume:
                text = f"'{self.transform.GetName()}' is not the result of registering these volumes."
                raise UserError("result", text, "Choose its own, or register these.")
        Tolerances.of(None, self.tolerances)


class Evaluation(Operation):
    """The judging of a result. When done, `metrics` holds its figures, and the nodes are in the scene.

    With `report` the worker also writes that file.
    """

    command = "evaluate"

    def __init__(self, judged: Judged, process: WorkerProcess, folder: Path, report: str = "") -> None:
        self.metrics: dict[str, Any] = {}
        self.report = report
        self._transform_id, self._result = judged.transform.GetID(), results.folder_of(judged.transform)
        self._alpha = results.alpha_of(judged.transform)
        frame = hierarchy.frame(judged.fixed, judged.moving)
        self._frame_id = frame.GetID() if frame is not None else None
        files = judged.files()
        self._names = files.label_names
        job = Job(**files.names, label_names=files.label_names, tolerances=judged.tolerances, id=folder.name)

        def write() -> tuple[dict[str, Any], list[str]]:
            files.write(folder)
            job.save(folder)
            return {"result": str(self._result), "alpha": self._alpha, "report": report}, []

        super().__init__(process, folder, write)

    def _read(self, data: dict[str, Any]) -> dict[str, Any]:
        """The maps by name."""
        self.metrics = data["metrics"]
        return {name: nrrd.read(Path(data[name])) for name in ("jacobian", "uncertainty") if data[name]}

    def _show(self, read: dict[str, Any]) -> Iterator[None]:
        scene = slicer.mrmlScene
        transform = self._judged()
        frame = scene.GetNodeByID(self._frame_id) if self._frame_id else None
        with contextlib.ExitStack() as undo:
            for _part in evaluation_nodes.show(transform, self.metrics, self._names, read, frame, undo):
                yield
                self._judged()
            found = {"metrics": self.metrics, "names": self._names, "alpha": self._alpha}
            transform.SetAttribute(EVALUATION, json.dumps(found))
            undo.pop_all()

    def _judged(self) -> Any:
        """The transform. Raises `UserError` where it is not what it was."""
        transform = slicer.mrmlScene.GetNodeByID(self._transform_id)
        same = transform is not None and transform.GetAttribute(results.RESULT) == str(self._result)
        if not same or results.alpha_of(transform) != self._alpha:
            text = "The transform was deleted or changed while it was evaluated."
            raise UserError("scene", text, "Evaluate again.")
        return transform


def known(transform: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of a transform's last evaluation, and the names of structures by label; empty without one.

    Empty as well where its regularization has been changed since.
    """
    try:
        found = json.loads(transform.GetAttribute(EVALUATION))
        if found["alpha"] != results.alpha_of(transform):
            return {}, {}
        return dict(found["metrics"]), dict(found["names"])
    except (AttributeError, TypeError, ValueError, LookupError):
        return {}, {}
