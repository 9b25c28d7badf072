"""A sequence of volumes registered to one of its items: job folder, worker, transforms that play with the images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from inrreg.landmarks import Points, read_points
from inrreg.protocol import Job, UserError, read_json

from . import export, hierarchy, landmark_lists, results, sequences
from .operation import DONE, Operation, remove_files
from .parameters import Parameters
from .process import WorkerProcess
from .tables import table_of

MOST_CURVES = 50
"""Landmarks whose ways are drawn: more curves than these only hide each other, and slow the views down."""


@dataclass
class SeriesRequest:
    """What to register: a sequence of volumes, the number of its reference, and plain settings as in a `Job`.

    `landmarks` are points on the reference, or None; `mask` is one of `AUTOMATIC_MASKS` or "".
    """

    sequence: Any
    reference: int = 0
    landmarks: Any = None
    mask: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: Parameters) -> SeriesRequest:
        """What the scene's parameters say."""
        plain = ("preset", "prealign", "device", "threads", "seed", "time_budget")
        settings = {name: getattr(parameters, name) for name in plain}
        settings["overrides"] = parameters.overrides.get(parameters.preset, {})
        chosen = parameters.series, parameters.series_reference, parameters.series_landmarks, parameters.series_mask
        return cls(*chosen, settings)

    def check(self) -> None:
        """Raise `UserError` with what is missing."""
        if self.sequence is None:
            raise UserError("series", "Choose a sequence of volumes.")
        count, name = self.sequence.GetNumberOfDataNodes(), self.sequence.GetName()
        if count < 2:
            raise UserError("series", f"'{name}' has fewer than two items.", "Choose another sequence.")
        for number in range(count):
            item = self.sequence.GetNthDataNode(number)
            if item is None or not item.IsA("vtkMRMLScalarVolumeNode"):
                raise UserError("series", f"'{name}' is no sequence of volumes.", "Choose another sequence.")
        if not 0 <= self.reference < count:
            raise UserError("series", f"'{name}' has no item {self.reference + 1}.", "Choose another reference.")


