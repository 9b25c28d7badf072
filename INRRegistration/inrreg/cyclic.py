"""ccIDIR's loss: two networks, there and back, each of which registers, and which must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inrreg.constraints import way_back
from inrreg.fields import Field
from inrreg.pointwise import PointLoss
from inrreg.problem import Problem
from inrreg.regularization import cycle_distance, symmetric_jacobian

if TYPE_CHECKING:
    from inrreg.methods.ccidir import CcidirSettings


class CycleLoss:
    """The sum of both directions' losses (van Harten, Stoker, Isgum, IEEE TMI 2024).

    Each direction is IDIR's problem, with the images' parts exchanged; the cycle term, in mm, ties them together.
    """

    def __init__(self, problem: Problem, settings: CcidirSettings) -> None:
        self.settings, self.scale = settings, problem.frame.scale
        sides = problem, problem.reversed()
        self.losses = [PointLoss(side, settings.points, settings.regularized_points) for side in sides]

    def __call__(self, there: Field, back: Field) -> dict[str, Tensor]:
        """The weighted terms of one random draw."""
        both = [self._one_way(there, back, self.losses[0]), self._one_way(back, there, self.losses[1])]
        both[1] |= way_back(there.value, back.value, self.losses[0].problem)
        return {name: sum(each[name] for each in both if name in each) for name in both[0]}

    def reseed(self, seed: int) -> None:
        """Make the draws from here on those of that seed."""
        for number, loss in enumerate(self.losses):
            loss.voxels.generator.manual_seed(4 * seed + 2 * number)
            loss.box.generator.manual_seed(4 * seed + 2 * number + 1)

    def _one_way(self, there: Field, back: Field, loss: PointLoss) -> dict[str, Tensor]:
        settings = self.settings
        terms, jet = loss(there, order=1)
        if "labels" in terms:
            terms["labels"] = settings.labels * terms["labels"]
        terms["Jacobian"] = settings.jacobian * symmetric_jacobian(jet.jacobian)
        points = torch.cat([loss.voxels.draw(settings.regularized_points)[0], loss.box.draw(loss.outside)])
        terms["cycle"] = settings.cycle * self.scale * cycle_distance(there.value, back.value, points)
        return terms
