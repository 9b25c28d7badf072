"""A result applied to other nodes of the scene: each in its right direction, with its right interpolation.

Images and labels are pulled back onto a grid, segmentations as labels too; points of models and markups go along the
map itself, or its numerical inverse. All in the worker: nodes of any size are moved without a stop of the GUI.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from inrreg.protocol import UserError

from . import export, hierarchy, nrrd, results, segmentations
from .operation import Operation
from .process import WorkerProcess

KINDS = (
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLLabelMapVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLModelNode",
    "vtkMRMLMarkupsFiducialNode",
    "vtkMRMLMarkupsLineNode",
    "vtkMRMLMarkupsAngleNode",
    "vtkMRMLMarkupsCurveNode",
    "vtkMRMLMarkupsClosedCurveNode",
)
"""Classes of nodes that can be moved: of the other markups, control points alone do not make the shape."""
INVERSE = "INRRegistration.Inverse"
"""Role of a result's reference to its inverse as a transform of its own."""
_FLIP = np.array([-1.0, -1.0, 1.0])
"""Between RAS and LPS."""


@dataclass
class _Part:
    """One file of the job: what it holds, and what becomes a node once it is back."""

    node_id: str
    item: dict[str, str]
    write: Callable[[Path], None]
    labels: dict[str, int] = field(default_factory=dict)


class Resampled(Operation):
    """New nodes in place of moved ones: `nodes` when done. `inverse` brings them from the fixed to the moving side.

    Images get the grid of `reference`; without one, of the fixed or, for an inverse, the moving volume.
    """

    command = "apply"

    def __init__(
        self,
        transform: Any,
        nodes: Sequence[Any],
        inverse: bool,
        reference: Any,
        process: WorkerProcess,
        folder: Path,
    ) -> None:
        """Raises `UserError` where a node cannot be read."""
        self.nodes: list[Any] = []
        fixed, moving = (transform.GetNodeReference(role) for role in (hierarchy.FIXED, hierarchy.MOVING))
        frame = transform.GetParentTransformNode()
        self._frame_id = frame.GetID() if frame is not None else ""
        target = (moving if inverse else fixed) or (fixed or moving)
        self._suffix = f"in {target.GetName()}" if target is not None else "moved"

        def to_frame(node: Any, on_moving: bool) -> Any:
            unmoved = on_moving and moving is not None
            return hierarchy.composed(
                hierarchy.unmoved(node, frame, moving) if unmoved else hierarchy.shown(node, frame)
            )

        self._parts = [part for node in nodes for part in _parts(node, to_frame(node, not inverse))]
        for number, part in enumerate(self._parts):
            part.item["file"] = f"{number}{'.npy' if part.item['kind'] == 'points' else '.nrrd'}"
        items = [part.item for part in self._parts]
        entries: dict[str, Any] = {"result": str(results.source_of(transform)), "inverse": inverse, "items": items}
        entries["alpha"] = results.alpha_of(transform)
        if reference is None and (inverse or not transform.GetAttribute(results.RESULT)):
            reference = target
        if reference is not None:
            entries["reference"] = export.grid_of(reference, to_frame(reference, inverse))

        def write() -> tuple[dict[str, Any], list[str]]:
            for part in self._parts:
                part.write(folder / part.item["file"])
            return entries, []

        super().__init__(process, folder, write)

    def _read(self, data: dict[str, Any]) -> list[Any]:
        return [np.load(path) * _FLIP if path.endswith(".npy") else nrrd.read(Path(path)) for path in data["items"]]

    def _show(self, read: list[Any]) -> Iterator[None]:
        frame = slicer.mrmlScene.GetNodeByID(self._frame_id) if self._frame_id else None
        made: dict[str, Any] = {}
        with contextlib.ExitStack() as undo:
            for part, content in zip(self._parts, read, strict=True):
                like = slicer.mrmlScene.GetNodeByID(part.node_id)
                if like is None or (self._frame_id and frame is None):
                    raise UserError("scene", "A node was deleted while it was moved.", "Choose the nodes again.")
                node = made.get(part.node_id)
                if node is None:
                    name = slicer.mrmlScene.GenerateUniqueName(f"{like.GetName()} {self._suffix}")
                    made[part.node_id] = node = _copy(like, name, undo)
                    node.SetAndObserveTransformNodeID(frame.GetID() if frame is not None else None)
                _fill(node, like, content, part.labels)
                yield
            undo.pop_all()
        self.nodes = list(made.values())


class Inverse(Operation):
    """Makes the inverse of a result a transform of its own, beside it in the hierarchy: `transform` when done."""

    command = "apply"

    def __init__(self, transform: Any, process: WorkerProcess, folder: Path) -> None:
        self.transform = None
        self._id, self._of = transform.GetID(), _state(transform)
        entries = {"result": str(results.folder_of(transform)), "alpha": results.alpha_of(transform)}
        entries |= {"inverse": True, "items": [], "field": True}
        super().__init__(process, folder, lambda: (entries, []))

    def _read(self, data: dict[str, Any]) -> Any:
        return results.read_grid(Path(data["field"]))

    def _show(self, read: Any) -> None:
        transform = slicer.mrmlScene.GetNodeByID(self._id)
        if transform is None or _state(transform) != self._of:
            raise UserError("scene", "The transform is another one by now.", "Do it again.")
        with contextlib.ExitStack() as undo:
            node = transform.GetNodeReference(INVERSE)
            if node is None:
                name = slicer.mrmlScene.GenerateUniqueName(f"{transform.GetName()}, inverse")
                node = results.add("vtkMRMLGridTransformNode", name, undo)
            node.SetAndObserveTransformFromParent(results.grid_transform(*read))
            node.SetAndObserveTransformNodeID(transform.GetTransformNodeID())
            node.SetAttribute(INVERSE, self._of)
            transform.SetNodeReferenceID(INVERSE, node.GetID())
            undo.pop_all()
        self.transform = node


