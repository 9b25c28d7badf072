"""Guidance by hand: point pairs that the user placed pull the field, as a loss that every method adds to its own."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from inrreg.landmarks import Pairs
from inrreg.problem import Problem

WEIGHT = 0.03
"""Of the loss, beside a similarity loss from 0 to 2."""

REACH = 2.0
"""mm: residuals up to here pull in proportion to themselves, larger ones alike."""

SAME = 1.0
"""mm: a landmark this near to a guiding point is that point, and judges nothing."""


def guidance_loss(displacement: Tensor, problem: Problem) -> Tensor:
    """The mean pseudo-Huber loss of the residuals in mm (Charbonnier et al. 1997): one wrong pair does not rule.

    `displacement` (G, 3), normalized, is the field's at the points `problem.guides[0]`.
    """
    start, end = problem.guides
    residual = (problem.before(start + displacement) - end) * problem.frame.scale
    squared = residual.square().sum(-1) / REACH**2
    return WEIGHT * ((1 + squared).sqrt() - 1).mean()


def independent(pairs: Pairs, guides: Pairs | None) -> Pairs:
    """The landmarks that did not guide: those farther than `SAME` from every guiding point, in both images."""
    if guides is None:
        return pairs
    near = np.zeros(len(pairs), bool)
    for landmark, guide in ((pairs.fixed, guides.fixed), (pairs.moving, guides.moving)):
        near |= (np.linalg.norm(landmark[:, None] - guide[None], axis=-1) <= SAME).any(1)
    return pairs.only(~near)
