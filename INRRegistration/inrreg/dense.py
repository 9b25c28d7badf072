"""The dense optimization, coarse to fine, of networks that predict a lattice: what `fast` and its kin share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from inrreg.constraints import constraints
from inrreg.continuation import fewer, take_over
from inrreg.fields import Field, Lattice, LatticeGeometry, Separable
from inrreg.guidance import release
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
WARM, WARM_LAST = 0.3, 0.43
"""Of a stage's steps, and of the last one's, how many are left from a neighbour's networks on."""
OWN, OWN_STAGES = 0.5, 2
"""Of the steps of so many last stages, how many it goes on for from where it ended itself."""
WARM_RATE, WARM_RESIDUAL = 2 / 3, 0.3
"""The first learning rates then, of a cold start's: of the networks, and of the residuals, which have fewer steps."""
FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.3, 1.7, 2.3, 3.2)
"""Between neighbours' fields, that are tried; the best lies between them."""
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
    neighbour's networks on, made as large as the images say, `WARM` of the steps are enough. The neighbour's residuals
    are its own: begun with, they hold the next back. What goes on from its own networks has their size already.
    """
    networks.to(problem.device)
    count, counts, own, highest = len(settings.steps), settings.steps, settings.residual_rate, settings.rate
    numbers, made = range(count), {}
    if warm := problem.start is not None and _begin(problem.start, networks, run):
        own, highest = WARM_RESIDUAL * own, WARM_RATE * highest
        if problem.goes_on:
            numbers, counts = numbers[-OWN_STAGES:], [fewer(steps, OWN) for steps in counts]
        else:
            made[0] = stage(0)
            _grow(networks, made[0][1])
            counts = [fewer(steps, WARM_LAST if n == count else WARM) for n, steps in enumerate(counts, 1)]
    optimizer = torch.optim.Adam(networks.parameters(), lr=highest, betas=MOMENTA)
    rate = cosine(highest, settings.final_rate)
    own /= problem.frame.scale
    own_rate = cosine(own, RESIDUAL_END * own)
    run.plan([counts[n] for n in numbers], [settings.image_spacing[n] ** -3 for n in numbers])
    for number in numbers:
        steps, (field, losses) = counts[number], made.pop(number, None) or stage(number)
        run.field = field
        known = {id(each) for each in networks.parameters()}
        residuals = [each for each in field.parameters() if id(each) not in known]
        residual = torch.optim.Adam(residuals, betas=MOMENTA) if residuals else None
        for part in run.stage(f"{settings.image_spacing[number]:g} mm ({number + 1} of {count})", steps):
            terms = losses()
            release(terms, run.part)
            if residual:
                residual.zero_grad(set_to_none=True)
            descend(optimizer, rate(run.part), terms)
            if residual:
                for group in residual.param_groups:
                    group["lr"] = own_rate(part)
                residual.step()
            if not warm:  # what is left of a warm start is short already
                run.settle(terms, settings.tolerance)
            run.report(terms)
    return field


def _begin(start: Field, networks: nn.Module, run: Run) -> bool:
    """Take over the networks of a neighbour's field, whatever was made of them."""
    theirs, ours = ([part for part in each.modules() if isinstance(part, Separable)] for each in (start, networks))
    if len(theirs) != len(ours):
        theirs = [start] * len(ours)
    return all([take_over(*pair, run) for pair in zip(theirs, ours, strict=True)])


@torch.no_grad()
def _grow(networks: nn.Module, losses: Losses) -> None:
    """Multiply a neighbour's networks by the factor at which the first of a stage's losses, the images', is least.

    Neighbours in a movement differ more in how far they have come than in where they go. Never to nothing, from where
    no gradient leads away.
    """
    present = 1.0

    def loss(factor: float) -> float:
        nonlocal present
        _multiply(networks, factor / present)
        present = factor
        return float(next(iter(losses().values())))

    tried = [loss(factor) for factor in FACTORS]
    best = int(np.argmin(tried))
    found = FACTORS[best]
    if 0 < best < len(FACTORS) - 1:  # the least of a parabola over the logarithm
        bend, slope, _ = np.polyfit(np.log(FACTORS[best - 1 : best + 2]), tried[best - 1 : best + 2], 2)
        found = float(np.exp(-slope / (2 * bend))) if bend > 0 else found
    _multiply(networks, found / present)


def _multiply(networks: nn.Module, factor: float) -> None:
    for part in networks.modules():
        if isinstance(part, Separable):
            part.multiply(factor)
