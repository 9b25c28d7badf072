"""The dense optimization, coarse to fine, of networks that predict a lattice: what `fast` and its kin share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from inrreg.constraints import constraints
from inrreg.continuation import take_over
from inrreg.fields import Field, Lattice, LatticeGeometry
from inrreg.lattices import ImageLattice
from inrreg.optimization import Run, cosine, descend
from inrreg.problem import Problem
from inrreg.regularization import folding, isotropic_total_variation, kinks

if TYPE_CHECKING:
    from inrreg.methods.fast import FastSettings

MOMENTA = (0.9, 0.98)
"""Of Adam: a mean of squared gradients over 50 steps follows a stage's."""
COARSER = 1.5
"""The power of a stage's spacing that its total variation weighs with: coarse images say less of where it changes."""
WARM = 0.4
"""Of a cold start's work, what is spent from a neighbour's field on, all of it at the last stage."""
WARM_RATE = 1 / 3
"""The first learning rate from a neighbour's field on, of a cold start's."""
RESIDUAL_END = 0.05
"""The residuals' last learning rate, of their first."""

Losses = Callable[[], dict[str, Tensor]]
"""The terms of one step's loss."""


class Comparison:
    """One stage of one direction: a network's lattice, the images on theirs, and the loss that compares them."""

    def __init__(
        self, problem: Problem, settings: FastSettings, number: int, network: Field, residuals: int = 1
    ) -> None:
        """`number` is the stage's, from 0; the last one's nodes get `residuals` of their own (see `Lattice`)."""
        self.problem, self.settings = problem, settings
        self.last = number == len(settings.steps) - 1
        spacing = settings.image_spacing[number]
        self.variation = settings.variation * (spacing / settings.image_spacing[-1]) ** COARSER
        geometry = LatticeGeometry.covering(problem.grid, problem.frame, settings.node_spacing[number])
        self.lattice = Lattice([network], geometry, residuals if self.last else 0).to(problem.device)
        self.images = ImageLattice(problem, self.lattice, spacing, settings.window * spacing, settings.noise)

    def losses(self, coefficients: Tensor, strength: float = 1.0) -> dict[str, Tensor]:
        """The weighted terms of a lattice with these coefficients, `strength` times the regularization."""
        settings, lattice = self.settings, self.lattice
        jacobian = lattice.jacobian_of_cells(coefficients)
        terms = {
            self.images.name: self.images.loss(coefficients),
            "total variation": strength * self.variation * isotropic_total_variation(jacobian),
            "kinks": strength * settings.kinks * kinks(lattice.kinks(coefficients), settings.kink),
        }
        terms |= constraints(partial(lattice.spline, coefficients=coefficients), self.problem)
        if self.last:
            terms["folding"] = settings.folding * folding(jacobian)
        return terms


def fit_stages(
    problem: Problem,
    settings: FastSettings,
    run: Run,
    networks: nn.Module,
    stage: Callable[[int], tuple[Field, Losses]],
) -> Field:
    """Optimize the networks through all stages, and the residuals of the last; its field is the result.

    `stage` makes, by its number, the field of a stage over these networks, and what gives each step's loss. From a
    neighbour's field on, the last stage is enough, with `WARM` of the work of all.
    """
    networks.to(problem.device)
    count, first, highest, begun = len(settings.steps), 0, settings.rate, None
    sizes = [np.maximum(spacing, problem.grid.spacing).prod() for spacing in settings.image_spacing]
    counts = list(settings.steps)
    if problem.start is not None:
        begun = stage(count - 1)
        if take_over(problem.start, begun[0], run):
            first, highest = count - 1, WARM_RATE * settings.rate
            counts[-1] = math.ceil(WARM * sizes[-1] * sum(np.divide(counts, sizes)))
        else:
            begun = None
    optimizer = torch.optim.Adam(networks.parameters(), lr=highest, betas=MOMENTA)
    rate = cosine(highest, settings.final_rate)
    own = settings.residual_rate / problem.frame.scale
    own_rate = cosine(own, RESIDUAL_END * own)
    total, before = sum(counts[first:]), 0
    run.plan(counts[first:], [1 / size for size in sizes[first:]])
    for number, steps in enumerate(counts[first:], first):
        field, losses = begun or stage(number)
        run.field = field
        known = {id(each) for each in networks.parameters()}
        residuals = [each for each in field.parameters() if id(each) not in known]
        residual = torch.optim.Adam(residuals, betas=MOMENTA) if residuals else None
        for part in run.stage(f"{settings.image_spacing[number]:g} mm ({number + 1} of {count})", steps):
            terms = losses()
            if residual:
                residual.zero_grad(set_to_none=True)
            descend(optimizer, rate((before + part * steps) / total), terms)
            if residual:
                for group in residual.param_groups:
                    group["lr"] = own_rate(part)
                residual.step()
            run.settle(terms, settings.tolerance)
            run.report(terms)
        before += steps
    return field
