"""`fast`: a SIREN predicts the nodes of a coarse B-spline lattice, compared densely by local correlation.

The network is evaluated at some thousand nodes instead of at every sample, so that a step costs little more
than resampling the image; yet it is the network that is optimized, and it captures large motion where the same
lattice, optimized directly, ends in a local minimum. Isotropic total variation (Vishnevskiy et al. 2017)
leaves room for sliding interfaces. Coarse to fine in the image and in the lattice.
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
class FastSettings(Settings):
    """Settings of `fast`; the three tuples have one entry a stage."""

    width: int = setting(128, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers", low=1, high=8)
    omega: float = setting(15.0, "frequency factor of the sine layers", low=1, high=100)
    steps: tuple = setting((80, 60, 30), "optimizer steps", low=1, high=10_000)
    image_spacing: tuple = setting((6.0, 4.0, 2.7), "spacing of the image lattice", unit="mm", low=0.2, high=50)
    node_spacing: tuple = setting((12.0, 8.0, 6.0), "spacing of the displacement nodes", unit="mm", low=0.5, high=100)
    window: tuple = setting((2, 2, 2), "radius of the correlation window, in image lattice samples", low=1, high=9)
    noise: float = setting(1e-4, "variance below which a window counts as flat, intensities 0 to 1", low=1e-9, high=1)
    variation: float = setting(0.2, "weight of the isotropic total variation", low=0, high=100)
    start: float = setting(0.05, "size of the first displacement, of a SIREN's usual one", low=0, high=1)
    rate: float = setting(7e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(7e-5, "learning rate at the end", low=0, high=1)


PRESETS = (
    Preset(
        "fast",
        FastSettings(),
        "INRRegistration; regularizer after Vishnevskiy et al., IEEE TMI 2017",
        "the default: seconds on an ordinary computer, any anatomy, sliding organs",
    ),
)


def fit(problem: Problem, settings: FastSettings, run: Run) -> Field:
    """Optimize the network for this pair; the result is the lattice of the last stage."""
    import torch

    from inrreg.fields import Lattice, LatticeGeometry, Siren
    from inrreg.guidance import guidance_loss
    from inrreg.lattices import ImageLattice
    from inrreg.optimization import cosine, descend
    from inrreg.regularization import isotropic_total_variation

    generator = torch.Generator().manual_seed(run.seed)
    network = Siren(settings.width, settings.hidden, settings.omega, generator=generator).to(problem.device)
    with torch.no_grad():  # a search that starts near the identity does not begin by folding
        network.layers[-1].weight.mul_(settings.start)
        network.layers[-1].bias.mul_(settings.start)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate)
    rate = cosine(settings.rate, settings.final_rate)
    stages = list(zip(settings.steps, settings.image_spacing, settings.node_spacing, settings.window, strict=True))
    run.plan(settings.steps, [spacing**-3 for spacing in settings.image_spacing])
    total, before = sum(settings.steps), 0
    for number, (steps, image_spacing, node_spacing, window) in enumerate(stages, 1):
        geometry = LatticeGeometry.covering(problem.grid, problem.frame, node_spacing)
        lattice = run.field = Lattice([network], geometry).to(problem.device)
        images = ImageLattice(problem, lattice, image_spacing, window, settings.noise)
        for part in run.stage(f"{image_spacing:g} mm ({number} of {len(stages)})", steps):
            coefficients = lattice.coefficients()
            terms = {
                "local NCC": images.loss(coefficients),
                "total variation": settings.variation
                * isotropic_total_variation(lattice.jacobian_at_nodes(coefficients)),
            }
            if problem.guides is not None:
                terms["guidance"] = guidance_loss(lattice.spline(problem.guides[0], coefficients), problem)
            descend(optimizer, rate((before + part * steps) / total), terms)
            run.report(terms)
        before += steps
    return lattice
