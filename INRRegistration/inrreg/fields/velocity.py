"""Velocities v(x, t) of a flow: networks of space and time, asked at any point or at the nodes of a lattice.

A velocity is a field at its present `time`, 0 to 1. INR-LDDMM (Zhang and Liang 2023) has a perceptron of (x, y, z, t).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet, from_spec
from inrreg.fields.lattice import LatticeGeometry
from inrreg.fields.separable import Separable
from inrreg.fields.siren import Siren

SLOW = 0.1
"""How a network's first frequencies in time compare with those in space: a velocity that changes little is a start."""
SAMPLED = 1.2
"""By what a gradient that is known at points may be exceeded between them."""


class Velocity:
    """What every velocity adds to a field."""

    time: float = 0.0
    """The moment, 0 to 1, at which `value` and `jet` answer."""

    def hold(self, times: Sequence[float]) -> None:
        """Prepare to be asked at these times, with the weights as they are now."""

    def course(self, times: Sequence[float], coordinates: list[Tensor], axes: Tensor) -> Tensor:
        """The velocities at those times on a grid, (T, k, j, i, 3); coordinates and axes as in `Field.on_axes`."""
        z, y, x = torch.meshgrid(*reversed(coordinates), indexing="ij")
        points, found = torch.stack([x, y, z], -1) @ axes.T, []
        for self.time in times:
            found.append(self.value(points.reshape(-1, 3)).reshape(points.shape))
        return torch.stack(found)

    def steepness(self, points: Tensor) -> Tensor:
        """An estimate of the velocity's Lipschitz constant at its present time: its steepest gradient at points (N, 3)
        and some more. No gradient."""
        with torch.no_grad():
            return SAMPLED * _spectral_bound(self.jet(points, 1).jacobian).max()


