"""Where volumes stand under transforms, and where a result goes: moving -> P -> T.

The *frame* of a registration is the lowest transform that fixed and moving volume share, or the world
(None): what moves both together has nothing to do with registering them. T goes under the frame, and what
was between the moving volume and the frame (P) goes under T.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

OUTPUT = "INRRegistration.Output"
"""Attribute that marks our transforms."""
FIXED, MOVING = "INRRegistration.Fixed", "INRRegistration.Moving"
"""Roles of our transforms' references to the volumes that they register."""


def chain(node: Any) -> list[Any]:
    """The transforms above a node, from its parent up to the world."""
    found = []
    parent = node.GetParentTransformNode()
    while parent is not None:
        found.append(parent)
        parent = parent.GetParentTransformNode()
    return found


def is_earlier_output(transform: Any, moving: Any) -> bool:
    """Whether a transform is our own result of registering this moving volume."""
    return bool(transform.GetAttribute(OUTPUT)) and transform.GetNodeReferenceID(MOVING) == moving.GetID()


def kept(node: Any, moving: Any) -> list[Any]:
    """The transforms above a node without earlier results for `moving`: those are replaced, not built upon."""
    return [transform for transform in chain(node) if not is_earlier_output(transform, moving)]


def frame(fixed: Any, moving: Any) -> Any:
    """The lowest transform above both volumes, None for the world."""
    above_fixed = {transform.GetID() for transform in chain(fixed)}
    return next((transform for transform in kept(moving, moving) if transform.GetID() in above_fixed), None)


def below(transforms: list[Any], frame: Any) -> list[Any]:
    """Those of a chain that lie below the frame."""
    if frame is None:
        return transforms
    ids = [transform.GetID() for transform in transforms]
    return transforms[: ids.index(frame.GetID())] if frame.GetID() in ids else transforms


def to_frame(node: Any, frame: Any, moving: Any) -> vtk.vtkGeneralTransform:
    """From a node's own coordinates to the frame's, earlier results for `moving` left out."""
    transforms = kept(node, moving)
    result = vtk.vtkGeneralTransform()
    result.PostMultiply()
    for transform in below(transforms, frame):
        result.Concatenate(transform.GetTransformToParent())
    if frame is not None and frame.GetID() not in [transform.GetID() for transform in transforms]:
        inverse = vtk.vtkGeneralTransform()
        frame.GetTransformFromWorld(inverse)
        result.Concatenate(inverse)
    return result


def placement(fixed: Any, moving: Any) -> list[Any]:
    """Where both volumes stand in their frame: equal as long as nobody moves them, or what they are under."""
    shared = frame(fixed, moving)
    found: list[Any] = [shared.GetID() if shared else None]
    for node in (fixed, moving):
        above, geometry = to_frame(node, shared, moving), vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(geometry)
        image = node.GetImageData()
        size = image.GetDimensions() if image is not None else (1, 1, 1)
        for corner in np.ndindex(3, 3, 3):  # with the middles, so that a bend shows too
            index = [part * (n - 1) / 2 for part, n in zip(corner, size, strict=True)]
            found.append(above.TransformPoint(geometry.MultiplyPoint([*index, 1])[:3]))
    return found


def linear(transform: vtk.vtkGeneralTransform) -> np.ndarray | None:
    """The 4 x 4 matrix of a transform; None where it is not linear."""
    result = vtk.vtkTransform()
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(transform, result):
        return None
    return slicer.util.arrayFromVTKMatrix(result.GetMatrix())


def place(transform: Any, fixed: Any, moving: Any) -> None:
    """Put the result above what moves the moving volume already, in the place of earlier results."""
    shared = frame(fixed, moving)
    links = [moving, *below(kept(moving, moving), shared)]
    transform.SetAndObserveTransformNodeID(shared.GetID() if shared else None)
    for child, parent in zip(links, [*links[1:], transform], strict=True):
        child.SetAndObserveTransformNodeID(parent.GetID())
