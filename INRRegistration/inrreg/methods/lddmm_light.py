"""`lddmm-light`: INR-LDDMM without a GPU, a velocity network of space and time over a lattice, compared densely.

What differs from `lddmm`, and from the paper: the network is separable (one for each of x, y, z and t, their products
summed) and is asked at the nodes of a lattice, between which the velocity is trilinear, instead of a perceptron at
every point of every path; the images are compared at every sample by local correlation, as in `fast`. The steepest
gradient of such a velocity is known, so that the steps are as many as make a diffeomorphism, by proof (`Flow`).
Energy, coarse to fine with the fit of equation 10, and integration are those of `lddmm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class LddmmLightSettings(Settings):
    """Settings of `lddmm-light`; the four tuples have one entry a stage. Lengths in the operator's weights are in half
    the image's longest side."""

    width: int = setting(64, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(2, "hidden layers", low=1, high=8)
    rank: int = setting(64, "products that are summed", low=1, high=1024)
    omega: float = setting(15.0, "frequency factor of the sine layers", low=1, high=100)
    time_steps: int = setting(8, "least steps of the integration from fixed to moving", low=1, high=64)
    steps: tuple = setting((50, 40, 25), "optimizer steps", low=1, high=10_000)
    fit_steps: int = setting(15, "optimizer steps of the fit before each finer stage", low=1, high=10_000)
    image_spacing: tuple = setting((6.0, 5.0, 4.0), "spacing of the image lattice", unit="mm", low=0.2, high=50)
    node_spacing: tuple = setting((16.0, 10.0, 8.0), "spacing of the velocity's nodes", unit="mm", low=0.5, high=100)
    path_spacing: tuple = setting(
        (8.0, 7.0, 6.0), "spacing of the points that are carried", unit="mm", low=0.2, high=50
    )
    window: float = setting(1.0, "sigma of the correlation's window, in image lattice spacings", low=0.3, high=20)
    noise: float = setting(1e-4, "variance below which a window counts as flat, intensities 0 to 1", low=1e-9, high=1)
    gamma: float = setting(0.15, "weight of the velocity in L = gamma - alpha Laplacian", low=1e-9, high=100)
    alpha: float = setting(0.0015, "weight of its Laplacian", low=1e-9, high=100)
    start: float = setting(0.05, "size of the first velocity, in half the image's longest side", low=1e-6, high=1)
    rate: float = setting(3e-3, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(2e-4, "learning rate at the end", low=0, high=1)


PRESETS = (
    Preset(
        "lddmm-light",
        LddmmLightSettings(),
        "INRRegistration; after Zhang and Liang, INR-LDDMM, 2023",
        "a deformation that cannot fold, with its inverse and its course in time, without a GPU",
        flow=True,
    ),
)

ADAPTED = 10
"""Optimizer steps between two looks at how steep the velocity is."""
MOMENTA = (0.9, 0.98)
"""Of Adam: a mean of squared gradients over 50 steps follows a stage's."""


def fit(problem: Problem, settings: LddmmLightSettings, run: Run) -> Field:
    """Optimize the velocity for this pair, on ever finer lattices; the result is the flow of the last one's."""
    import torch

    from inrreg.constraints import constraints
    from inrreg.continuation import take_over
    from inrreg.fields import Flow, LatticeGeometry, TimedSeparable, VelocityLattice
    from inrreg.guidance import release
    from inrreg.lattices import ImageLattice
    from inrreg.lddmm import Coarse, Paths, check_steps, lattice_energy, velocity_of
    from inrreg.optimization import cosine, descend

    network = TimedSeparable(
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
    spacings = settings.image_spacing, settings.node_spacing, settings.path_spacing
    stages = list(zip(settings.steps, *spacings, strict=True))
    if take_over(velocity_of(problem.start), network, run):
        stages = stages[-1:]
    costs = [cost for _, _, node, path in stages for cost in (node**-3, path**-3)]
    run.plan([count for steps, *_ in stages for count in (settings.fit_steps, steps)][1:], costs[1:])
    total, before, flow = sum(steps for steps, *_ in stages), 0, None
    energy_of = settings.gamma, settings.alpha
    for number, (steps, image_spacing, node_spacing, path_spacing) in enumerate(stages, 1):
        geometry = LatticeGeometry.covering(problem.grid, problem.frame, node_spacing)
        time_steps, coarse = settings.time_steps, None
        if flow is not None:
            time_steps, coarse = flow.steps, Coarse(flow, flow.velocity.geometry, geometry)
        flow = run.field = Flow(VelocityLattice(network, geometry), time_steps).to(problem.device)
        stage = f"{image_spacing:g} mm ({number} of {len(stages)})"
        fitting = torch.optim.Adam(network.parameters(), betas=MOMENTA)  # its gradients are of another size
        for _ in run.stage(f"{stage}: fit", settings.fit_steps) if coarse else ():
            flow.hold()
            terms = {"fit": coarse.distance(flow, *energy_of), "energy": lattice_energy(flow.velocity, *energy_of)}
            descend(fitting, rate(before / total), terms)
            run.report(terms)
        images = ImageLattice(problem, None, image_spacing, settings.window * image_spacing, settings.noise)
        paths = Paths(images.points, path_spacing / problem.frame.scale)
        for part in run.stage(stage, steps):
            flow.hold()
            if round(part * steps) % ADAPTED == 0:
                flow.adapt(paths.points)
            terms = {
                "local NCC": images.loss_of(paths.displacement(flow)),
                "energy": lattice_energy(flow.velocity, *energy_of),
            }
            terms |= constraints(flow.value, problem)
            release(terms, run.part)
            descend(optimizer, rate((before + part * steps) / total), terms)
            run.report(terms)
        before += steps
    check_steps(flow, paths.points, run)
    return flow
