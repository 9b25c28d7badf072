"""SIREN: a multilayer perceptron with sine activations (Sitzmann et al. 2020; IDIR, Wolterink et al. 2022)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The six second derivatives that a symmetric Hessian has."""


class Siren(Field):
    """`hidden` sine layers of `width` units and a linear output, u(x) = W_n sin(omega (... W_0 x + b_0)) + b_n.

    Weights start uniform within 1/n in the first layer and sqrt(6/n)/omega in the others, n the number of
    inputs (Sitzmann et al. 2020, section 3.2); biases within 1/sqrt(n), the library's default.
    """

    kind = "siren"

    def __init__(
        self, width: int = 256, hidden: int = 3, omega: float = 32.0, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.width, self.hidden, self.omega = width, hidden, omega
        sizes = [3, *[width] * hidden, 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for number, layer in enumerate(self.layers):
            inputs = layer.in_features
            bound = 1 / inputs if number == 0 else math.sqrt(6 / inputs) / omega
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width, "hidden": self.hidden, "omega": self.omega}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer with the frequency in them: sin(W x + b), and W x + b the last."""
        *hidden, last = self.layers
        return [*((self.omega * each.weight, self.omega * each.bias) for each in hidden), (last.weight, last.bias)]

    def value(self, x: Tensor) -> Tensor:
        *hidden, last = self.sines()
        for weight, bias in hidden:
            x = torch.sin(F.linear(x, weight, bias))
        return F.linear(x, *last)

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        value = x
        first = torch.eye(3, dtype=x.dtype, device=x.device)[:, None, :].expand(3, len(x), 3)
        second = x.new_zeros(() if order == 1 else (1 if trace else 6, len(x), 3))
        for number, (weight, bias) in enumerate(self.sines()):
            value, first = F.linear(value, weight, bias), first @ weight.T
            if order == 2 and number > 0:  # a linear first layer leaves them zero
                second = second @ weight.T
            if number < self.hidden:
                value, first, second = _sine(value, first, second, order, trace, number == 0)
        jacobian = first.permute(1, 2, 0)
        if order == 1:
            return Jet(value, jacobian)
        if trace:
            return Jet(value, jacobian, laplacian=second[0])
        hessian = second.new_empty(len(x), 3, 3, 3)
        for entry, (j, k) in zip(second, _PAIRS, strict=True):
            hessian[:, :, j, k] = hessian[:, :, k, j] = entry
        return Jet(value, jacobian, hessian)


def _sine(
    value: Tensor, first: Tensor, second: Tensor, order: int, trace: bool, linear: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain rule through sin z: z' -> cos z', z'' -> cos z'' - sin z' z'. `linear` says that z'' is zero."""
    sine, cosine = torch.sin(value), torch.cos(value)
    if order == 2:
        if trace:
            products = first.square().sum(0, keepdim=True)
        else:
            products = torch.stack([first[j] * first[k] for j, k in _PAIRS])
        curved = products * -sine
        second = curved if linear else torch.addcmul(curved, second, cosine)
    return sine, first * cosine, second
