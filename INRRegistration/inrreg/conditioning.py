"""The scale of regularization: alpha in [0, 1], the weight behind it, and which alphas a training sees."""

from __future__ import annotations

import numpy as np

MIDDLE = 0.5
"""The alpha of a method's own weight, at which a conditioned field answers until a better one is chosen."""
GOLDEN = 0.6180339887498949
EDGE = 0.05
"""How far beyond its ends alpha is drawn, to be cut off there: else a training would never see the ends themselves."""


def weight(alpha: float, middle: float, decades: float) -> float:
    """The weight of the regularization: `middle` at alpha 0.5, `decades` powers of ten more at 1 and less at 0."""
    return middle * 10.0 ** (decades * (2 * alpha - 1))


class Strata:
    """Random alphas of which every run covers [0, 1] evenly: multiples of the golden ratio modulo 1, a random start."""

    def __init__(self, seed: int) -> None:
        self._last = np.random.default_rng(seed).random()

    def draw(self) -> float:
        """The next alpha."""
        self._last = (self._last + GOLDEN) % 1
        return float(np.clip(self._last * (1 + 2 * EDGE) - EDGE, 0, 1))
