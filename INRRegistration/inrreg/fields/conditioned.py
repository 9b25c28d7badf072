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


def harmonizer(outputs: int, generator: torch.Generator | None) -> nn.Sequential:
    """The network that takes alpha, from -1 to 1, to the activations' parameters: at first to zeros."""
    parts: list[nn.Module] = []
    for inputs, units in pairwise((1, *HARMONIZER)):
        parts += [nn.Linear(inputs, units), nn.LayerNorm(units), nn.SiLU()]
    for layer in parts[::3]:
        bound = 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    last = nn.Linear(HARMONIZER[-1], outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


def ask(network: nn.Sequential, alpha: float) -> Tensor:
    """What a harmonizer answers at an alpha from 0 to 1, (outputs,)."""
    return network(network[0].weight.new_full((1,), 2 * alpha - 1))


def folded(layers: list[tuple[Tensor, Tensor]], raw: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Layers y = x W + b, (..., inputs, outputs) and (..., 1, outputs), with activations a sin(f z + c) + d in them.

    `raw` (hidden, 4, ..., 1, width) has a - 1, f - 1, c and d of each hidden layer. What comes out, with plain sines
    between, is the same function.
    """
    found: list[tuple[Tensor, Tensor]] = []
    amplitude = offset = None
    for (weight, bias), parameters in zip(layers, [*raw, None], strict=True):
        if amplitude is not None:
            weight, bias = weight * amplitude.transpose(-1, -2), bias + offset @ weight
        if parameters is not None:
            amplitude, frequency, phase, offset = parameters
            amplitude, frequency = 1 + amplitude, 1 + frequency
            weight, bias = weight * frequency, bias * frequency + phase
        found.append((weight, bias))
    return found


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
        self.harmonizer = harmonizer(4 * hidden * width, generator)

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"alpha": self.alpha}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        layers = [(weight.T[None], bias[None, None]) for weight, bias in super().sines()]
        raw = ask(self.harmonizer, self.alpha).reshape(self.hidden, 4, 1, 1, self.width)
        return [(weight[0].T, bias[0, 0]) for weight, bias in folded(layers, raw)]

    def at(self, alpha: float) -> Siren:
        now, fixed = self.alpha, Siren(self.width, self.hidden, 1.0).to(self.layers[0].weight)
        self.alpha = alpha
        with torch.no_grad():
            for layer, (weight, bias) in zip(fixed.layers, self.sines(), strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        self.alpha = now
        return fixed.freeze()
