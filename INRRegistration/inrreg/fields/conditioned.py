"""A SIREN that is conditioned on the weight of its regularization (cIDIR, El Hadramy et al. 2025)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from inrreg.fields.siren import Siren

HARMONIZER = (128, 64, 32)
"""Units of the harmonizer's layers, each followed by layer normalization and SiLU."""


class Conditioned(Siren):
    """A SIREN with activations a sin(b z + c) + d, whose (a, b, c, d) a second network, the harmonizer, finds.

    Whether units share them the paper leaves open; here each unit has its own. b is a multiple of `omega`. At the
    start a and b / omega are 1, c and d 0 at every alpha, as in a SIREN.

    An amplitude and an offset are as well a scale and a bias of the next layer, a frequency and a phase of the one
    before. So at any one alpha this is a plain SIREN, with its derivatives in closed form.
    """

    kind = "conditioned"

    def __init__(
        self,
        width: int = 256,
        hidden: int = 3,
        omega: float = 32.0,
        alpha: float = 0.5,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(width, hidden, omega, generator=generator)
        self.alpha = alpha
        self.register_buffer("_plain", torch.tensor([[1.0], [1.0], [0.0], [0.0]]), persistent=False)
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise((1, *HARMONIZER)):
            parts += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.SiLU()]
        last = nn.Linear(HARMONIZER[-1], 4 * hidden * width)
        self.harmonizer = nn.Sequential(*parts, last)
        for layer in parts[::3]:
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"alpha": self.alpha}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        folded: list[tuple[Tensor, Tensor]] = []
        amplitude = offset = None
        for (weight, bias), parameters in zip(super().sines(), [*self._activations(), None], strict=True):
            if amplitude is not None:
                weight, bias = weight * amplitude, bias + weight @ offset
            if parameters is not None:
                amplitude, frequency, phase, offset = parameters
                weight, bias = weight * frequency[:, None], bias * frequency + phase
            folded.append((weight, bias))
        return folded

    def at(self, alpha: float) -> Siren:
        now, fixed = self.alpha, Siren(self.width, self.hidden, 1.0).to(self.layers[0].weight)
        self.alpha = alpha
        with torch.no_grad():
            for layer, (weight, bias) in zip(fixed.layers, self.sines(), strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        self.alpha = now
        return fixed.freeze()

    def _activations(self) -> Tensor:
        """a, b / omega, c and d of each hidden layer's units at the present alpha, (hidden, 4, width)."""
        like = self.layers[0].weight
        raw = self.harmonizer(like.new_full((1,), 2 * self.alpha - 1)).reshape(self.hidden, 4, self.width)
        return raw + self._plain
