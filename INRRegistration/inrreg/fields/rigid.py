"""A field that moves given structures as rigid bodies, and the rest as another field says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inrreg.fields.base import Field, Jet, add, from_spec, product
from inrreg.fields.lattice import Lattice, LatticeGeometry
from inrreg.geometry import Frame, Grid


def nearest_motion(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The rotations (L, 3, 3) and shifts (L, 3) that bring points (L, P, 3) nearest to others (Kabsch 1976).

    Where points do not tell a rotation, as those of a line, it is the smallest.
    """
    centre, target = start.mean(1, keepdim=True), end.mean(1, keepdim=True)
    spread = (start - centre).mT @ (end - target)
    size = (start - centre).square().sum((1, 2))[:, None, None].clamp(min=1e-12)
    spread = spread / size + 1e-5 * torch.eye(3, dtype=start.dtype, device=start.device)
    u, _, vh = torch.linalg.svd(spread)
    mirrored = torch.ones_like(u[:, 0])
    mirrored[:, 2] = torch.linalg.det(u @ vh).sign()
    rotation = (vh.mT * mirrored[:, None]) @ u.mT
    return rotation, (target - centre @ rotation.mT)[:, 0]


class Rigid(Field):
    """(1 - sum_l w_l(x)) `field`(x) + sum_l w_l(x) (R_l x - x), R_l the rigid motion nearest to `field` in structure l.

    w_l is 1 in the structure and fades around it. `points` (L, P, 3) are of each structure and tell its motion; what
    is rigid is the whole map, A(x + u) with `after` = A (3, 4), so that R_l is A^-1 times a rigid motion. Weights and
    motions are cubic B-splines on the nodes of `geometry`, which a linear map is exactly: `number` (2, k, j, i) names
    the two structures nearest to a node, `share` (2, k, j, i) is their w.
    """

    kind = "rigid"

    def __init__(
        self,
        field: Field | dict[str, Any],
        geometry: LatticeGeometry | dict[str, Any],
        structures: tuple[int, int] | list[int],
        buffers: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.field = field if isinstance(field, Field) else from_spec(field)
        self.order, self.two_way = self.field.order, self.field.two_way
        self.nodes, self.structures = Lattice([], geometry), list(structures)
        size = self.nodes.geometry.size[::-1]
        if buffers is None:
            buffers = {"points": torch.zeros(*structures, 3), "after": torch.zeros(3, 4)}
            buffers |= {"number": torch.zeros(2, *size, dtype=torch.int16), "share": torch.zeros(2, *size)}
        for name, values in buffers.items():
            self.register_buffer(name, values)
        self.register_buffer("_spline", None, persistent=False)

    def spec(self) -> dict[str, Any]:
        entries = {"field": self.field.spec(), "geometry": self.nodes.spec()["geometry"]}
        return {"kind": self.kind, **entries, "structures": self.structures}

    @property
    def alpha(self) -> float | None:
        """That of the field."""
        return self.field.alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.field.alpha = alpha
        self.freeze()

    def at(self, alpha: float) -> Rigid:
        buffers = {name: getattr(self, name) for name in ("points", "after", "number", "share")}
        return Rigid(self.field.at(alpha), self.nodes.geometry, self.structures, buffers).freeze()

    def freeze(self) -> Rigid:
        self.field.freeze()
        super().freeze()
        self._spline = self._coefficients()
        return self

    def motions(self) -> Tensor:
        """The displacement x -> M x + c of each structure, (L, 3, 4) with c last, normalized."""
        start, matrix, shift = self.points, self.after[:, :3], self.after[:, 3]
        end = (start + self.field.dense(start.flatten(0, 1)).view_as(start)) @ matrix.T + shift
        rotation, moved = nearest_motion(start, end)
        back = torch.linalg.inv(matrix)
        eye = torch.eye(3, dtype=start.dtype, device=start.device)
        return torch.cat([back @ rotation - eye, ((moved - shift) @ back.T)[..., None]], -1)

    @torch.no_grad()
    def _coefficients(self) -> Tensor:
        """What the structures add to the displacement, and what is left of the field's: (k, j, i, 4)."""
        geometry, like = self.nodes.geometry, self.points
        axes = [torch.as_tensor(o + s * torch.arange(n).double()) for o, s, n in
                zip(geometry.origin, geometry.spacing, geometry.size, strict=True)]  # fmt: skip
        z, y, x = torch.meshgrid(*reversed(axes), indexing="ij")
        nodes = torch.stack([x, y, z], -1) @ torch.as_tensor(geometry.rotation).T
        nodes = torch.cat([nodes, torch.ones_like(nodes[..., :1])], -1).to(like)
        motions, moved = self.motions(), 0
        for number, share in zip(self.number, self.share, strict=True):
            moved = moved + share[..., None] * (motions[number.long()] @ nodes[..., None])[..., 0]
        return torch.cat([moved, self.share.sum(0)[..., None]], -1)

    def value(self, x: Tensor) -> Tensor:
        return self._blend(self.field.value(x), self.nodes.spline(x, self._spline))

    @staticmethod
    def _blend(u: Tensor, spline: Tensor) -> Tensor:
        return (1 - spline[..., 3:]) * u + spline[..., :3]

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        rigid = self.nodes.spline_jet(x, self._spline[..., :3], order, trace=trace)
        weight = self.nodes.spline_jet(x, self._spline[..., 3:], order, trace=trace)
        u = self.field.jet(x, order, trace=trace)
        return add(add(u, product(weight, u), -1), rigid)

    @torch.no_grad()
    def dense(self, x: Tensor) -> Tensor:
        u = self.field.dense(x)
        parts = zip(u.split(1 << 15), x.split(1 << 15), strict=True)
        return torch.cat([self._blend(a, self.nodes.spline(b, self._spline)) for a, b in parts]) if len(x) else u

    @torch.no_grad()
    def on_grid(self, grid: Grid, frame: Frame) -> Tensor | None:
        u = self.field.on_grid(grid, frame)
        return None if u is None else self._blend(u, self.nodes.spline_on_grid(grid, frame, self._spline))

    def uncertainty(self, x: Tensor) -> Tensor | None:
        return self.field.uncertainty(x)
