"""`lddmm`: a velocity network of space and time in LDDMM, coarse to fine (Zhang and Liang, INR-LDDMM, 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class LddmmSettings(Settings):
    """Settings of INR-LDDMM; the three tuples have one entry a stage. Lengths in the operator's weights are in half the
    image's longest side.

    The paper gives three layers, a coarse and a fine stage and their equations; not the activation, the widths, the
    similarity, the operator L, any weight or any number of steps. Activation, width, points, similarity, the number
    of steps and the first learning rate are IDIR's here, L = gamma - alpha Laplacian is LDDMM's (Beg et al. 2005);
    its weights, the smoothing, the spacings, the fit's steps and the rate's fall to a tenth are ours. The paper's
    equations 7 and 8 weigh the velocity differently, and its text sums what its algorithm averages: here it is
    equation 1, half the integral over time, and the displacement is the sum of the steps. The energy is taken at
    random points of the image at random times.
    """

    width: int = setting(256, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers", low=1, high=8)
    omega: float = setting(32.0, "frequency factor of the sine layers", low=1, high=100)
    time_steps: int = setting(8, "least steps of the integration from fixed to moving", low=1, high=64)
    points: int = setting(10_000, "random points a step", low=100, high=10_000_000)
    regularized: float = setting(0.2, "share of that many points at which the energy is taken", low=0.001, high=1)
    steps: tuple = setting((1000, 1500), "optimizer steps", low=1, high=1_000_000)
    fit_steps: int = setting(100, "optimizer steps of the fit before each finer stage", low=1, high=100_000)
    sigma: tuple = setting((2.0, 0.0), "Gaussian smoothing", unit="voxels of the finest axis", low=0, high=50)
    node_spacing: tuple = setting(
        (16.0, 8.0), "spacing of the displacement that is fitted", unit="mm", low=0.5, high=100
    )
    gamma: float = setting(0.1, "weight of the velocity in L = gamma - alpha Laplacian", low=1e-9, high=100)
    alpha: float = setting(0.02, "weight of its Laplacian", low=1e-9, high=100)
    labels: float = setting(0.1, "weight of the labels' cross-entropy", low=0, high=1000)
    rate: float = setting(1e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(1e-5, "learning rate at the end of its cosine", low=0, high=1)


PRESETS = (
    Preset(
        "lddmm",
        LddmmSettings(),
        "Zhang and Liang, INR-LDDMM: fluid-based medical image registration, 2023",
        "large diffeomorphic motion, with its inverse and its course in time; needs a GPU",
        flow=True,
    ),
)

ADAPTED, LOOKED_AT = 50, 20_000
"""Optimizer steps between two looks at how steep the velocity is, and the points of a look."""


def fit(problem: Problem, settings: LddmmSettings, run: Run) -> Field:
    """Optimize the velocity for this pair on smoothed images, fit what was found on a finer grid, go on from there."""
    import torch

    from inrreg.continuation import take_over
    from inrreg.fields import Flow, LatticeGeometry, TimedSiren
    from inrreg.guidance import release
    from inrreg.lddmm import Coarse, check_steps, random_energy, velocity_of
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss

    generator = torch.Generator().manual_seed(run.seed)
    velocity = TimedSiren(settings.width, settings.hidden, settings.omega, generator=generator)
    flow = run.field = Flow(velocity, settings.time_steps).to(problem.device)
    optimizer = torch.optim.Adam(flow.parameters(), lr=settings.rate)
    rate, voxel = cosine(settings.rate, settings.final_rate), float(problem.grid.spacing.min())
    box, energy_of = problem.box(seed=3), (settings.gamma, settings.alpha)
    count = max(1, round(settings.regularized * settings.points))
    stages = list(zip(settings.steps, settings.sigma, settings.node_spacing, strict=True))
    if take_over(velocity_of(problem.start), velocity, run):
        stages = stages[-1:]
    run.plan([number for steps, *_ in stages for number in (settings.fit_steps, steps)][1:])
    total, before, geometry = sum(steps for steps, *_ in stages), 0, None
    for number, (steps, sigma, spacing) in enumerate(stages, 1):
        stage = f"sigma {sigma:g} ({number} of {len(stages)})"
        last, geometry = geometry, LatticeGeometry.covering(problem.grid, problem.frame, spacing)
        if last is not None:
            coarse = Coarse(flow, last, geometry)
            fitting = torch.optim.Adam(flow.parameters())  # its gradients are of another size
            for _ in run.stage(f"{stage}: fit", settings.fit_steps):
                energy = random_energy(flow, box.draw(count), *energy_of)
                terms = {"fit": coarse.distance(flow, *energy_of), "energy": energy}
                descend(fitting, rate(before / total), terms)
                run.report(terms)
        loss = PointLoss(problem, settings.points, 0, sigma * voxel)
        for part in run.stage(stage, steps):
            if round(part * steps) % ADAPTED == 0:
                flow.adapt(box.draw(LOOKED_AT))
            terms, _ = loss(flow, order=1)
            release(terms, run.part)
            if "labels" in terms:
                terms["labels"] = settings.labels * terms["labels"]
            terms["energy"] = random_energy(flow, box.draw(count), *energy_of)
            descend(optimizer, rate((before + part * steps) / total), terms)
            run.report(terms)
        before += steps
    check_steps(flow, box.draw(LOOKED_AT), run)
    return flow
