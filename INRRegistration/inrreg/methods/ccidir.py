"""`ccidir`: a forward and a backward SIREN that must agree (van Harten, Stoker, Isgum, IEEE TMI 2024).

Each direction is IDIR's problem, with the images' parts exchanged; the cycle term ties them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.methods.idir import PointSettings
from inrreg.protocol import Preset, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class CcidirSettings(PointSettings):
    """Settings of ccIDIR; weights are those of each direction, whose losses are added.

    The published symmetric Jacobian has no unit and carries over as it is; the cycle distance is in mm here too.
    Labels, where they are given, are not in the paper.
    """

    jacobian: float = setting(0.05, "weight of the symmetric Jacobian", low=0, high=1000)
    labels: float = setting(0.1, "weight of the labels' cross-entropy", low=0, high=1000)
    cycle: float = setting(1e-3, "weight of the mean cycle distance", unit="per mm", low=0, high=1000)


PRESETS = (
    Preset(
        "ccidir",
        CcidirSettings(),
        "van Harten et al., Robust deformable image registration using cycle-consistent INRs, IEEE TMI 43(2), 2024",
        "the published settings, with inverse and uncertainty; minutes on a GPU",
    ),
)


def fit(problem: Problem, settings: CcidirSettings, run: Run) -> Field:
    """Optimize both networks for this pair."""
    import torch

    from inrreg.constraints import way_back
    from inrreg.continuation import fewer, take_over
    from inrreg.fields import Cycle, Siren
    from inrreg.information import doubt
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss
    from inrreg.regularization import cycle_distance, symmetric_jacobian

    generator = torch.Generator().manual_seed(run.seed)
    networks = [Siren(*settings.shape, generator=generator) for _ in range(2)]
    field = run.field = Cycle(*networks).to(problem.device)
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate = cosine(settings.rate, settings.final_rate)
    regularized = settings.regularized_points

    def one_way(there: Field, back: Field, loss: PointLoss) -> dict[str, torch.Tensor]:
        terms, jet = loss(there, order=1)
        if "labels" in terms:
            terms["labels"] = settings.labels * terms["labels"]
        terms["Jacobian"] = settings.jacobian * symmetric_jacobian(jet.jacobian)
        points = torch.cat([loss.voxels.draw(regularized)[0], loss.box.draw(loss.outside)])
        terms["cycle"] = settings.cycle * problem.frame.scale * cycle_distance(there.value, back.value, points)
        return terms

    losses = [PointLoss(each, settings.points, regularized) for each in (problem, problem.reversed())]
    ways = (field.there, field.back, losses[0]), (field.back, field.there, losses[1])
    begun = problem.start
    starts = [begun.there, begun.back] if isinstance(begun, Cycle) else [begun] * 2
    warm = all([take_over(*each, run) for each in zip(starts, networks, strict=True)])
    steps = fewer(settings.steps) if warm else settings.steps
    run.plan([steps])
    for part in run.stage("both networks", steps):
        both = [one_way(*way) for way in ways]
        both[1] |= way_back(field.there.value, field.back.value, problem)
        terms = {name: sum(each[name] for each in both if name in each) for name in both[0]}
        descend(optimizer, rate(part), terms)
        run.report(terms)
    return Cycle(*networks, *doubt(problem, field.there))
