"""What pulls a field beside its data, in every method alike: guiding points, rigid structures, a sliding border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inrreg.fields import Field
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

    `moved_normals` (B, 3) are those of the border that the other side has moved: along it there is neither gap nor
    overlap. All normalized.
    """

    points: Tensor
    normals: Tensor
    displacement: Tensor
    moved_normals: Tensor

    @classmethod
    def of(cls, points: Tensor, normals: Tensor, other: Field) -> Border:
        """The border with a field that is the other side's: normals turn by the cofactors of its Jacobian (Nanson)."""
        jet = other.jet(points, 1)
        x, y, z = (torch.eye(3, dtype=points.dtype, device=points.device) + jet.jacobian).unbind(-1)
        cofactors = torch.stack([torch.linalg.cross(*pair) for pair in ((y, z), (z, x), (x, y))], -1)
        turned = (cofactors @ normals[..., None])[..., 0]
        return cls(points, normals, jet.value, torch.nn.functional.normalize(turned, dim=-1))

    def reversed(self) -> Border:
        """The same border on the way back."""
        return Border(self.points + self.displacement, self.moved_normals, -self.displacement, self.normals)


def constraints(displacement: Callable[[Tensor], Tensor], problem: Problem) -> dict[str, Tensor]:
    """The losses of what the problem asks for, by name; `displacement` takes points (N, 3), all normalized."""
    terms = {}
    if problem.guides is not None:
        terms["guidance"] = guidance_loss(displacement(problem.guides[0]), problem)
    if (points := problem.rigid_points) is not None:
        moved = problem.before(points + displacement(points.flatten(0, 1)).view_as(points))
        terms["rigidity"] = _rigidity(points, moved, problem)
    if (border := problem.border) is not None:
        gap = ((displacement(border.points) - border.displacement) * border.moved_normals).sum(-1)
        terms["border"] = MEETING * _mean_distance(gap, problem)
    return terms


def way_back(
    there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], problem: Problem
) -> dict[str, Tensor]:
    """What is left of `constraints` for `back`, the displacement of the reversed problem: its rigid structures.

    They lie where `there`, that of this problem, takes them for now, and not where any image says.
    """
    if (points := problem.rigid_points) is None:
        return {}
    flat = points.flatten(0, 1)
    reached = (flat + there(flat)).detach()
    returned = (reached + back(reached)).view_as(points)
    return {"rigidity": _rigidity(problem.before(reached).view_as(points), returned, problem)}


def _rigidity(start: Tensor, end: Tensor, problem: Problem) -> Tensor:
    """How far points (L, P, 3) of each structure end from the nearest rigid motion of it."""
    # at the nearest motion the distance does not change with it
    rotation, shift = nearest_motion(start, end.detach())
    apart = end - start @ rotation.mT - shift[:, None]
    return RIGIDITY * _mean_distance(apart.norm(dim=-1), problem)


def _mean_distance(distance: Tensor, problem: Problem) -> Tensor:
    """In mm, of normalized ones; rounded at zero (pseudo-Huber)."""
    squared = (distance * problem.frame.scale).square()
    return ((squared + SOFT**2).sqrt() - SOFT).mean()
