"""SIREN: a multilayer perceptron with sine activations (Sitzmann et al. 2020; IDIR, Wolterink et al. 2022)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from inrreg.fields.base import Field, Jet
from inrreg.fields.products import hidden_linear

_LAPLACIAN = ((4, 0, 0), (4, 1, 1), (4, 2, 2))
_HESSIAN = ((4, 0, 0), (5, 0, 1), (6, 0, 2), (7, 1, 1), (8, 1, 2), (9, 2, 2))
"""Where a layer's state holds second derivatives: (channel, j, k). A Hessian is symmetric, a Laplacian a sum."""
_ENTRY = {axes: channel - 4 for channel, j, k in _HESSIAN for axes in ((j, k), (k, j))}


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
        (weight, bias), *hidden, last = self.sines()
        x = torch.sin(F.linear(x, weight, bias))
        for weight, bias in hidden:
            x = torch.sin(hidden_linear(x, weight, bias))
        return F.linear(x, *last)

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        pairs = () if order == 1 else _LAPLACIAN if trace else _HESSIAN
        axes = torch.eye(3, dtype=x.dtype, device=x.device)[:, None, :].expand(3, len(x), 3)
        state = torch.cat([x[None], axes])  # a linear first layer has no second derivatives
        (first_weight, first_bias), *hidden, (weight, bias) = self.sines()
        state = _SineLayer.apply(state @ first_weight.T, first_bias, pairs)
        for inner_weight, inner_bias in hidden:
            state = _SineLayer.apply(hidden_linear(state, inner_weight), inner_bias, pairs)
        state = state @ weight.T
        value, jacobian, second = state[0] + bias, state[1:4].permute(1, 2, 0), state[4:]
        if order == 1:
            return Jet(value, jacobian)
        if trace:
            return Jet(value, jacobian, laplacian=second[0])
        rows = [[second[_ENTRY[j, k]] for k in range(3)] for j in range(3)]
        return Jet(value, jacobian, torch.stack([torch.stack(row, -1) for row in rows], -2))


class _SineLayer(torch.autograd.Function):
    """A value and its derivatives through sin(z + bias), as one operation with one sine and one cosine.

    `state` (C, N, W) holds z, its three first derivatives and, from the second layer on, its second ones; the result
    (4 + S, N, W) the same of the sine: z' -> cos z', z'' -> cos z'' - sin z' z'. `pairs` names
    the second derivatives: (channel, j, k) adds z_j z_k to a channel.
    """

    @staticmethod
    def forward(ctx, state: Tensor, bias: Tensor, pairs: tuple[tuple[int, int, int], ...]) -> Tensor:
        present, channels = len(state), 4 + len({channel for channel, _, _ in pairs})
        result = state.new_empty(channels, *state.shape[1:])
        angle = state[0] + bias
        sine, slope = torch.sin(angle, out=result[0]), torch.cos(angle)
        torch.mul(state[1:], slope, out=result[1:present])
        result[present:].zero_()
        bent = -sine
        for channel, j, k in pairs:
            result[channel].addcmul_(state[1 + j] * bent, state[1 + k])
        ctx.pairs = pairs
        ctx.save_for_backward(state, result, slope)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        state, result, slope = ctx.saved_tensors
        bent = -result[0]
        down = grad[: len(state)] * slope
        along = grad[1] * state[1]
        for channel in range(2, len(state)):
            along.addcmul_(grad[channel], state[channel])
        down[0].addcmul_(bent, along)
        for channel, j, k in ctx.pairs:
            pull = grad[channel] * state[1 + j]
            down[0].addcmul_(pull * state[1 + k], slope, value=-1)
            pull.mul_(bent)
            down[1 + k].add_(pull, alpha=2 if j == k else 1)
            if j != k:
                down[1 + j].addcmul_(grad[channel] * bent, state[1 + k])
        return down, down[0].sum(0), None
