"""`cidir-light`: cIDIR without a GPU, `fast` with a network that is conditioned on the weight of its regularization.

The paper's 50,000 steps are out of reach on a CPU. What makes few steps enough: the network answers at some thousand
nodes instead of at every sample, and is compared densely, as in `fast`; each step sees several alphas, one of each
part of the scale; and the residual at the nodes is piecewise linear in alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.methods.fast import FastSettings
from inrreg.protocol import Preset, setting

if TYPE_CHECKING:
    from inrreg.dense import Losses
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class CidirLightSettings(FastSettings):
    """Settings of `cidir-light`: those of `fast`, which holds at alpha 0.5, and how alpha is seen.

    The weights of total variation and kinks are 10^`decades` times larger at alpha 1, smaller at 0, evenly on a log
    scale: from where they hardly act to where they hold back what moves.
    """

    alphas: int = setting(4, "alphas a step", low=1, high=100)
    residuals: int = setting(3, "residuals over alpha, linear between them", low=1, high=100)
    decades: float = setting(0.6, "powers of ten from the weights to the ends of alpha", low=0.01, high=4)


PRESETS = (
    Preset(
        "cidir-light",
        CidirLightSettings(),
        "INRRegistration; after El Hadramy et al., cIDIR, 2025, and `fast`",
        "one training for every strength of regularization, without a GPU",
        conditioned=True,
    ),
)


def fit(problem: Problem, settings: CidirLightSettings, run: Run) -> Field:
    """Optimize the network for this pair and all alphas; the result is the lattice of the last stage."""
    import torch

    from inrreg.conditioning import MIDDLE, Strata, weight
    from inrreg.dense import Comparison, fit_stages
    from inrreg.fields import ConditionedSeparable

    generator = torch.Generator().manual_seed(run.seed)
    network = ConditionedSeparable(*settings.shape, problem.grid.direction.tolist(), generator=generator)
    strata = Strata(run.seed)

    def stage(number: int) -> tuple[Field, Losses]:
        comparison = Comparison(problem, settings, number, network, settings.residuals)
        lattice = comparison.lattice

        def losses() -> dict[str, torch.Tensor]:
            seen = []
            for _ in range(settings.alphas):
                lattice.alpha = alpha = strata.draw()
                seen.append(comparison.losses(lattice.coefficients(), weight(alpha, 1.0, settings.decades)))
            lattice.alpha = MIDDLE  # what a look at the field meanwhile shows
            return {name: sum(each[name] for each in seen) / len(seen) for name in seen[0]}

        return lattice, losses

    return fit_stages(problem, settings, run, network, stage)
