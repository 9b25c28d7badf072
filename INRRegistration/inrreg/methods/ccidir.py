"""`ccidir`: a forward and a backward SIREN that must agree (van Harten, Stoker, Isgum, IEEE TMI 2024).

Each direction is IDIR's problem, with the images' parts exchanged; the cycle term ties them together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class CcidirSettings(Settings):
    """Settings of ccIDIR; weights are those of each direction, whose losses are added.

    The published symmetric Jacobian has no unit and carries over as it is; the cycle distance is in mm here too.
    Labels, where they are given, are not in the paper.
    """

    width: int = setting(256, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers of each network", low=1, high=8)
    omega: float = setting(32.0, "frequency factor of the sine layers", low=1, high=100)
    points: int = setting(10_000, "random points a step and direction", low=100, high=10_000_000)
    regularized: float = setting(1.0, "share of the points that are regularized", low=0.001, high=1)
    steps: int = setting(2500, "optimizer steps", low=1, high=1_000_000)
    jacobian: float = setting(0.05, "weight of the symmetric Jacobian", low=0, high=1000)
    bending: float = setting(0.0, "weight of the mean bending energy", low=0, high=1000)
    labels: float = setting(0.1, "weight of the labels' cross-entropy", low=0, high=1000)
    cycle: float = setting(1e-3, "weight of the mean cycle distance", unit="per mm", low=0, high=1000)
    rate: float = setting(1e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(1e-4, "learning rate at the end of its cosine", low=0, high=1)


_PAPER = CcidirSettings()
_SOURCE = "van Harten et al., Robust deformable image registration using cycle-consistent INRs, IEEE TMI 43(2), 2024"

PRESETS = (
    Preset("ccidir", _PAPER, _SOURCE, "the published settings, with inverse and uncertainty; minutes on a GPU"),
    Preset(
        "ccidir-light",
        replace(_PAPER, points=5000, regularized=0.2, steps=600, bending=1e-3, rate=5e-4, final_rate=1e-5),
        _SOURCE,
        "inverse and uncertainty without a GPU: half the points, a quarter of the steps, IDIR's bending energy",
    ),
)


def fit(problem: Problem, settings: CcidirSettings, run: Run) -> Field:
    """Optimize both networks for this pair."""
    import torch

    from inrreg.fields import Cycle, Siren
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss
    from inrreg.regularization import bending, cycle_distance, symmetric_jacobian

    generator = torch.Generator().manual_seed(run.seed)
    networks = [Siren(settings.width, settings.hidden, settings.omega, generator=generator) for _ in range(2)]
    field = Cycle(*networks).to(problem.device)
    run.field = field
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate = cosine(settings.rate, settings.final_rate)
    regularized = max(1, round(settings.regularized * settings.points))

    def one_way(there: Field, back: Field, loss: PointLoss) -> dict[str, torch.Tensor]:
        terms, jet = loss(there, order=2 if settings.bending else 1)
        if "labels" in terms:
            terms["labels"] = settings.labels * terms["labels"]
        if settings.bending:
            terms["bending"] = settings.bending * bending(jet.hessian)
        terms["Jacobian"] = settings.jacobian * symmetric_jacobian(jet.jacobian)
        points = torch.cat([loss.voxels.draw(regularized)[0], loss.box.draw(loss.outside)])
        terms["cycle"] = settings.cycle * problem.frame.scale * cycle_distance(there, back, points)
        return terms

    losses = [PointLoss(each, settings.points, regularized) for each in (problem, problem.reversed())]
    ways = (field.there, field.back, losses[0]), (field.back, field.there, losses[1])
    run.plan([settings.steps])
    for part in run.stage("both networks", settings.steps):
        both = [one_way(*way) for way in ways]
        terms = {name: sum(each[name] for each in both if name in each) for name in both[0]}
        descend(optimizer, rate(part), terms)
        run.report(terms)
    return field
