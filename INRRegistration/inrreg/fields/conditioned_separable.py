"""A separable SIREN that is conditioned on the weight of its regularization, as cIDIR's is (El Hadramy et al. 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inrreg.fields.conditioned import ask, folded, harmonizer
from inrreg.fields.separable import Separable


class ConditionedSeparable(Separable):
    """A separable SIREN whose three networks have activations a sin(b z + c) + d that a harmonizer finds.

    Each unit of each axis has its own, and a harmonizer as published answers for all. On the axes' few coordinates
    that costs next to nothing, and at any one alpha this is a plain separable SIREN.
    """

    kind = "conditioned separable"

    def __init__(
        self,
        width: int = 64,
        hidden: int = 2,
        omega: float = 15.0,
        rank: int = 64,
        scale: float = 0.05,
        axes: list[list[float]] | None = None,
        alpha: float = 0.5,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(width, hidden, omega, rank, scale, axes, generator=generator)
        self.alpha = alpha
        self.harmonizer = harmonizer(4 * hidden * 3 * width, generator)

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"alpha": self.alpha}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        return folded(super().sines(), ask(self.harmonizer, self.alpha).reshape(self.hidden, 4, 3, 1, self.width))

    def at(self, alpha: float) -> Separable:
        like, now = self.weights[0], self.alpha
        fixed = Separable(self.width, self.hidden, 1.0, self.rank, self.scale, self.axes.tolist()).to(like)
        self.alpha = alpha
        with torch.no_grad():
            for number, (weight, bias) in enumerate(self.sines()):
                fixed.weights[number].copy_(weight)
                fixed.biases[number].copy_(bias)
        self.alpha = now
        return fixed.freeze()