def known_inverse(transform: Any) -> Any:
    """The inverse that was made of a result, None where it has changed since or there is none."""
    node = transform.GetNodeReference(INVERSE)
    return node if node is not None and node.GetAttribute(INVERSE) == _state(transform) else None


def _state(transform: Any) -> str:
    """What an inverse is the inverse of: the result, and where it stands on its scale of regularization."""
    return f"{transform.GetAttribute(results.RESULT)} {transform.GetAttribute(results.ALPHA) or ''}".strip()


def put_under(transform: Any, opposite: Any, nodes: Sequence[Any]) -> None:
    """Put nodes under a transform, all or none: they follow it. What is under its opposite goes back instead."""
    with contextlib.ExitStack() as undo:
        for node in nodes:
            hierarchy.attach(node, transform, opposite, nodes, undo)
        undo.pop_all()


# ------------------------------------------------------------------------------------------- kinds


def _parts(node: Any, to_frame: vtk.vtkGeneralTransform) -> list[_Part]:
    """What of a node goes to the worker. Raises `UserError` where there is nothing."""
    item = {"name": node.GetName(), "kind": "points"}
    if node.IsA("vtkMRMLSegmentationNode"):
        layers = export.layers(node, to_frame)
        return [_Part(node.GetID(), {**item, "kind": "labels"}, image.write, labels) for image, labels in layers]
    if node.IsA("vtkMRMLVolumeNode"):
        labels = node.IsA("vtkMRMLLabelMapVolumeNode")
        image = export.volume(node, to_frame, labels)
        return [_Part(node.GetID(), {**item, "kind": "labels" if labels else "image"}, image.write)]
    points = vtk.vtkPoints()
    points.SetDataTypeToDouble()
    if node.IsA("vtkMRMLModelNode"):
        mesh = node.GetMesh()
        if mesh is not None and mesh.GetNumberOfPoints():
            points.DeepCopy(mesh.GetPoints())
    else:
        for index in range(node.GetNumberOfControlPoints()):
            points.InsertNextPoint(node.GetNthControlPointPosition(index))
    if not points.GetNumberOfPoints():
        raise UserError("points", f"'{node.GetName()}' holds no points.", "Choose other nodes.")

    def write(path: Path) -> None:
        moved = vtk.vtkPoints()
        moved.SetDataTypeToDouble()
        to_frame.TransformPoints(points, moved)
        np.save(path, numpy_support.vtk_to_numpy(moved.GetData()) * _FLIP)

    return [_Part(node.GetID(), item, write)]


def _copy(like: Any, name: str, undo: contextlib.ExitStack) -> Any:
    """A node of the same class that is shown in the same way, without the other's shape or place."""
    node = results.add(like.GetClassName(), name, undo)
    if like.IsA("vtkMRMLVolumeNode") and not like.IsA("vtkMRMLLabelMapVolumeNode"):
        results.display_like(like, node, undo)
        return node
    if like.IsA("vtkMRMLMarkupsNode"):
        node.CopyContent(like)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    undo.callback(slicer.mrmlScene.RemoveNode, display)
    if like.GetDisplayNode() is not None and not like.IsA("vtkMRMLSegmentationNode"):
        display.CopyContent(like.GetDisplayNode())
    return node


def _fill(node: Any, like: Any, content: Any, labels: dict[str, int]) -> None:
    """Give a node the shape that came back."""
    if node.IsA("vtkMRMLSegmentationNode"):
        array, matrix = content
        known = like.GetSegmentation()
        if any(known.GetSegment(identifier) is None for identifier in labels):
            raise UserError("scene", "A segment was deleted while it was moved.", "Choose the nodes again.")
        segments = {value: (identifier, known.GetSegment(identifier)) for identifier, value in labels.items()}
        segmentations.add_segments(node, array, matrix, segments)
    elif node.IsA("vtkMRMLVolumeNode"):
        array, matrix = content
        with slicer.util.NodeModify(node):
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
            node.SetAndObserveImageData(results.plain_image(array))
    elif node.IsA("vtkMRMLModelNode"):
        mesh = like.GetMesh().NewInstance()
        mesh.ShallowCopy(like.GetMesh())
        if mesh.GetNumberOfPoints() != len(content):
            raise UserError("scene", f"'{like.GetName()}' was changed while it was moved.", "Choose the nodes again.")
        points = vtk.vtkPoints()
        points.SetData(numpy_support.numpy_to_vtk(np.ascontiguousarray(content)))
        mesh.SetPoints(points)
        mesh.GetPointData().SetNormals(None)  # those of another shape
        node.SetAndObserveMesh(mesh)
    else:
        if node.GetNumberOfControlPoints() != len(content):
            raise UserError("scene", f"'{like.GetName()}' was changed while it was moved.", "Choose the nodes again.")
        with slicer.util.NodeModify(node):
            for index, point in enumerate(content):
                node.SetNthControlPointPosition(index, *point)
