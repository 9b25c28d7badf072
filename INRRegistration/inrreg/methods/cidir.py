"""`cidir`: IDIR conditioned on the weight of its regularization (El Hadramy, Cherkaoui, Cattin, 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.methods.idir import PointSettings
from inrreg.protocol import Preset, UserError, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem

WEIGHTS = {"bending": 1e-3, "hyperelastic": 0.25, "Jacobian": 0.05}
"""The regularizers and what they weigh at alpha 0.5: as published for IDIR, of a mean over points."""


@dataclass(frozen=True)
class CidirSettings(PointSettings):
    """Settings of cIDIR.

    The paper draws the weight itself uniformly from [0, 1], though its regularizers differ in size a thousandfold.
    Here alpha 0.5 is IDIR's published weight of each (`WEIGHTS`), and the weight is 10^`decades` times more at 1 and
    less at 0, evenly on a log scale. The paper samples the moving mask and maps it to the fixed image; here, as in
    every method, it is the other way round.
    """

    steps: int = setting(50_000, "optimizer steps", low=1, high=1_000_000)
    regularizer: str = setting("bending", f"one of {', '.join(WEIGHTS)}")
    decades: float = setting(1.5, "powers of ten from the published weight to the ends of alpha", low=0.01, high=4)

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
    from inrreg.continuation import fewer, take_over
    from inrreg.fields import Conditioned
    from inrreg.guidance import release
    from inrreg.optimization import cosine, descend
    from inrreg.pointwise import PointLoss
    from inrreg.regularization import bending, hyperelastic, jacobian_deviation

    generator = torch.Generator().manual_seed(run.seed)
    field = run.field = Conditioned(*settings.shape, generator=generator).to(problem.device)
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate, strata = cosine(settings.rate, settings.final_rate), Strata(run.seed)
    loss = PointLoss(problem, settings.points, settings.regularized_points)
    terms_of = {"bending": lambda jet: bending(jet.hessian)}
    terms_of |= {"hyperelastic": lambda jet: hyperelastic(jet.jacobian)}
    terms_of |= {"Jacobian": lambda jet: jacobian_deviation(jet.jacobian)}
    name, order = settings.regularizer, 2 if settings.regularizer == "bending" else 1
    steps = fewer(settings.steps) if take_over(problem.start, field, run) else settings.steps
    run.plan([steps])
    for part in run.stage("network", steps):
        field.alpha = strata.draw()
        terms, jet = loss(field, order)
        terms.pop("labels", None)  # they judge alpha afterwards
        terms[name] = weight(field.alpha, WEIGHTS[name], settings.decades) * terms_of[name](jet)
        release(terms, run.part)
        descend(optimizer, rate(part), terms)
        field.alpha = MIDDLE  # what a look at the field meanwhile shows
        run.report(terms)
    return field
