"""What is computed of one pair, wherever that is; a pair that cannot be used answers in words."""

from __future__ import annotations

from typing import Any

from inrreg.prior import Prior
from inrreg.protocol import UserError
from inrreg.training.meta import Solution, inner_loop, solve, zero_shot
from inrreg.training.pairs import kept
from inrreg.training.settings import TrainingSettings

TASKS = {"reindir": inner_loop, "reptile": inner_loop, "average": solve, "look": zero_shot}


def work(
    task: str, prior: Prior, key: str, entries: dict[str, Any], settings: TrainingSettings, seed: int
) -> Solution | float | str:
    """A task of `TASKS` on the pair of a job's entries; why not, where the pair is not as it should be.

    `key` stands for pair and settings, as `inrreg.training.pairs.kept` has it.
    """
    try:
        example = kept(key, entries)
        prior.family.check(example.problem)
        found = TASKS[task](prior.to(example.problem.device), example, settings, seed)
    except UserError as error:
        return str(error)
    finite = found.finite if isinstance(found, Solution) else found < float("inf")
    return found if finite else "The optimization diverged."
