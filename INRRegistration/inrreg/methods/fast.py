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
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from inrreg.dense import Losses
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

    @property
    def shape(self) -> tuple[int, int, float, int, float]:
        """What a separable network is made from: width, hidden layers, frequency, rank, size of the first field."""
        return self.width, self.hidden, self.omega, self.rank, self.start


PRESETS = (
    Preset(
        "fast",
        FastSettings(),
        "INRRegistration; networks after Cho et al., NeurIPS 2023, regularizer after Vishnevskiy et al., 2017",
        "the default: seconds on an ordinary computer, any anatomy, sliding organs",
    ),
)


def fit(problem: Problem, settings: FastSettings, run: Run) -> Field:
    """Optimize the network for this pair; the result is the lattice of the last stage."""
    import torch

    from inrreg.dense import Comparison, fit_stages
    from inrreg.fields import Separable

    generator = torch.Generator().manual_seed(run.seed)
    network = Separable(*settings.shape, problem.grid.direction.tolist(), generator=generator)

    def stage(number: int) -> tuple[Field, Losses]:
        comparison = Comparison(problem, settings, number, network)
        lattice = comparison.lattice
        return lattice, lambda: comparison.losses(lattice.coefficients())

    return fit_stages(problem, settings, run, network, stage)
