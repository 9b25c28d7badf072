"""A separable SIREN: products of three one-dimensional networks, one an axis, summed over a rank.

On a grid it costs what its axes cost and one matrix product: a thousandth of a multilayer perceptron that is asked at
every point (Cho et al., Separable Physics-Informed Neural Networks, NeurIPS 2023; layers after Sitzmann et al. 2020).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet


class Separable(Field):
    """u_c(x) = `scale` / sqrt(`rank`) sum_r f_cr(t_1) g_cr(t_2) h_cr(t_3), with t the coordinates along `axes`.

    `axes` (3, 3) has them as columns, usually those of the fixed image. `scale` is the size of the first displacement,
    normalized: small, since a search that starts near the identity does not begin by folding.
    """

    kind = "separable"

    def __init__(
        self,
        width: int = 64,
        hidden: int = 2,
        omega: float = 15.0,
        rank: int = 64,
        scale: float = 0.05,
        axes: list[list[float]] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.width, self.hidden, self.omega, self.rank, self.scale = width, hidden, omega, rank, scale
        self.axes = torch.eye(3) if axes is None else torch.as_tensor(axes, dtype=torch.float64)
        self._along: Tensor | None = None
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()  # of all three networks at once
        for number, (inputs, outputs) in enumerate(pairwise([1, *[width] * hidden, 3 * rank])):
            last = number == hidden
            bound = 1.0 if number == 0 else math.sqrt(6 / inputs) / (1.0 if last else omega)
            self.weights.append(torch.empty(3, inputs, outputs).uniform_(-bound, bound, generator=generator))
            bound = 1.0 if last else 1 / math.sqrt(inputs)
            self.biases.append(torch.empty(3, 1, outputs).uniform_(-bound, bound, generator=generator))

    def spec(self) -> dict[str, Any]:
        entries = {name: getattr(self, name) for name in ("width", "hidden", "omega", "rank", "scale")}
        return {"kind": self.kind, **entries, "axes": self.axes.tolist()}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's weights (3, inputs, outputs) and biases (3, 1, outputs), the frequency in them but the last."""
        layers = list(zip(self.weights, self.biases, strict=True))
        return [*((self.omega * weight, self.omega * bias) for weight, bias in layers[:-1]), layers[-1]]

    def value(self, x: Tensor) -> Tensor:
        (factors,) = self._factors(self._local(x), 0)
        return self._sum(factors.prod(0))

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        factors = self._factors(self._local(x), order)
        axes = self._axes(x)

        def derivative(*orders: int) -> Tensor:
            return self._sum(math.prod(factors[n][axis] for axis, n in enumerate(orders)))

        unit = torch.eye(3, dtype=torch.int).tolist()
        value = derivative(0, 0, 0)
        jacobian = torch.stack([derivative(*unit[a]) for a in range(3)], -1) @ axes.T
        if order == 1:
            return Jet(value, jacobian)
        if trace:  # rotations leave it as it is
            return Jet(value, jacobian, laplacian=sum(derivative(*[2 * n for n in unit[a]]) for a in range(3)))
        rows = [
            torch.stack([derivative(*[p + q for p, q in zip(unit[a], unit[b], strict=True)]) for b in range(3)], -1)
            for a in range(3)
        ]
        hessian = torch.stack(rows, -2)
        return Jet(value, jacobian, torch.einsum("ncab,ja,kb->ncjk", hessian, axes, axes))

    @torch.no_grad()
    def multiply(self, factor: float) -> None:
        """Make every displacement that many times as large."""
        self.weights[-1][2].mul_(factor)
        self.biases[-1][2].mul_(factor)

    def on_axes(self, coordinates: list[Tensor], axes: Tensor) -> Tensor:
        if not self.runs_along(axes):
            return super().on_axes(coordinates, axes)
        x, y, z = self._factors_along(coordinates)
        return self._outer(x, y, z).permute(1, 2, 3, 0)

    def runs_along(self, axes: Tensor) -> bool:
        """Whether these are its own axes, along which a grid costs little."""
        if axes is not self._along:  # compared once: reading them waits for the device
            if not torch.allclose(axes.cpu().double(), self.axes.double(), atol=1e-6):
                return False
            self._along = axes
        return True

    def _factors_along(self, coordinates: list[Tensor]) -> list[Tensor]:
        """The factors at the coordinates (n,) along each axis, (3, n, rank) each."""
        (factors,) = self._factors(nn.utils.rnn.pad_sequence(coordinates, batch_first=True), 0)
        return [part[: len(t)].transpose(0, 1) for part, t in zip(factors, coordinates, strict=True)]

    def _outer(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The sum of the products of such factors, (3, k, j, i)."""
        plane = (y[:, :, None] * x[:, None]).flatten(1, 2) * (self.scale / math.sqrt(self.rank))
        return (z @ plane.transpose(1, 2)).reshape(3, z.shape[1], y.shape[1], x.shape[1])

    def _axes(self, like: Tensor) -> Tensor:
        return self.axes.to(like.dtype).to(like.device)  # in this order: not every device has float64

    def _local(self, x: Tensor) -> Tensor:
        return (x @ self._axes(x)).T

    def _factors(self, t: Tensor, order: int) -> list[Tensor]:
        """The factors (3, N, 3, rank) at each axis' coordinates t (3, N), and their derivatives up to `order`."""
        parts = [t[..., None], torch.ones_like(t[..., None]), torch.zeros_like(t[..., None])][: order + 1]
        for number, (weight, bias) in enumerate(self.sines()):
            parts = [torch.baddbmm(bias, parts[0], weight), *(part @ weight for part in parts[1:])]
            if number < self.hidden:
                parts = _sine(*parts)
        return [part.unflatten(-1, (3, self.rank)) for part in parts]

    def _sum(self, product: Tensor) -> Tensor:
        return product.sum(-1) * (self.scale / math.sqrt(self.rank))


def _sine(value: Tensor, *rest: Tensor) -> list[Tensor]:
    """The sine of a value, and its first and second derivative where the value's are given."""
    sine = torch.sin(value)
    parts = [sine]
    if rest:
        cosine = torch.cos(value)
        parts.append(rest[0] * cosine)
    if len(rest) == 2:
        parts.append(rest[1] * cosine - rest[0].square() * sine)
    return parts
