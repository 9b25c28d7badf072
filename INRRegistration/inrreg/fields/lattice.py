"""A cubic B-spline lattice whose nodes an implicit neural representation predicts.

The network captures large motion, as a network does; the lattice makes a dense evaluation cheap: over a regular grid it
is three small matrix products (Unser 1999 for the splines). A residual at the nodes may take what the network leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet, from_spec
from inrreg.geometry import Frame, Grid, Volume
from inrreg.memory import in_chunks


@dataclass(frozen=True)
class LatticeGeometry:
    """Where the nodes are, in normalized coordinates: node (i, j, k) at `rotation` (`origin` + index `spacing`).

    `size` is (i, j, k); `origin` and `spacing` (3,) are along the fixed image's axes, which are the
    columns of `rotation` (3, 3).
    """

    size: tuple[int, int, int]
    origin: np.ndarray
    spacing: np.ndarray
    rotation: np.ndarray

    @classmethod
    def covering(cls, grid: Grid, frame: Frame, spacing: float | np.ndarray) -> LatticeGeometry:
        """Nodes at most `spacing` mm apart, one or (3,), over a grid's box, with the margin that the spline needs."""
        steps = np.maximum(1, np.ceil(grid.extent / spacing - 1e-6)).astype(int)
        size = tuple(int(n) + 3 for n in steps)
        step = grid.extent / steps / frame.scale
        first = grid.direction.T @ frame.normalize(grid.origin)
        return cls(size, first - step, step, grid.direction)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LatticeGeometry:
        """What `to_dict` described. Raises ValueError for nodes that all lie in one place."""
        if not all(step > 0 for step in data["spacing"]):
            raise ValueError("not the spacing of a lattice")
        return cls(tuple(data["size"]), *(np.array(data[name]) for name in ("origin", "spacing", "rotation")))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in ("origin", "spacing", "rotation")}
        return {"size": list(self.size), **arrays}

    @property
    def coordinates(self) -> np.ndarray:
        """Positions of the nodes along the first axis, then along the second, then the third, normalized."""
        return np.concatenate([self.origin[a] + self.spacing[a] * np.arange(n) for a, n in enumerate(self.size)])

    def points(self) -> np.ndarray:
        """Positions of the nodes, (k, j, i, 3) normalized."""
        x, y, z = np.split(self.coordinates, np.cumsum(self.size)[:2])
        return np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1) @ self.rotation.T

    def volume(self, values: Tensor) -> Volume:
        """Vectors at the nodes, (k, j, i, C), as a volume: trilinear between them, beyond them those of the border."""
        scale = 2 / ((np.array(self.size) - 1) * self.spacing)
        maps = self.rotation.T * scale[:, None], -self.origin * scale - 1
        return Volume(
            values.movedim(-1, 0)[None], *(torch.as_tensor(each).to(values.dtype).to(values.device) for each in maps)
        )

    def constant(self, name: str, like: Tensor, made: dict[Any, Any]) -> Tensor:
        """An array of the geometry in the type and on the device of another tensor, each kept in `made`."""
        key = (name, like.dtype, like.device)
        if key not in made:
            exact = torch.as_tensor(getattr(self, name))
            made[key] = exact.to(like.dtype).to(like.device)  # in this order: not every device has float64
        return made[key]

    def weights(self, axis: int, points: np.ndarray, derivative: int = 0) -> Tensor:
        """The matrix (P, n) that takes the coefficients along one axis to P points of that axis, normalized."""
        t = (np.asarray(points) - self.origin[axis]) / self.spacing[axis]
        base = np.clip(np.floor(t).astype(int), 1, self.size[axis] - 3)
        matrix = np.zeros((len(t), self.size[axis]))
        basis = _basis(torch.as_tensor(t - base), derivative).numpy() / self.spacing[axis] ** derivative
        for tap in range(4):
            matrix[np.arange(len(t)), base - 1 + tap] = basis[..., tap]
        return torch.as_tensor(matrix, dtype=torch.float32)

    def bases(self, grid: Grid, frame: Frame) -> list[Tensor]:
        """`weights` for the points of a grid with the same axes, one matrix each for i, j and k."""
        first = grid.direction.T @ frame.normalize(grid.origin)
        step = grid.spacing / frame.scale
        return [self.weights(axis, first[axis] + step[axis] * np.arange(n)) for axis, n in enumerate(grid.size)]


def spread(coefficients: Tensor, bases: list[Tensor]) -> Tensor:
    """The spline on a grid, (k, j, i, C), from its coefficients and the grid's `bases`: one matrix product an axis."""
    x, y, z = bases
    u = coefficients.permute(3, 0, 1, 2) @ x.T  # the components first: the products are of whole matrices then
    u = y @ u
    u = (z @ u.flatten(2)).reshape(len(u), len(z), *u.shape[2:])
    return u.permute(1, 2, 3, 0)


