"""`reindir`: ccIDIR from networks that a prior made for these two images (van Harten, van Herten, Isgum)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inrreg.methods.ccidir import CcidirSettings
from inrreg.protocol import Preset, setting

if TYPE_CHECKING:
    from inrreg.fields import Field
    from inrreg.optimization import Run
    from inrreg.problem import Problem


@dataclass(frozen=True)
class ReindirSettings(CcidirSettings):
    """Settings of REINDIR's optimization of a pair; what trains a prior has its own (`inrreg.training.settings`).

    The networks' shape is the prior's; `width`, `hidden` and `omega` are for a start without one.
    """

    steps: int = setting(2500, "optimizer steps without a prior, as in ccIDIR", low=1, high=1_000_000)
    prior_steps: int = setting(25, "optimizer steps from a prior", low=1, high=1_000_000)


PRESETS = (
    Preset(
        "reindir",
        ReindirSettings(),
        "van Harten et al., REINDIR: repeated embedding infusion for neural deformable image registration",
        "a few steps from a prior that `inrreg train-prior` made of your own pairs",
        prior=True,
    ),
)


def fit(problem: Problem, settings: ReindirSettings, run: Run) -> Field:
    """Optimize the prior's networks for this pair or, without a prior, random ones as ccIDIR does."""
    from inrreg.methods import ccidir

    if problem.prior is None:
        return ccidir.fit(problem, settings, run)
    return ccidir.optimize(problem.prior.start(problem), problem, settings, settings.prior_steps, run)
