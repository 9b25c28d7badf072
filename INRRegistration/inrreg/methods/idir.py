"""`idir`: one SIREN, global NCC at random points, bending energy (Wolterink, Zwienenberg, Brune, MIDL 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, setting

if TYPE_CHECKING:
    from torch import Tensor

    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.pointwise import PointLoss
    from inrreg.problem import Problem


@dataclass(frozen=True)
class PointSettings(Settings):
    """Settings of IDIR's network, points and steps, which the methods that extend it share.

    Regularization is taken at a random fifth of the points instead of at every one: where it is a mean over points the
    same gradient on average, of little more variance (`benchmarks.step`).
    """

    width: int = setting(256, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers", low=1, high=8)
    omega: float = setting(32.0, "frequency factor of the sine layers", low=1, high=100)
    points: int = setting(10_000, "random points a step", low=100, high=10_000_000)
    regularized: float = setting(0.2, "share of the points that are regularized", low=0.001, high=1)
    steps: int = setting(2500, "optimizer steps", low=1, high=1_000_000)
    rate: float = setting(1e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(1e-4, "learning rate at the end of its cosine", low=0, high=1)

    @property
    def regularized_points(self) -> int:
        """How many points a step regularizes, at least one."""
        return max(1, round(self.regularized * self.points))

    @property
    def shape(self) -> tuple[int, int, float]:
        """What a SIREN is made from."""
        return self.width, self.hidden, self.omega


@dataclass(frozen=True)
class IdirSettings(PointSettings):
    """Settings of IDIR.

    The published weight of the bending energy is 10, divided by the number of points (10,000) once more than a
    mean is: 1e-3 of the mean here. It was set for axes scaled to [-1, 1] each; here one scale serves all axes,
    so that it holds along the longest side and is the same, in mm, along the others.
    """

    bending: float = setting(1e-3, "weight of the mean bending energy", low=0, high=1000)
    jacobian: float = setting(0.0, "weight of the mean |det - 1|", low=0, high=1000)
    hyperelastic: float = setting(0.0, "weight of the mean hyperelastic energy", low=0, high=1000)


_PAPER = IdirSettings()
_SOURCE = "Wolterink et al., Implicit neural representations for deformable image registration, MIDL 2022"

PRESETS = (
    Preset("idir", _PAPER, _SOURCE, "the published settings; minutes on a GPU"),
    Preset(
        "idir-light",
        replace(_PAPER, regularized=0.1, steps=600, rate=5e-4, final_rate=1e-5),
        _SOURCE,
        "IDIR for machines without a GPU: a quarter of the steps, a tenth of the points regularized",
    ),
)


def fit(problem: Problem, settings: IdirSettings, run: Run) -> Field:
    """Optimize the network for this pair."""
    import torch

    from inrreg.continuation import fewer, take_over
    from inrreg.fields import Siren
    from inrreg.guidance import release
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss

    generator = torch.Generator().manual_seed(run.seed)
    field = run.field = Siren(*settings.shape, generator=generator).to(problem.device)
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate = cosine(settings.rate, settings.final_rate)
    loss = PointLoss(problem, settings.points, settings.regularized_points)
    steps = fewer(settings.steps) if take_over(problem.start, field, run) else settings.steps
    run.plan([steps])
    for part in run.stage("network", steps):
        losses = terms(loss, field, settings)
        release(losses, run.part)
        descend(optimizer, rate(part), losses)
        run.report(losses)
    return field


def terms(loss: PointLoss, field: Field, settings: IdirSettings) -> dict[str, Tensor]:
    """The weighted terms of one step's loss."""
    from inrreg.regularization import bending, hyperelastic, jacobian_deviation

    found, jet = loss(field, order=2 if settings.bending else 1)
    if jet and settings.bending:
        found["bending"] = settings.bending * bending(jet.hessian)
    if jet and settings.jacobian:
        found["Jacobian"] = settings.jacobian * jacobian_deviation(jet.jacobian)
    if jet and settings.hyperelastic:
        found["hyperelastic"] = settings.hyperelastic * hyperelastic(jet.jacobian)
    return found
