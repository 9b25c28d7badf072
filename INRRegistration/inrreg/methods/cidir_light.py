"""`cidir-light`: cIDIR without a GPU, a conditioned network that predicts the nodes of a B-spline lattice.

The paper's 50,000 steps are out of reach on a CPU. What makes few steps enough: the network answers at some thousand
nodes instead of at every sample and is compared densely, as in `fast`; alpha is drawn from strata, so that the steps
cover its scale evenly; and the large motion, which hardly depends on alpha, is found where a step is cheapest.
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
class CidirLightSettings(Settings):
    """Settings of `cidir-light`; the three tuples have one entry a stage.

    The weight behind alpha is `variation` at 0.5 and 10^`decades` times more at 1, less at 0, evenly on a log scale:
    from 0.01, where regularization hardly acts, to 0.6, where it holds back what moves. Weights far beyond these cost
    all alphas accuracy, since one network serves them.
    """

    width: int = setting(128, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers", low=1, high=8)
    omega: float = setting(15.0, "frequency factor of the sine layers", low=1, high=100)
    steps: tuple = setting((160, 160, 120), "optimizer steps", low=1, high=100_000)
    image_spacing: tuple = setting((6.0, 4.0, 2.7), "spacing of the image lattice", unit="mm", low=0.2, high=50)
    node_spacing: tuple = setting((12.0, 8.0, 6.0), "spacing of the displacement nodes", unit="mm", low=0.5, high=100)
    window: float = setting(1.0, "sigma of the correlation's window, in image lattice spacings", low=0.3, high=20)
    noise: float = setting(1e-4, "variance below which a window counts as flat, intensities 0 to 1", low=1e-9, high=1)
    variation: float = setting(0.08, "weight of the isotropic total variation at alpha 0.5", low=1e-9, high=100)
    decades: float = setting(0.9, "powers of ten from that weight to the ends of alpha", low=0.01, high=4)
    start: float = setting(0.05, "size of the first displacement, of a SIREN's usual one", low=0, high=1)
    rate: float = setting(7e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(7e-5, "learning rate at the end", low=0, high=1)


PRESETS = (
    Preset(
        "cidir-light",
        CidirLightSettings(),
        "INRRegistration; after El Hadramy et al., cIDIR, 2025, and Vishnevskiy et al., IEEE TMI 2017",
        "one training for every strength of regularization, without a GPU",
        conditioned=True,
    ),
)


def fit(problem: Problem, settings: CidirLightSettings, run: Run) -> Field:
    """Optimize the network for this pair and all alphas; the result is the lattice of the last stage."""
    import torch

    from inrreg.conditioning import MIDDLE, Strata, weight
    from inrreg.constraints import constraints
    from inrreg.fields import Conditioned, Lattice, LatticeGeometry
    from inrreg.lattices import ImageLattice
    from inrreg.optimization import cosine, descend
    from inrreg.regularization import isotropic_total_variation

    generator = torch.Generator().manual_seed(run.seed)
    shape = settings.width, settings.hidden, settings.omega
    network = Conditioned(*shape, generator=generator).to(problem.device)
    with torch.no_grad():  # a search that starts near the identity does not begin by folding
        network.layers[-1].weight.mul_(settings.start)
        network.layers[-1].bias.mul_(settings.start)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate)
    rate, strata = cosine(settings.rate, settings.final_rate), Strata(run.seed)
    stages = list(zip(settings.steps, settings.image_spacing, settings.node_spacing, strict=True))
    run.plan(settings.steps, [spacing**-3 for spacing in settings.image_spacing])
    total, before = sum(settings.steps), 0
    for number, (steps, image_spacing, node_spacing) in enumerate(stages, 1):
        geometry = LatticeGeometry.covering(problem.grid, problem.frame, node_spacing)
        lattice = run.field = Lattice([network], geometry).to(problem.device)
        images = ImageLattice(problem, lattice, image_spacing, settings.window * image_spacing, settings.noise)
        for part in run.stage(f"{image_spacing:g} mm ({number} of {len(stages)})", steps):
            network.alpha = alpha = strata.draw()
            coefficients = lattice.coefficients()
            variation = isotropic_total_variation(lattice.jacobian_of_cells(coefficients))
            strength = weight(alpha, settings.variation, settings.decades)
            terms = {images.name: images.loss(coefficients), "total variation": strength * variation}
            terms |= constraints(partial(lattice.spline, coefficients=coefficients), problem)
            network.alpha = MIDDLE  # what a look at the field meanwhile shows
            descend(optimizer, rate((before + part * steps) / total), terms)
            run.report(terms)
        before += steps
    return lattice
