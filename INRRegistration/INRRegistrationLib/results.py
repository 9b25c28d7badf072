"""Result folder to scene. Files are read off the GUI thread; nodes are made only once everything is there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from inrreg import parts
from inrreg.protocol import UserError

from . import hierarchy, nrrd, transforms

RESULT = "INRRegistration.Result"
"""Attribute of our transforms with the folder of the engine's result."""
ALPHA = "INRRegistration.Alpha"
"""Attribute of our transforms with the strength of regularization, 0 to 1, of a conditioned result."""
FILE = "INRRegistration.File"
"""Attribute of transforms that were loaded from a file without a model."""


def source_of(transform: Any) -> Path:
    """What the worker reads in a transform's place: its result folder, or the file that it was loaded from.

    Raises `UserError` as `folder_of`.
    """
    file = transform.GetAttribute(FILE) if transform is not None else None
    return Path(file) if file and not transform.GetAttribute(RESULT) else folder_of(transform)


def folder_of(transform: Any) -> Path:
    """The result folder that a transform node came from, made anew from the scene where it is gone.

    A restored one holds the model, not the fields that were sampled from it. Raises `UserError` where there is none.
    """
    from . import embedded
    from .logic import shared

    if (folder := check(transform)) is not None:
        return folder
    restored = shared().new_folder() / "result"
    restored.mkdir()
    embedded.unpack_model(transform.GetNodeReference(embedded.MODEL).GetText(), restored)
    for each in embedded.siblings(transform):
        each.SetAttribute(RESULT, str(restored))
    return restored


def check(transform: Any) -> Path | None:
    """The result folder of a transform node, None where it is gone but can be made anew from the scene.

    Raises `UserError` where there is none.
    """
    from . import embedded

    folder = transform.GetAttribute(RESULT) if transform is not None else None
    if not folder:
        if transform is not None and transform.GetAttribute(FILE):
            hint = "It can be applied, but has no model to export, evaluate or tune."
            raise UserError("result", f"'{transform.GetName()}' was loaded from a file.", hint)
        raise UserError("result", "There is no result of this module yet.", "Register first.")
    if (Path(folder) / "model.json").is_file():
        return Path(folder)
    if transform.GetNodeReference(embedded.MODEL) is None:
        raise UserError("result", f"The files of '{transform.GetName()}' are gone.", "Register again.")
    return None


def parts_of(transform: Any) -> list[str]:
    """The parts of a transform node's result, as `inrreg.parts` has them. Raises `UserError` where there is none."""
    from . import embedded

    folder = check(transform)
    return parts.parts_of(folder) if folder is not None else embedded.parts_of(transform)


def alpha_of(transform: Any) -> float | None:
    """Where on its scale of regularization a conditioned result's transform stands; None for any other."""
    text = transform.GetAttribute(ALPHA)
    return float(text) if text else None


def read_grid(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A displacement field as Slicer wants it: RAS vectors, shape (k, j, i, 3), and the matrix to RAS.

    The file holds LPS vectors from fixed to moving space. Safe off the GUI thread; raises `UserError`.
    """
    vectors, matrix = nrrd.read(path)
    return vectors * np.array([-1, -1, 1], vectors.dtype), matrix


def grid_transform(vectors: np.ndarray, matrix: np.ndarray) -> Any:
    """A grid transform with linear interpolation from what `read_grid` gives; the voxels are not copied."""
    image, direction = image_of(vectors, matrix)
    return _grid_transform(image, slicer.util.vtkMatrixFromArray(direction))


def make_linear() -> None:
    """Have the scene's transforms of ours interpolate linearly, as when they were made: read from a file, they do not.

    With Slicer's cubic splines a slice takes several times as long.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLGridTransformNode"):
        grid = node.GetTransformFromParent() if node.GetAttribute(hierarchy.OUTPUT) else None
        if grid is not None and grid.IsA("vtkGridTransform"):
            grid.SetInterpolationModeToLinear()


def sharing(transform: Any) -> Any:
    """Another grid transform over the same displacements, which are not copied."""
    return _grid_transform(transform.GetDisplacementGrid(), transform.GetGridDirectionMatrix())


def copied(transform: Any) -> Any:
    """Another grid transform over a copy of the displacements."""
    image = vtk.vtkImageData()
    image.DeepCopy(transform.GetDisplacementGrid())
    return _grid_transform(image, transform.GetGridDirectionMatrix())


def _grid_transform(image: Any, direction: Any) -> Any:
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    transform.SetGridDirectionMatrix(direction)
    transform.SetInterpolationModeToLinear()
    return transform


def show_transform(
    transform: Any,
    node: Any,
    fixed: Any,
    moving: Any,
    attributes: dict[str, str | None],
    undo: ExitStack,
    name: str = "",
) -> Any:
    """Put a transform, from parent, into `node` or a new one; the volumes may be None, with a `name` for it.

    Everything that listens is told once, at the end. An attribute that is None is removed. `undo` takes it back.
    """
    if node is None:
        name = name or f"{moving.GetName()} to {fixed.GetName()}"
        node = add("vtkMRMLGridTransformNode", slicer.mrmlScene.GenerateUniqueName(name), undo)
    else:
        undo.callback(node.SetAndObserveTransformFromParent, node.GetTransformFromParent())
    values = {hierarchy.OUTPUT: "1"} | {f"INRRegistration.{name}": value for name, value in attributes.items()}
    with slicer.util.NodeModify(node):
        for name, value in values.items():
            undo.callback(node.SetAttribute, name, node.GetAttribute(name))
            node.SetAttribute(name, value)
        for role, volume in ((hierarchy.FIXED, fixed), (hierarchy.MOVING, moving)):
            undo.callback(node.SetNodeReferenceID, role, node.GetNodeReferenceID(role))
            node.SetNodeReferenceID(role, volume.GetID() if volume else None)
        node.SetAndObserveTransformFromParent(transform)
    return node


def grid_of(transform: Any) -> tuple[np.ndarray, np.ndarray]:
    """The displacements (k, j, i, 3) of a transform node as `read_grid` gives them, not copied, and their matrix."""
    grid = transform.GetTransformFromParent()
    image = grid.GetDisplacementGrid()
    vectors = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*image.GetDimensions()[::-1], 3)
    matrix = slicer.util.arrayFromVTKMatrix(grid.GetGridDirectionMatrix()) @ np.diag([*image.GetSpacing(), 1.0])
    matrix[:3, 3] = image.GetOrigin()
    return vectors, matrix