def _basis(t: Tensor, derivative: int) -> Tensor:
    """The four cubic B-spline weights (..., 4) at t in [0, 1], or their first or second derivative."""
    if derivative == 0:
        parts = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
        return torch.stack(parts, -1) / 6
    if derivative == 1:
        parts = [-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]
        return torch.stack(parts, -1) / 2
    return torch.stack([1 - t, 3 * t - 2, 1 - 3 * t, t], -1)


_FIRST = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
_PURE = [(2, 0, 0), (0, 2, 0), (0, 0, 2)]
_SECOND = [*_PURE, (1, 1, 0), (1, 0, 1), (0, 1, 1)]
"""How often a derivative goes along each axis."""


def _plus(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class Lattice(Field):
    """A cubic B-spline whose coefficients are a network's values at the nodes; several networks are averaged.

    With `residuals` each node has displacements of its own, zero at first, that are added to the network's: one, or of
    conditioned networks several, evenly over alpha from 0 to 1 and linear between them.
    """

    kind = "lattice"

    def __init__(
        self,
        networks: list[Field | dict[str, Any]],
        geometry: LatticeGeometry | dict[str, Any],
        residuals: int = 0,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(part if isinstance(part, Field) else from_spec(part) for part in networks)
        self.geometry = geometry if isinstance(geometry, LatticeGeometry) else LatticeGeometry.from_dict(geometry)
        self.residuals = nn.Parameter(torch.zeros(residuals, *self.geometry.size[::-1], 3)) if residuals else None
        self._constants: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self.register_buffer("_frozen", None, persistent=False)

    def spec(self) -> dict[str, Any]:
        networks, geometry = [part.spec() for part in self.networks], self.geometry.to_dict()
        residuals = 0 if self.residuals is None else len(self.residuals)
        return {"kind": self.kind, "networks": networks, "geometry": geometry, "residuals": residuals}

    @property
    def alpha(self) -> float | None:
        """That of its networks, which share one."""
        return self.networks[0].alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        for part in self.networks:
            part.alpha = alpha
        if self._frozen is not None:
            self.freeze()

    def at(self, alpha: float) -> Lattice:
        own = self.residuals is not None
        fixed = Lattice([part.at(alpha) for part in self.networks], self.geometry, residuals=int(own))
        if own:
            fixed.residuals.data = self._residual(alpha).detach()[None]
        fixed._constants = self._constants
        return fixed.freeze()

    def coefficients(self) -> Tensor:
        """The spline's coefficients, (k, j, i, 3) normalized displacements; kept once the field is frozen."""
        if self._frozen is not None:
            return self._frozen
        like = next(self.networks.parameters())
        coordinates = self._constant("coordinates", like).split(self.geometry.size)
        axes = self._constant("rotation", like)
        mean = torch.stack([part.on_axes(list(coordinates), axes) for part in self.networks]).mean(0)
        return mean if self.residuals is None else mean + self._residual(self.alpha)

    def _residual(self, alpha: float | None) -> Tensor:
        """The nodes' own displacements at an alpha, (k, j, i, 3)."""
        place = (alpha or 0.0) * (len(self.residuals) - 1)
        first = min(int(place), max(0, len(self.residuals) - 2))
        low, high = self.residuals[first], self.residuals[min(first + 1, len(self.residuals) - 1)]
        return torch.lerp(low, high, place - first)

    def on_grid(self, grid: Grid, frame: Frame) -> Tensor:
        return self.spline_on_grid(grid, frame, self.coefficients())

    @torch.no_grad()
    def spline_on_grid(self, grid: Grid, frame: Frame, coefficients: Tensor) -> Tensor:
        """The spline (k, j, i, C) at a grid that has the lattice's axes, from coefficients (k, j, i, C) at hand."""
        return spread(coefficients, [basis.to(coefficients.device) for basis in self.geometry.bases(grid, frame)])

    def freeze(self) -> Lattice:
        super().freeze()
        self._frozen = None
        self._frozen = self.coefficients()
        return self

    def value(self, x: Tensor) -> Tensor:
        return self.spline(x, self.coefficients())

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        return self.spline_jet(x, self.coefficients(), order, trace=trace)

    def spline_jet(self, x: Tensor, coefficients: Tensor, order: int, *, trace: bool = False) -> Jet:
        """`jet` of the spline with coefficients (k, j, i, C) that are at hand, with C components."""
        local, gathered = self._gather(x, coefficients)
        wanted = [(0, 0, 0), *_FIRST, *(() if order == 1 else _PURE if trace else _SECOND)]
        value, *rest = self._combine(local, gathered, wanted).unbind(1)
        turn = self._turn(x)
        jacobian = torch.stack(rest[:3], -1) @ turn
        if order == 1:
            return Jet(value, jacobian)
        if trace:  # rotations leave it as it is
            return Jet(value, jacobian, laplacian=sum(rest[3:]))
        rows = [torch.stack([rest[3 + _SECOND.index(_plus(a, b))] for b in _FIRST], -1) for a in _FIRST]
        hessian = torch.stack(rows, -1)
        return Jet(value, jacobian, torch.einsum("niab,aj,bk->nijk", hessian, turn, turn))

    def jacobian_of_cells(self, coefficients: Tensor) -> Tensor:
        """The control net's Jacobian at the first and the last corner of every cell, (2, k - 1, j - 1, i - 1, 3, 3).

        By differences of neighbouring coefficients, along and in the lattice's own axes: determinant and Frobenius norm
        are the world's. Where the control net does not fold, its spline hardly can.
        """
        local = (coefficients @ self._constant("rotation", coefficients)).permute(3, 0, 1, 2).contiguous()
        columns = []
        for axis in range(3):
            dim = 3 - axis  # memory order is z, y, x, behind the components
            edges = local.diff(dim=dim) / self.geometry.spacing[axis]
            others = [d for d in (1, 2, 3) if d != dim]
            for start in (0, 1):
                part = edges
                for d in others:
                    part = part.narrow(d, start, local.shape[d] - 1)
                columns.append(part)
        jacobian = torch.stack(columns).unflatten(0, (3, 2))  # axis, corner, component, z, y, x
        return jacobian.permute(1, 3, 4, 5, 2, 0)

    def kinks(self, coefficients: Tensor) -> Tensor:
        """How the control net's slope along each axis changes at the inner nodes, (k - 2, j - 2, i - 2, 3, 3).

        Entry [..., c, a] is the second difference of component c along the lattice's axis a over the spacing.
        """
        columns = []
        for axis in range(3):
            part = coefficients.diff(n=2, dim=2 - axis) / self.geometry.spacing[axis]
            for other in {0, 1, 2} - {2 - axis}:
                part = part.narrow(other, 1, coefficients.shape[other] - 2)
            columns.append(part)
        return torch.stack(columns, -1)

    def _constant(self, name: str, like: Tensor) -> Tensor:
        return self.geometry.constant(name, like, self._constants)

    def _turn(self, x: Tensor) -> Tensor:
        return self._constant("rotation", x).T

    def spline(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """The spline (N, C) at points x (N, 3) from coefficients that are at hand, (k, j, i, C)."""
        return self._combine(*self._gather(x, coefficients), [(0, 0, 0)])[:, 0]

    def _gather(self, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Positions within the cell (N, 3), and the 64 coefficients around it by z, y and x, (N, 64, C)."""
        origin, spacing, rotation = (self._constant(name, x) for name in ("origin", "spacing", "rotation"))
        t = (x @ rotation - origin) / spacing
        # NaN is some cell: it stays NaN in the value, and is told as a diverged field
        base = torch.minimum(t.detach().floor().nan_to_num(1.0).clamp(min=1), self._constant("size", x) - 3).long()
        taps = torch.arange(4, device=x.device) - 1
        i, j, k = (base[:, a, None] + taps for a in range(3))
        columns, rows = coefficients.shape[2], coefficients.shape[1]
        index = (k[:, :, None, None] * rows + j[:, None, :, None]) * columns + i[:, None, None, :]
        gathered = coefficients.flatten(0, 2).index_select(0, index.flatten())  # faster than by three indices
        return t - base, gathered.view(-1, 64, coefficients.shape[-1])

    def _combine(self, local: Tensor, gathered: Tensor, derivatives: list[tuple[int, int, int]]) -> Tensor:
        """The spline (N, D, C), differentiated that many times along each of the lattice's axes, in D ways."""
        spacing = self._constant("spacing", local)
        parts = []
        for axis in range(3):
            bases = {n: _basis(local[:, axis], n) / spacing[axis] ** n for n in {each[axis] for each in derivatives}}
            parts.append(torch.stack([bases[each[axis]] for each in derivatives], 1))
        x, y, z = parts  # (N, D, 4) each
        weights = z[..., None, None] * (y[..., None] * x[..., None, :])[:, :, None]
        return weights.flatten(2) @ gathered

    def dense(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            coefficients = self.coefficients()
            return in_chunks(lambda part: self.spline(part, coefficients), x, 1 << 15) if len(x) else x.clone()
