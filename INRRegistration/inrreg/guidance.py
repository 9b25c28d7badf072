"""Guidance by hand: point pairs that the user placed pull the field, as a loss that every method adds to its own.

A pull that the images cannot hold against makes a spike: the point alone is where the user put it. So a point weighs
as what it stands for, a part of the image, and its pull is released in the course of the optimization: it brings its
neighbourhood to where the images take over, which then decide, as far as they tell anything.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from inrreg.landmarks import Pairs
from inrreg.problem import Problem

WORTH = 2400.0
"""mm³ of the image: as much as a similarity loss of 1 there weighs, at the start, each mm that a point is off."""
RELEASED = 0.02
"""What is left of it at the end."""

REACH = 2.0
"""mm: residuals up to here pull in proportion to themselves, larger ones alike."""

SAME = 1.0
"""mm: a landmark this near to a guiding point is that point, and judges nothing."""


def guidance_loss(displacement: Tensor, problem: Problem) -> Tensor:
    """What the pairs weigh, summed, over the whole image's volume, as similarity and regularization are means over it.

    So a pair pulls as hard however many there are, and in an image of any size.
    """
    return weights(displacement, problem).sum() / float(np.prod(problem.grid.extent))


def weights(displacement: Tensor, problem: Problem) -> Tensor:
    """What each pair weighs where the field has this displacement, (G,) mm³ of the image.

    The pseudo-Huber loss of the residual in mm (Charbonnier et al. 1997): one wrong pair does not rule. `displacement`
    (G, 3), normalized, is the field's at the points `problem.guides[0]`.
    """
    start, end = problem.guides
    residual = (problem.before(start + displacement) - end) * problem.frame.scale
    squared = residual.square().sum(-1) / REACH**2
    return WORTH * REACH * ((1 + squared).sqrt() - 1)


def release(terms: dict[str, Tensor], part: float) -> None:
    """Weaken the guidance among a loss's terms, geometrically: `part` of the optimization is done, 0 to 1."""
    if "guidance" in terms:
        terms["guidance"] = RELEASED**part * terms["guidance"]


def independent(pairs: Pairs, guides: Pairs | None) -> Pairs:
    """The landmarks that did not guide: those farther than `SAME` from every guiding point, in both images."""
    if guides is None:
        return pairs
    near = np.zeros(len(pairs), bool)
    for landmark, guide in ((pairs.fixed, guides.fixed), (pairs.moving, guides.moving)):
        near |= (np.linalg.norm(landmark[:, None] - guide[None], axis=-1) <= SAME).any(1)
    return pairs.only(~near)
