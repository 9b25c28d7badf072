"""Where volumes stand under transforms, and where a result goes: moving -> P -> T.

The *frame* of a registration is the lowest transform that fixed and moving volume share, or the world
(None): what moves both together has nothing to do with registering them. T goes under the frame, and what
was between the moving volume and the frame (P) goes under T. The fixed side stands where the scene shows it;
the moving side where it stood before an earlier T of ours moved it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import slicer
import vtk

from inrreg.protocol import UserError

from . import transforms

Path = list[tuple[Any, bool]]
"""Transform nodes in the order in which they are applied, each to its parent or, where True, from its parent."""
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


def kept(moving: Any) -> list[Any]:
    """The transforms above the moving volume without earlier results: those are replaced, not built upon."""
    return [transform for transform in chain(moving) if not is_earlier_output(transform, moving)]


def frame(fixed: Any, moving: Any) -> Any:
    """The lowest transform above both volumes, None for the world."""
    above_fixed = {transform.GetID() for transform in chain(fixed)}
    return next((transform for transform in kept(moving) if transform.GetID() in above_fixed), None)


def below(above: list[Any], frame: Any) -> list[Any]:
    """Those of a chain that lie below the frame."""
    if frame is None:
        return above
    ids = [transform.GetID() for transform in above]
    return above[: ids.index(frame.GetID())] if frame.GetID() in ids else above


def shown(node: Any, frame: Any) -> Path:
    """From a node's own coordinates to the frame's, as the scene shows it."""
    above_frame = [frame, *chain(frame)] if frame is not None else []
    return _reduced([*_up(chain(node)), *_down(above_frame)])


def unmoved(node: Any, frame: Any, moving: Any) -> Path:
    """From the coordinates of the moving volume, or of what is drawn on it, to the frame's, earlier results undone.

    What the scene shows over the moving volume stays over it: where an earlier result moves the volume but not
    the node, the node is taken back through that result.
    """
    return _reduced([*_up(chain(node)), *_down(chain(moving)), *_up(below(kept(moving), frame))])


def is_left_behind(node: Any, moving: Any) -> bool:
    """Whether an earlier result moves the moving volume, but not the node, which so counts as drawn on that result."""
    own = {transform.GetID() for transform in chain(node)}
    return any(is_earlier_output(above, moving) and above.GetID() not in own for above in chain(moving))


def action(node: Any, frame: Any) -> Path:
    """What a transform, and what is above it, does to a volume below it, in the frame's coordinates.

    What moves the frame as well is not part of it: the identity does nothing, wherever it stands.
    """
    above_frame = [frame, *chain(frame)] if frame is not None else []
    ids = {transform.GetID() for transform in above_frame}
    own = list(itertools.takewhile(lambda transform: transform.GetID() not in ids, [node, *chain(node)]))
    joins = {transform.GetID() for transform in chain(own[-1])} if own else ids
    out = list(itertools.takewhile(lambda transform: transform.GetID() not in joins, above_frame))
    return [*_up(out), *_up(own), *_down(out)]


def inverse(path: Path) -> Path:
    """The way back."""
    return [(transform, not inverted) for transform, inverted in reversed(path)]


def composed(path: Path) -> vtk.vtkGeneralTransform:
    """A path as one transform, apart from the scene."""
    return transforms.compose(
        [node.GetTransformFromParent() if inverted else node.GetTransformToParent() for node, inverted in path]
    )


def placement(fixed: Any, moving: Any) -> list[Any]:
    """Where both volumes stand in their frame: equal as long as nobody moves them, or what they are under."""
    shared = frame(fixed, moving)
    found: list[Any] = [shared.GetID() if shared else None]
    for node, path in ((fixed, shown(fixed, shared)), (moving, unmoved(moving, shared, moving))):
        above, geometry = composed(path), vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(geometry)
        image = node.GetImageData()
        size = image.GetDimensions() if image is not None else (1, 1, 1)
        for corner in np.ndindex(3, 3, 3):  # with the middles, so that a bend shows too
            index = [part * (n - 1) / 2 for part, n in zip(corner, size, strict=True)]
            found.append(above.TransformPoint(geometry.MultiplyPoint([*index, 1])[:3]))
    return found


def place(
    transform: Any, fixed: Any, moving: Any, moving_side: Sequence[Any], fixed_side: Sequence[Any], undo: ExitStack
) -> None:
    """Put the result above what moves the moving volume already, in the place of earlier results.

    What was drawn on the moving volume where it stood (`moving_side`: masks, labels) goes with it, so that it
    stays over it; not so what the fixed side needs where it is, or what was drawn on an earlier result.
    """
    shared = frame(fixed, moving)
    staying = {above.GetID() for node in (fixed, *fixed_side) for above in (node, *chain(node))}
    links = [[moving, *below(kept(moving), shared)]]
    for node in moving_side:
        path = unmoved(node, shared, moving)
        own = [node, *(above for above, _ in path)]
        if not any(inverted for _, inverted in path) and not staying & {above.GetID() for above in own}:
            links.append(own)
    _put_below(transform, shared, undo)
    for own in links:
        for child, parent in zip(own, [*own[1:], transform], strict=True):
            _put_below(child, parent, undo)


def attach(node: Any, transform: Any, opposite: Any, chosen: Sequence[Any], undo: ExitStack) -> None:
    """Put a node, with what moves it already, under a transform; or take it from under that one's opposite.

    One of the two may be None, the transform only where the node is under its opposite.
    Raises `UserError` (code `transform`) where that would move others than the chosen, or needs another frame.
    """
    shared, name = (transform or opposite).GetParentTransformNode(), node.GetName()
    ids = [above.GetID() for above in chain(node)]
    if transform is not None and transform.GetID() in ids:
        return
    if shared is not None and shared.GetID() not in ids:
        hint = f"Put it under '{shared.GetName()}', or have a new node made."
        raise UserError("transform", f"'{name}' is not under '{shared.GetName()}', as the volumes are.", hint)
    own = [node, *below(chain(node), shared)]
    parent = transform
    if opposite is not None and opposite.GetID() in ids:
        own, parent = own[: own.index(opposite)], shared
    with_it = {above.GetID() for above in (*own, *chosen)}
    for above in own[1:]:
        for other in slicer.util.getNodesByClass("vtkMRMLTransformableNode"):
            if other.GetTransformNodeID() == above.GetID() and other.GetID() not in with_it:
                hint = "Harden its transform, or have a new node made."
                text = f"'{name}' is under '{above.GetName()}' together with '{other.GetName()}', which would move too."
                raise UserError("transform", text, hint)
    _put_below(own[-1], parent, undo)


def _put_below(child: Any, parent: Any, undo: ExitStack) -> None:
    before, now = child.GetTransformNodeID(), parent.GetID() if parent is not None else None
    undo.callback(_put_back, child, before, now)
    child.SetAndObserveTransformNodeID(now)


def _put_back(child: Any, before: str | None, now: str | None) -> None:
    # Between a preview and its end the user may have put it elsewhere.
    if child.GetTransformNodeID() == now:
        child.SetAndObserveTransformNodeID(before)


def _up(transforms: list[Any]) -> Path:
    return [(transform, False) for transform in transforms]


def _down(transforms: list[Any]) -> Path:
    return [(transform, True) for transform in reversed(transforms)]


def _reduced(path: Path) -> Path:
    """A path without the ways there and back again."""
    result: Path = []
    for transform, inverted in path:
        if result and result[-1][0].GetID() == transform.GetID() and result[-1][1] != inverted:
            result.pop()
        else:
            result.append((transform, inverted))
    return result
