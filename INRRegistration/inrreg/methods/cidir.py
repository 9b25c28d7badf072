"""`cidir`: IDIR conditioned on the weight of its regularization (El Hadramy, Cherkaoui, Cattin, 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.protocol import Preset, Settings, UserError, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem

WEIGHTS = {"bending": 1e-3, "hyperelastic": 0.25, "Jacobian": 0.05}
"""The regularizers and what they weigh at alpha 0.5: as published for IDIR, of a mean over points."""


@dataclass(frozen=True)
class CidirSettings(Settings):
    """Settings of cIDIR.

    The paper draws the weight itself uniformly from [0, 1], though its regularizers differ in size a thousandfold.
    Here alpha 0.5 is IDIR's published weight of each (`WEIGHTS`), and the weight is 10^`decades` times more at 1 and
    less at 0, evenly on a log scale. The paper samples the moving mask and maps it to the fixed image; here, as in
    every method, it is the other way round.
    """

    width: int = setting(256, "units of each hidden layer", low=8, high=1024)
    hidden: int = setting(3, "hidden layers", low=1, high=8)
    omega: float = setting(32.0, "frequency factor of the sine layers at the start", low=1, high=100)
    points: int = setting(10_000, "random points a step", low=100, high=10_000_000)
    regularized: float = setting(1.0, "share of the points that are regularized", low=0.001, high=1)
    steps: int = setting(50_000, "optimizer steps", low=1, high=1_000_000)
    regularizer: str = setting("bending", f"one of {', '.join(WEIGHTS)}")
    decades: float = setting(1.5, "powers of ten from the published weight to the ends of alpha", low=0.01, high=4)
    rate: float = setting(1e-4, "learning rate at the start", low=1e-7, high=1)
    final_rate: float = setting(1e-4, "learning rate at the end of its cosine", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularizer not in WEIGHTS:
            message = f"There is no regularizer '{self.regularizer}'."
            raise UserError("setting", message, f"Choose one of: {', '.join(WEIGHTS)}.")


PRESETS = (
    Preset(
        "cidir",
        CidirSettings(),
        "El Hadramy et al., Conditioned INR for regularized deformable image registration, 2025",
        "one training for every strength of regularization, the published settings; needs a GPU",
        conditioned=True,
    ),
)


def fit(problem: Problem, settings: CidirSettings, run: Run) -> Field:
    """Optimize network and harmonizer for this pair and all alphas, one of which each step sees."""
    import torch

    from inrreg.conditioning import MIDDLE, Strata, weight
    from inrreg.fields import Conditioned
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss
    from inrreg.regularization import bending, hyperelastic, jacobian_deviation

    generator = torch.Generator().manual_seed(run.seed)
    shape = settings.width, settings.hidden, settings.omega
    field = run.field = Conditioned(*shape, generator=generator).to(problem.device)
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate, strata = cosine(settings.rate, settings.final_rate), Strata(run.seed)
    loss = PointLoss(problem, settings.points, max(1, round(settings.regularized * settings.points)))
    terms_of = {"bending": lambda jet: bending(jet.hessian)}
    terms_of |= {"hyperelastic": lambda jet: hyperelastic(jet.jacobian)}
    terms_of |= {"Jacobian": lambda jet: jacobian_deviation(jet.jacobian)}
    name, order = settings.regularizer, 2 if settings.regularizer == "bending" else 1
    run.plan([settings.steps])
    for part in run.stage("network", settings.steps):
        field.alpha = strata.draw()
        terms, jet = loss(field, order)
        terms.pop("labels", None)  # they judge alpha afterwards
        terms[name] = weight(field.alpha, WEIGHTS[name], settings.decades) * terms_of[name](jet)
        descend(optimizer, rate(part), terms)
        field.alpha = MIDDLE  # what a look at the field meanwhile shows
        run.report(terms)
    return field
