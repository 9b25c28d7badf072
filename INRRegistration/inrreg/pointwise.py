"""The losses of the methods that compare images at random points."""

from __future__ import annotations

import torch
from torch import Tensor

from inrreg.constraints import constraints
from inrreg.fields import Field, Jet
from inrreg.problem import Problem
from inrreg.similarity import lobe_cross_entropy, ncc_loss

OUTSIDE = 0.25
"""Regularization points drawn from the whole image for each one drawn from the fixed mask."""


class PointLoss:
    """Global NCC at `points` random voxels of the fixed mask, and the field's derivatives at some of them.

    Of intensities or, in multimodal pairs, of descriptors.

    Derivatives are taken at the first `regularized` of the points, which are as random as the rest, so that
    their mean estimates the same integral at less cost; with a fixed mask also at points of the whole image,
    because outside the mask nothing else tells a network what to do. Both images are smoothed by a Gaussian
    of `sigma` mm.
    """

    def __init__(self, problem: Problem, points: int, regularized: int, sigma: float = 0.0) -> None:
        self.problem, self.points, self.regularized = problem, points, min(regularized, points)
        self.voxels = problem.voxels(sigma, seed=round(100 * sigma))
        self.box = problem.box(seed=1)
        masked = problem.fixed_mask is not None and self.regularized > 0
        self.outside = max(1, round(OUTSIDE * self.regularized)) if masked else 0
        self.fixed, self.moving = problem.compared(sigma)
        self.name = "MIND" if problem.multimodal else "NCC"

    def __call__(self, field: Field, order: int, *, trace: bool = False) -> tuple[dict[str, Tensor], Jet | None]:
        """One random draw: the data terms, and the jet to regularize, None where no point is regularized."""
        points, fixed = self.voxels.draw(self.points)
        plain, values, jet = points[self.regularized :], [], None
        if self.regularized:
            picked = points[: self.regularized]
            if self.outside:
                picked = torch.cat([picked, self.box.draw(self.outside)])
            jet = field.jet(picked, order, trace=trace)
            values.append(jet.value[: self.regularized])
        if len(plain):
            values.append(field.value(plain))
        moved = self.problem.before(points + torch.cat(values))
        weight = self.problem.valid(moved, self.moving)
        seen = fixed[:1] if self.fixed is None else self.fixed.sample(points)
        terms = {self.name: ncc_loss(seen, self.moving.sample(moved), weight)}
        if self.problem.labels is not None:
            terms["labels"] = lobe_cross_entropy(fixed[1:], self.problem.labels[1].sample(moved), weight)
        return terms | constraints(field.value, self.problem), jet
