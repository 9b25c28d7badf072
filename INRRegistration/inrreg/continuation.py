"""A warm start: an optimization that begins where that of a neighbour ended, as the phases of a series do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from inrreg.fields import Field

if TYPE_CHECKING:
    from inrreg.optimization import Run

SHARE = 1 / 3
"""Of its steps that a method of one stage, or the last of several, takes from a neighbour's field on."""


def take_over(start: Field | None, field: Field, run: Run) -> bool:
    """Give a field the weights of the one that it is to start from.

    False, and told, where that is of another shape: of another method, other settings, or put together from several.
    """
    if start is None:
        return False
    if start.alpha is not None and field.alpha is not None:
        start.alpha = field.alpha  # weights are for every alpha
    if start.spec() != field.spec():
        run.emit("log", {"text": "begun anew: the neighbour's field is none of this method alone"})
        return False
    field.load_state_dict(start.state_dict())
    run.emit("log", {"text": "begun where the neighbour ended"})
    return True


def fewer(steps: int, share: float = SHARE) -> int:
    """The steps that are left of those of a cold start."""
    return math.ceil(share * steps)
