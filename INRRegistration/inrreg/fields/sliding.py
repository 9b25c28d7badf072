"""Two fields, each in regions of its own: the sides of a border at which organs slide, or where each matches better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inrreg.fields.base import Field, Jet, add, from_spec, product
from inrreg.fields.lattice import Lattice, LatticeGeometry
from inrreg.geometry import Frame, Grid


class Sliding(Field):
    """w(x) `inside`(x) + (1 - w(x)) `outside`(x), with w a cubic B-spline of values from 0 to 1.

    Across a border that slides it falls from 1 to 0 in a ramp two or three nodes wide, which lets tangential
    displacements jump: a shear folds nothing. Its coefficients (k, j, i, 1) are of the nodes of `geometry`, beyond
    which w is 0.
    """

    kind = "sliding"

    def __init__(
        self,
        inside: Field | dict[str, Any],
        outside: Field | dict[str, Any],
        geometry: LatticeGeometry | dict[str, Any],
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.inside, self.outside = (part if isinstance(part, Field) else from_spec(part) for part in (inside, outside))
        self.order = min(self.inside.order, self.outside.order)
        self.two_way = self.inside.two_way
        self.nodes = Lattice([], geometry)
        size = self.nodes.geometry.size[::-1]
        self.register_buffer("weight", torch.zeros(*size, 1) if weight is None else weight)

    def spec(self) -> dict[str, Any]:
        parts = {"inside": self.inside.spec(), "outside": self.outside.spec()}
        return {"kind": self.kind, **parts, "geometry": self.nodes.spec()["geometry"]}

    @property
    def alpha(self) -> float | None:
        """That of both sides, which share one."""
        return self.inside.alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.inside.alpha = self.outside.alpha = alpha

    def at(self, alpha: float) -> Sliding:
        return Sliding(self.inside.at(alpha), self.outside.at(alpha), self.nodes.geometry, self.weight).freeze()

    def freeze(self) -> Sliding:
        self.inside.freeze()
        self.outside.freeze()
        return super().freeze()

    def value(self, x: Tensor) -> Tensor:
        return torch.lerp(self.outside.value(x), self.inside.value(x), self._weight(x))

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        weight = self.nodes.spline_jet(x, self.weight, order, trace=trace)
        inside, outside = (part.jet(x, order, trace=trace) for part in (self.inside, self.outside))
        return add(product(weight, add(inside, outside, -1)), outside)

    @torch.no_grad()
    def dense(self, x: Tensor) -> Tensor:
        return torch.lerp(self.outside.dense(x), self.inside.dense(x), self._weight(x))

    @torch.no_grad()
    def on_grid(self, grid: Grid, frame: Frame) -> Tensor | None:
        inside, outside = (part.on_grid(grid, frame) for part in (self.inside, self.outside))
        if inside is None:
            return None
        return torch.lerp(outside, inside, self.nodes.spline_on_grid(grid, frame, self.weight))

    def uncertainty(self, x: Tensor) -> Tensor | None:
        inside, outside = (part.uncertainty(x) for part in (self.inside, self.outside))
        return None if inside is None else torch.lerp(outside, inside, self._weight(x)[:, 0])

    def _weight(self, x: Tensor) -> Tensor:
        return torch.cat([self.nodes.spline(part, self.weight) for part in x.split(1 << 15)]) if len(x) else x[:, :1]
