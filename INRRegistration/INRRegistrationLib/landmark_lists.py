"""Lists of control points as landmarks: matched as the engine matches them, and written in the frame's coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from inrreg.landmarks import Pairs, Points, pair, write_points
from inrreg.protocol import UserError

from . import hierarchy

TO_LPS = np.array([-1.0, -1.0, 1.0])


def points(node: Any, to_frame: vtk.vtkAbstractTransform) -> Points:
    """The points that have been placed, LPS mm in the frame. `to_frame` leads there from the node's own coordinates.

    Raises `UserError` (code `landmarks`) where there are none, or one cannot be brought there.
    """
    rows = placed(node)
    if not rows:
        raise _empty(node)
    position, positions = [0.0, 0.0, 0.0], []
    for row in rows:
        node.GetNthControlPointPosition(row, position)
        positions.append(to_frame.TransformPoint(position))
    found = np.array(positions) * TO_LPS
    if not np.isfinite(found).all():
        text = f"A point of '{node.GetName()}' cannot be taken back through the transforms above it."
        raise UserError("landmarks", text, "Remove it, or choose another list.")
    return Points(found, labels=_names(node, rows))


def placed(node: Any) -> list[int]:
    """The numbers of the control points that have a position."""
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    count = node.GetNumberOfControlPoints()
    return [row for row in range(count) if node.GetNthControlPointPositionStatus(row) == defined]


def pairs(fixed: Any, moving: Any) -> Pairs:
    """Which points of two lists belong together; the positions are not filled in. Raises `UserError`."""
    counts = []
    for node in (fixed, moving):
        rows = placed(node)
        if not rows:
            raise _empty(node)
        counts.append(Points(np.zeros((len(rows), 3)), labels=_names(node, rows)))
    try:
        return pair(*counts)
    except UserError as error:
        text = f"'{fixed.GetName()}' has {len(counts[0])} landmarks and '{moving.GetName()}' {len(counts[1])}"
        raise UserError("landmarks", f"{text}: they do not correspond.", error.hint) from None


def _names(node: Any, rows: list[int]) -> tuple[str, ...]:
    """The labels; none unless each point has one of its own: then the engine counts them, which tells them apart."""
    labels = tuple(node.GetNthControlPointLabel(row) for row in rows)
    return labels if all(labels) and len(set(labels)) == len(labels) else ()


def _empty(node: Any) -> UserError:
    return UserError("landmarks", f"'{node.GetName()}' holds no points.", "Place some, or choose another list.")


def matched(fixed: Any, moving: Any) -> list[tuple[str, str, int, int]]:
    """Name, id of the fixed control point, and both its number among the placed points and that of its partner."""
    found = pairs(fixed, moving)
    rows, lists = [placed(node) for node in (fixed, moving)], (fixed, moving)
    ids = [fixed.GetNthControlPointID(row) for row in rows[0]]
    if found.matched_by == "order":
        return [(name, ids[number], number, number) for number, name in enumerate(found.names)]
    numbers = [
        {node.GetNthControlPointLabel(row): number for number, row in enumerate(chosen)}
        for node, chosen in zip(lists, rows, strict=True)
    ]
    return [(name, ids[numbers[0][name]], numbers[0][name], numbers[1][name]) for name in found.names]


def rows_of(fixed: Any, moving: Any, chosen: list[str]) -> tuple[list[int], list[int]]:
    """The numbers, in both lists, of the pairs whose fixed points have those ids."""
    wanted = [entry[2:] for entry in matched(fixed, moving) if entry[1] in chosen]
    return [one for one, _ in wanted], [other for _, other in wanted]


def judging(volumes: tuple[Any, Any], lists: tuple[Any, Any], guides: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of two lists that guide nothing: positions (N, 3) RAS mm on the fixed and on the unmoved moving side.

    In the frame of the two volumes. Raises `UserError` as `points` and `pairs`.
    """
    fixed, moving = volumes
    frame = hierarchy.frame(fixed, moving)
    paths = hierarchy.shown(lists[0], frame), hierarchy.unmoved(lists[1], frame, moving)
    found = [points(node, hierarchy.composed(path)).positions for node, path in zip(lists, paths, strict=True)]
    rows = [entry[2:] for entry in matched(*lists) if entry[1] not in guides]
    return tuple(known[[row[side] for row in rows]] * TO_LPS for side, known in enumerate(found))


def only(known: Points, rows: list[int]) -> Points:
    """Some of the points, by number."""
    return Points(known.positions[rows], labels=tuple(known.labels[row] for row in rows) if known.labels else ())


def write(folder: Path, files: dict[str, Points]) -> None:
    """Write lists by file name. Safe off the GUI thread."""
    for name, known in files.items():
        write_points(folder / name, known)
