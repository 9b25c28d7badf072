"""`ccidir`: a forward and a backward SIREN that must agree (van Harten, Stoker, Isgum, IEEE TMI 2024)."""

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
    from inrreg.continuation import fewer, take_over
    from inrreg.fields import Cycle

    networks, begun = random(settings, run.seed), problem.start
    starts = [begun.there, begun.back] if isinstance(begun, Cycle) else [begun] * 2
    warm = all([take_over(*each, run) for each in zip(starts, networks, strict=True)])
    return optimize(networks, problem, settings, fewer(settings.steps) if warm else settings.steps, run)


def random(settings: CcidirSettings, seed: int) -> list[Field]:
    """Networks there and back as they are before anything is known."""
    import torch

    from inrreg.fields import Siren

    generator = torch.Generator().manual_seed(seed)
    return [Siren(*settings.shape, generator=generator) for _ in range(2)]


def optimize(networks: list[Field], problem: Problem, settings: CcidirSettings, steps: int, run: Run) -> Field:
    """Both directions as one field, from the networks there and back as they are."""
    import torch

    from inrreg.cyclic import CycleLoss
    from inrreg.fields import Cycle
    from inrreg.guidance import release
    from inrreg.information import doubt
    from inrreg.optimization import cosine, descend

    field = run.field = Cycle(*networks).to(problem.device)
    optimizer = torch.optim.Adam(field.parameters(), lr=settings.rate)
    rate, loss = cosine(settings.rate, settings.final_rate), CycleLoss(problem, settings)
    run.plan([steps])
    for part in run.stage("both networks", steps):
        terms = loss(field.there, field.back)
        release(terms, run.part)
        descend(optimizer, rate(part), terms)
        run.report(terms)
    run.field = Cycle(*networks, *doubt(problem, field.there))
    return run.field