class TimedSiren(Siren, Velocity):
    """A SIREN of (x, y, z, t): time is a fourth input, from -1 to 1, of the first layer."""

    kind = "timed siren"

    def __init__(
        self, width: int = 256, hidden: int = 3, omega: float = 32.0, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(width, hidden, omega, generator=generator)
        self.clock = nn.Parameter(torch.empty(width).uniform_(-SLOW / 4, SLOW / 4, generator=generator))

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        (weight, bias), *rest = super().sines()
        return [(weight, bias + self.omega * (2 * self.time - 1) * self.clock), *rest]


class TimedSeparable(Separable, Velocity):
    """A separable SIREN whose products have amplitudes that depend on time: a fourth factor, 1 +- a little at first."""

    kind = "timed separable"

    def __init__(self, *shape: Any, generator: torch.Generator | None = None, **entries: Any) -> None:
        super().__init__(*shape, generator=generator, **entries)
        bound = math.sqrt(6 / self.width)
        self.clock_in = nn.Parameter(torch.empty(2, self.width).uniform_(-1, 1, generator=generator))
        self.clock_out = nn.Parameter(
            torch.empty(self.width, 3 * self.rank).uniform_(-SLOW * bound, SLOW * bound, generator=generator)
        )

    def course(self, times: Sequence[float], coordinates: list[Tensor], axes: Tensor) -> Tensor:
        if not self.runs_along(axes):
            return super().course(times, coordinates, axes)
        x, y, z = self._factors_along(coordinates)
        amplitudes = torch.stack([self._amplitudes(time) for time in times], 1)
        volume = self._outer(x, y, (z[:, None] * amplitudes[:, :, None]).flatten(1, 2))
        return volume.unflatten(1, (len(times), z.shape[1])).permute(1, 2, 3, 4, 0)

    def on_axes(self, coordinates: list[Tensor], axes: Tensor) -> Tensor:
        return self.course([self.time], coordinates, axes)[0]

    def _sum(self, product: Tensor) -> Tensor:
        return super()._sum(product * self._amplitudes(self.time))

    def _amplitudes(self, time: float) -> Tensor:
        """(3, rank)."""
        slope, start = self.clock_in
        waves = torch.sin(math.pi * ((2 * time - 1) * slope + start))
        return 1 + (waves @ self.clock_out).reshape(3, self.rank)


class VelocityLattice(Field, Velocity):
    """A network's velocities at the nodes of a lattice, and between them trilinear; beyond it those of its border.

    So its gradient is known everywhere: in a cell it is an average of those at the cell's corners, the steepest of
    which bounds the velocity's Lipschitz constant, not only at points that were looked at.
    """

    kind = "velocity lattice"
    order: ClassVar[int] = 1

    def __init__(self, network: Field | dict[str, Any], geometry: LatticeGeometry | dict[str, Any]) -> None:
        super().__init__()
        self.network = network if isinstance(network, Field) else from_spec(network)
        self.geometry = geometry if isinstance(geometry, LatticeGeometry) else LatticeGeometry.from_dict(geometry)
        self.register_buffer("_held", None, persistent=False)
        self._times: tuple[float, ...] = ()
        self._constants: dict[Any, Any] = {}

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "network": self.network.spec(), "geometry": self.geometry.to_dict()}

    def hold(self, times: Sequence[float]) -> None:
        self._held, self._times = self._nodes(times), tuple(times)

    @property
    def held(self) -> Tensor:
        """The nodes' velocities at the times that are held, (T, k, j, i, 3) normalized."""
        return self._held

    def nodes(self) -> Tensor:
        """The velocities at the nodes at the present time, (k, j, i, 3) normalized."""
        return self._held[self._times.index(self.time)] if self.time in self._times else self._nodes([self.time])[0]

    def value(self, x: Tensor) -> Tensor:
        nodes, key = self.nodes(), ("volume", x.dtype, x.device)
        if key not in self._constants:
            self._constants[key] = self.geometry.volume(nodes)
        return replace(self._constants[key], data=nodes.movedim(-1, 0)[None]).sample(x).movedim(0, -1)

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        nodes, rotation = self.nodes(), self._constant("rotation", x)
        spacing, last = self._constant("spacing", x), torch.tensor(self.geometry.size, device=x.device) - 1
        at = (x @ rotation - self._constant("origin", x)) / spacing
        within = (at >= 0) & (at <= last)
        at = torch.minimum(at.clamp(min=0), last)
        base = torch.minimum(at.detach().floor().long(), last - 1)
        i, j, k = (base[:, a, None] + torch.arange(2, device=x.device) for a in range(3))
        corners = nodes[k[:, :, None, None], j[:, None, :, None], i[:, None, None, :]]
        weight = torch.stack([1 - (at - base), at - base], -1)  # (N, axis, end)
        slope = (weight.new_tensor([-1.0, 1.0]) / spacing[:, None]) * within[..., None]

        def combined(*parts: Tensor) -> Tensor:
            return torch.einsum("nkjic,ni,nj,nk->nc", corners, *parts)

        axes = weight.unbind(1), slope.unbind(1)
        columns = [combined(*(axes[int(a == axis)][a] for a in range(3))) for axis in range(3)]
        return Jet(combined(*axes[0]), torch.stack(columns, -1) @ rotation.T)

    @torch.no_grad()
    def steepness(self, points: Tensor) -> Tensor:
        """A bound of the Lipschitz constant at the present time, exact but for a few percent; needs no points."""
        nodes = self.nodes()
        bound = nodes.new_zeros(())
        edges = [nodes.diff(dim=2 - a) / self.geometry.spacing[a] for a in range(3)]
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():  # of a cell, along x, y, z
            columns = []
            for axis, part in enumerate(edges):
                for other in {0, 1, 2} - {axis}:
                    part = part.narrow(2 - other, corner[other], nodes.shape[2 - other] - 1)
                columns.append(part)
            bound = torch.maximum(bound, _spectral_bound(torch.stack(columns, -1)).max())
        return bound

    def _nodes(self, times: Sequence[float]) -> Tensor:
        like = next(self.network.parameters())
        coordinates = self._constant("coordinates", like).split(self.geometry.size)
        return self.network.course(times, list(coordinates), self._constant("rotation", like))

    def _constant(self, name: str, like: Tensor) -> Tensor:
        return self.geometry.constant(name, like, self._constants)


def laplacian(nodes: Tensor, spacing: Iterable[float]) -> Tensor:
    """Of vectors on a lattice, (..., k, j, i, 3), at its inner nodes, (..., k - 2, j - 2, i - 2, 3), by differences.

    `spacing` (3,) is along i, j, k.
    """
    total = 0
    for axis, step in enumerate(spacing):
        part = nodes.diff(n=2, dim=-2 - axis) / step**2
        for other in {0, 1, 2} - {axis}:
            part = part.narrow(-2 - other, 1, nodes.shape[-2 - other] - 2)
        total = total + part
    return total


def inner(nodes: Tensor) -> Tensor:
    """The nodes at which `laplacian` answers."""
    return nodes[..., 1:-1, 1:-1, 1:-1, :]


def _spectral_bound(matrix: Tensor) -> Tensor:
    """At least the spectral norm of each matrix (..., 3, 3): the root of its largest row sum times its largest column
    sum, of absolute values, or the Frobenius norm where that is less."""
    sizes = matrix.abs()
    sums = sizes.sum(-1).amax(-1) * sizes.sum(-2).amax(-1)
    return torch.minimum(sums, matrix.square().sum((-1, -2))).sqrt()
