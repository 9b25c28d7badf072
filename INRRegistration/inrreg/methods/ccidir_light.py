"""`ccidir-light`: ccIDIR without a GPU, `fast` in both directions at once, which must agree.

Each direction is `fast`'s problem, with the images' parts exchanged; ccIDIR's cycle term ties them together, and its
result is theirs: the midpoint and the inverse (van Harten, Stoker, Isgum, 2024). Their distance is a part of the
uncertainty; what the images do not tell, and both get wrong alike, is the other (`inrreg.information`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from inrreg.methods.fast import FastSettings
from inrreg.protocol import Preset, setting

if TYPE_CHECKING:
    from inrreg.dense import Losses
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class CcidirLightSettings(FastSettings):
    """Settings of `ccidir-light`: those of `fast` in each direction, whose losses are added, and the cycle's.

    The published weight of the cycle. Ten times more makes the two agree so well that their distance tells nothing.
    """

    points: int = setting(5000, "random points a step and direction, of the cycle", low=100, high=10_000_000)
    cycle: float = setting(1e-3, "weight of the mean cycle distance", unit="per mm", low=0, high=1000)


PRESETS = (
    Preset(
        "ccidir-light",
        CcidirLightSettings(),
        "INRRegistration; after van Harten et al., ccIDIR, IEEE TMI 2024, and `fast`",
        "both directions at once, with inverse and uncertainty, without a GPU",
    ),
)


def fit(problem: Problem, settings: CcidirLightSettings, run: Run) -> Field:
    """Optimize both networks for this pair; the result is the cycle of the last stage's lattices."""
    import torch

    from inrreg.constraints import way_back
    from inrreg.dense import Comparison, fit_stages
    from inrreg.fields import Cycle, Separable
    from inrreg.information import doubt
    from inrreg.regularization import cycle_distance

    generator = torch.Generator().manual_seed(run.seed)
    axes = problem.grid.direction.tolist()
    networks = torch.nn.ModuleList(Separable(*settings.shape, axes, generator=generator) for _ in range(2))
    problems = problem, problem.reversed()
    box = problem.box(seed=1)

    def stage(number: int) -> tuple[Field, Losses]:
        ways = [Comparison(each, settings, number, own) for each, own in zip(problems, networks, strict=True)]
        there, back = (way.lattice for way in ways)

        def losses() -> dict[str, torch.Tensor]:
            coefficients = [there.coefficients(), back.coefficients()]
            both = [way.losses(each) for way, each in zip(ways, coefficients, strict=True)]
            f = partial(there.spline, coefficients=coefficients[0])
            g = partial(back.spline, coefficients=coefficients[1])
            both[1] |= way_back(f, g, problem)
            terms = {name: sum(each[name] for each in both if name in each) for name in both[0]}
            distances = (cycle_distance(*maps, box.draw(settings.points)) for maps in ((f, g), (g, f)))
            terms["cycle"] = settings.cycle * problem.frame.scale * sum(distances)
            return terms

        return Cycle(there, back), losses

    field = fit_stages(problem, settings, run, networks, stage)
    run.field = Cycle(field.there, field.back, *doubt(problem, field.there))
    return run.field
