"""`fast`: a separable SIREN predicts the nodes of a B-spline lattice, compared densely by local correlation.

A network over each axis, their products summed: on a lattice that costs next to nothing, so that a step costs what
resampling the image costs. It is the network that captures large motion, where a lattice optimized directly ends in a
local minimum; at the last stage the nodes get a residual of their own for what the network leaves. Isotropic total
variation (Vishnevskiy et al. 2017) leaves room for sliding interfaces, and so does a penalty on kinks that saturates
and takes the images' noise out of smooth motion. A penalty at the last stage keeps the rest from folding. Coarse to
fine in the image and in the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class FastSettings(Settings):
    """Settings of `fast`; the three tuples have one entry a stage."""

    width: int = setting(64, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(2, "hidden layers", low=1, high=8)
    rank: int = setting(64, "products that are summed", low=1, high=1024)
    omega: float = setting(15.0, "frequency factor of the sine layers", low=1, high=100)
    steps: tuple = setting((60, 60, 30), "optimizer steps", low=1, high=10_000)
    image_spacing: tuple = setting((6.0, 4.0, 2.7), "spacing of the image lattice", unit="mm", low=0.2, high=50)
    node_spacing: tuple = setting((8.0, 8.0, 6.0), "spacing of the displacement nodes", unit="mm", low=0.5, high=100)
    window: float = setting(1.0, "sigma of the correlation's window, in image lattice spacings", low=0.3, high=20)
    variation: float = setting(0.06, "weight of the isotropic total variation at the last stage", low=0, high=100)
    kinks: float = setting(0.2, "weight of the penalty on kinks between neighbouring cells", low=0, high=100)
    kink: float = setting(0.2, "change of the Jacobian above which a kink is one of the motion", low=1e-3, high=100)
    folding: float = setting(1.0, "weight of the penalty on folding, at the last stage", low=0, high=1000)
    noise: float = setting(3e-5, "variance below which a window counts as flat, intensities 0 to 1", low=1e-9, high=1)
    start: float = setting(0.05, "size of the first displacement, in half the image's longest side", low=1e-6, high=1)
    rate: float = setting(3e-3, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(2e-4, "learning rate at the end", low=0, high=1)
    residual_rate: float = setting(0.4, "learning rate of the nodes' residual", unit="mm", low=0, high=10)
    tolerance: float = setting(0.01, "part of the loss that ten steps must gain for a stage to go on", low=0, high=1)


PRESETS = (
    Preset(
        "fast",
        FastSettings(),
        "INRRegistration; networks after Cho et al., NeurIPS 2023, regularizer after Vishnevskiy et al., 2017",
        "the default: seconds on an ordinary computer, any anatomy, sliding organs",
    ),
)

MOMENTA = (0.9, 0.98)
"""Of Adam: a mean of squared gradients over 50 steps follows a stage's."""
COARSER = 1.5
"""The power of a stage's spacing that its total variation weighs with: coarse images say less of where it changes."""
RESIDUAL_END = 0.05
"""The residual's last learning rate, of its first."""


def fit(problem: Problem, settings: FastSettings, run: Run) -> Field:
    """Optimize the network for this pair; the result is the lattice of the last stage."""
    import torch

    from inrreg.constraints import constraints
    from inrreg.fields import Lattice, LatticeGeometry, Separable
    from inrreg.lattices import ImageLattice
    from inrreg.optimization import cosine, descend
    from inrreg.regularization import folding, isotropic_total_variation, kinks

    network = Separable(
        settings.width,
        settings.hidden,
        settings.omega,
        settings.rank,
        settings.start,
        problem.grid.direction.tolist(),
        generator=torch.Generator().manual_seed(run.seed),
    ).to(problem.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate, betas=MOMENTA)
    rate = cosine(settings.rate, settings.final_rate)
    own = settings.residual_rate / problem.frame.scale
    own_rate = cosine(own, RESIDUAL_END * own)
    stages = list(zip(settings.steps, settings.image_spacing, settings.node_spacing, strict=True))
    run.plan(settings.steps, [spacing**-3 for spacing in settings.image_spacing])
    total, before = sum(settings.steps), 0
    for number, (steps, image_spacing, node_spacing) in enumerate(stages, 1):
        last = number == len(stages)
        geometry = LatticeGeometry.covering(problem.grid, problem.frame, node_spacing)
        lattice = run.field = Lattice([network], geometry, residual=last).to(problem.device)
        images = ImageLattice(problem, lattice, image_spacing, settings.window * image_spacing, settings.noise)
        variation = settings.variation * (image_spacing / stages[-1][1]) ** COARSER
        if last:
            residual = torch.optim.Adam([lattice.residual], betas=MOMENTA)
        for part in run.stage(f"{image_spacing:g} mm ({number} of {len(stages)})", steps):
            coefficients = lattice.coefficients()
            jacobian = lattice.jacobian_of_cells(coefficients)
            terms = {
                images.name: images.loss(coefficients),
                "total variation": variation * isotropic_total_variation(jacobian),
                "kinks": settings.kinks * kinks(lattice.kinks(coefficients), settings.kink),
            }
            terms |= constraints(partial(lattice.spline, coefficients=coefficients), problem)
            if last:
                terms["folding"] = settings.folding * folding(jacobian)
                residual.zero_grad(set_to_none=True)
            descend(optimizer, rate((before + part * steps) / total), terms)
            if last:
                for group in residual.param_groups:
                    group["lr"] = own_rate(part)
                residual.step()
            run.settle(terms, settings.tolerance)
            run.report(terms)
        before += steps
    return lattice
