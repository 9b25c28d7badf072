"""What pulls a field beside its data, in every method alike: guiding points, rigid structures, a sliding border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from inrreg.fields.rigid import nearest_motion
from inrreg.guidance import guidance_loss
from inrreg.problem import Problem

RIGIDITY = 0.05
"""Weight of the mean distance from a rigid motion, beside a similarity loss from 0 to 2, per mm."""
MEETING = 0.05
"""Weight of the mean gap or overlap at a sliding border, per mm."""
SOFT = 0.5
"""mm below which a distance pulls in proportion to itself."""


@dataclass(frozen=True)
class Border:
    """Where two sides slide: points (B, 3), their unit normals, and the displacement (B, 3) of the other side.

    All normalized.
    """

    points: Tensor
    normals: Tensor
    displacement: Tensor


def constraints(displacement: Callable[[Tensor], Tensor], problem: Problem) -> dict[str, Tensor]:
    """The losses of what the problem asks for, by name; `displacement` takes points (N, 3), all normalized."""
    terms = {}
    if problem.guides is not None:
        terms["guidance"] = guidance_loss(displacement(problem.guides[0]), problem)
    if (points := problem.rigid_points) is not None:
        moved = problem.before(points + displacement(points.flatten(0, 1)).view_as(points))
        # at the nearest motion the distance does not change with it
        rotation, shift = nearest_motion(points, moved.detach())
        apart = moved - points @ rotation.mT - shift[:, None]
        terms["rigidity"] = RIGIDITY * _mean_distance(apart.norm(dim=-1), problem)
    if (border := problem.border) is not None:
        gap = ((displacement(border.points) - border.displacement) * border.normals).sum(-1)
        terms["border"] = MEETING * _mean_distance(gap, problem)
    return terms


def _mean_distance(distance: Tensor, problem: Problem) -> Tensor:
    """In mm, of normalized ones; rounded at zero (pseudo-Huber)."""
    squared = (distance * problem.frame.scale).square()
    return ((squared + SOFT**2).sqrt() - SOFT).mean()