def fill_volume(node: Any, array: np.ndarray, matrix: np.ndarray) -> None:
    """Put an image (k, j, i) into a volume node; the voxels are not copied."""
    image, _ = image_of(array, np.eye(4))
    with slicer.util.NodeModify(node):
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
        node.SetAndObserveImageData(image)


def show_volume(
    array: np.ndarray, matrix: np.ndarray, node: Any, fixed: Any, moving: Any, frame: Any, undo: ExitStack
) -> Any:
    """Put the resampled moving image, shape (k, j, i), into `node` or a new volume. `undo` takes it back.

    It takes the fixed volume's place in the hierarchy where it has the fixed volume's grid. A fixed volume
    under a non-linear transform was resampled: then the result stands where `matrix` says, in the frame.
    """
    geometry, parent = vtk.vtkMatrix4x4(), fixed.GetParentTransformNode()
    fixed.GetIJKToRASMatrix(geometry)
    above_fixed = transforms.matrix(hierarchy.composed(hierarchy.shown(fixed, frame)))
    if above_fixed is None or not np.allclose(above_fixed @ slicer.util.arrayFromVTKMatrix(geometry), matrix):
        geometry, parent = slicer.util.vtkMatrixFromArray(matrix), frame
    image = plain_image(array)
    if node is None:
        name = slicer.mrmlScene.GenerateUniqueName(f"{moving.GetName()} registered")
        node = add("vtkMRMLScalarVolumeNode", name, undo)
    else:
        before = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(before)
        undo.callback(node.SetAndObserveTransformNodeID, node.GetTransformNodeID())
        undo.callback(node.SetAndObserveImageData, node.GetImageData())
        undo.callback(node.SetIJKToRASMatrix, before)
    if node.GetDisplayNode() is None:
        display_like(moving, node, undo)
    with slicer.util.NodeModify(node):
        node.SetIJKToRASMatrix(geometry)
        node.SetAndObserveImageData(image)
        node.SetAndObserveTransformNodeID(parent.GetID() if parent else None)
    return node


def plain_image(array: np.ndarray) -> vtk.vtkImageData:
    """Voxels, shape (k, j, i), as a volume node wants them: its geometry is the node's own. They are not copied."""
    return image_of(array, np.eye(4))[0]


def add(kind: str, name: str, undo: ExitStack) -> Any:
    """A new node; `undo` removes it."""
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    undo.callback(remove, node)
    return node


def remove(node: Any) -> None:
    """Remove a node from the scene, where it is still there."""
    if slicer.mrmlScene.IsNodePresent(node):  # the user may have been quicker
        slicer.mrmlScene.RemoveNode(node)


def display_like(moving: Any, node: Any, undo: ExitStack) -> None:
    """Show a volume as the moving one is shown.

    Window and level are taken over as numbers, since both are to look alike; finding them anew, or copying
    the whole node, takes Slicer 50 to 250 ms for a large volume.
    """
    known = moving.GetDisplayNode()
    if known is None:
        node.CreateDefaultDisplayNodes()
        undo.callback(remove, node.GetDisplayNode())
        return
    display = add(known.GetClassName(), "", undo)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(known.GetWindow(), known.GetLevel())
    display.SetAndObserveColorNodeID(known.GetColorNodeID())
    node.SetAndObserveDisplayNodeID(display.GetID())


def image_of(array: np.ndarray, matrix: np.ndarray) -> tuple[vtk.vtkImageData, np.ndarray]:
    """An image of an array (k, j, i[, component]) with the spacing and origin of a matrix, and its 4 x 4 direction."""
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = np.eye(4)
    direction[:3, :3] = matrix[:3, :3] / spacing
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    image.SetSpacing(*spacing)
    image.SetOrigin(*matrix[:3, 3])
    flat = np.ascontiguousarray(array).reshape(-1, array.shape[3] if array.ndim == 4 else 1)
    # numpy_to_vtk keeps a reference to the NumPy array, whose memory it shares.
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(flat))
    return image, direction