class Phases(Operation):
    """When done, `transform` plays with the images, `browser` shows both, `table` and `curves` follow the landmarks."""

    command = "series"

    def __init__(self, request: SeriesRequest, process: WorkerProcess, folder: Path) -> None:
        """Raises `UserError` where an item, or a landmark, cannot be read."""
        self.transform = self.browser = self.table = None
        self.curves: list[Any] = []
        sequence, own = request.sequence, vtk.vtkGeneralTransform()
        count = sequence.GetNumberOfDataNodes()
        images = [export.volume(sequence.GetNthDataNode(number), own, False) for number in range(count)]
        names = [f"{number}.nrrd" for number in range(count)]
        self._others = [number for number in range(count) if number != request.reference]
        self._reference, self._count, self._sequence_id = request.reference, count, sequence.GetID()
        browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(sequence)
        shown = browser.GetProxyNode(sequence) if browser is not None else None
        kept = hierarchy.kept(shown) if shown is not None else []
        self._frame_id = kept[0].GetID() if kept else ""
        frame = kept[0] if kept else None
        points = None
        if request.landmarks is not None:
            to_frame = hierarchy.composed(hierarchy.shown(request.landmarks, frame))
            points = landmark_lists.points(request.landmarks, to_frame)
        moved = [names[number] for number in self._others]
        fixed = {"fixed": names[request.reference], "moving": moved[0], "fixed_mask": request.mask}
        job = Job(**fixed, **request.settings, id=folder.name)
        entries = {"images": moved} | ({"landmarks": "landmarks.mrk.json"} if points is not None else {})

        def write() -> tuple[dict[str, Any], list[str]]:
            for image, name in zip(images, names, strict=True):
                image.write(folder / name)
            if points is not None:
                landmark_lists.write(folder, {"landmarks.mrk.json": points})
            job.save(folder)
            return entries, []

        super().__init__(process, folder, write)

    def _read(self, data: dict[str, Any]) -> tuple[list[sequences.Grid], Points | None]:
        """The displacements of all items, and the landmarks' ways."""
        folder = Path(data["series"])
        done = [phase["folder"] for phase in read_json(folder / "series.json")["phases"]]
        grids = [sequences.IDENTITY] * self._count
        for number, name in zip(self._others, done, strict=True):
            grids[number] = results.read_grid(folder / name / "displacement.nrrd")
        path = folder / "trajectories.csv"
        return grids, read_points(path) if path.is_file() else None

    def _show(self, read: tuple[list[sequences.Grid], Points | None]) -> Iterator[None]:
        grids, ways = read
        scene = slicer.mrmlScene
        images = scene.GetNodeByID(self._sequence_id)
        frame = scene.GetNodeByID(self._frame_id) if self._frame_id else None
        gone = images is None or images.GetNumberOfDataNodes() != self._count
        if gone or (self._frame_id and frame is None):
            raise UserError("scene", "The sequence was changed while it was registered.", "Register it again.")
        with contextlib.ExitStack() as undo:
            made = sequences.new(f"{images.GetName()} transforms", images.GetIndexName(), images.GetIndexUnit(), undo)
            for number, grid in enumerate(grids):
                sequences.append(made, images.GetNthIndexValue(number), grid)
                yield
            browser = sequences.browser_of(images, undo)
            shown = sequences.shown_by(browser, images)
            above = shown.GetParentTransformNode()
            known = above if above is not None and hierarchy.is_earlier_output(above, shown) else None
            replaced = known.GetNodeReference(sequences.SEQUENCE) if known is not None else None
            grid, name = results.grid_transform(*sequences.IDENTITY), f"{images.GetName()} to its reference"
            if replaced is not None:
                undo.callback(known.SetNodeReferenceID, sequences.SEQUENCE, replaced.GetID())
            transform = results.show_transform(grid, known, None, shown, {"Result": None}, undo, name)
            undo.callback(transform.SetAndObserveTransformNodeID, transform.GetTransformNodeID())
            undo.callback(shown.SetAndObserveTransformNodeID, shown.GetTransformNodeID())
            transform.SetAndObserveTransformNodeID(self._frame_id or None)
            shown.SetAndObserveTransformNodeID(transform.GetID())
            yield
            if ways is not None:
                yield from self._follow(ways, images, undo)
            sequences.show(browser, made, transform, undo)
            undo.pop_all()
        if replaced is not None:
            sequences.remove(replaced)
        self.transform, self.browser = transform, browser

    def _follow(self, ways: Points, images: Any, undo: contextlib.ExitStack) -> Iterator[None]:
        """The landmarks' ways, in the volumes' own coordinates: a table in RAS mm, and curves of the first ones."""
        places = ways.positions * landmark_lists.TO_LPS
        values = [images.GetNthIndexValue(number) for number in range(self._count)]
        # The series has the reference first, and then the others: here all are in the sequence's order.
        rows = self._count
        order = np.argsort([self._reference, *self._others])
        labels = [ways.columns["label"][first] for first in range(0, len(places), rows)]
        places = places.reshape(-1, rows, 3)[:, order]
        table = results.add("vtkMRMLTableNode", f"{images.GetName()} trajectories (RAS, mm)", undo)
        columns = {
            "Landmark": [label for label in labels for _ in values],
            images.GetIndexName() or "Index": values * len(labels),
        }
        columns |= {name: places[..., axis].ravel() for axis, name in enumerate(("R", "A", "S"))}
        table.SetAndObserveTable(table_of(columns))
        yield
        for label, way in zip(labels[:MOST_CURVES], places, strict=False):
            curve = results.add("vtkMRMLMarkupsClosedCurveNode", f"{label}, trajectory", undo)
            curve.CreateDefaultDisplayNodes()
            undo.callback(results.remove, curve.GetDisplayNode())
            with slicer.util.NodeModify(curve):
                for value, place in zip(values, way, strict=True):
                    curve.AddControlPoint(vtk.vtkVector3d(*place), value)
                curve.SetAndObserveTransformNodeID(self._frame_id or None)
            curve.GetDisplayNode().SetPointLabelsVisibility(False)
            curve.GetDisplayNode().SetPropertiesLabelVisibility(False)
            curve.SetLocked(True)
            self.curves.append(curve)
            yield
        self.table = table

    def _tidy(self) -> None:
        """Keep the results of a series that is done."""
        if self.state == DONE:
            remove_files(self._folder)
        else:
            super()._tidy()
