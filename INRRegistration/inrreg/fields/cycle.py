"""Two networks, there and back, as one field with an uncertainty (van Harten, Stoker, Isgum, IEEE TMI 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from inrreg.fields.base import Field, Jet, from_spec
from inrreg.fields.lattice import LatticeGeometry
from inrreg.memory import in_chunks

_CHUNK = 1 << 14
"""Points inverted at once: their Jacobians take four times the memory of their values."""
_STEPS, _REFRESH = 40, 4
"""Most Newton steps of an inversion, and the steps between two Jacobians."""


class Cycle(Field):
    """The midpoint of f(x) = x + `forward`(x) and of the y from which g(y) = y + `backward`(y) comes back to x.

    Both networks live in the coordinates of the fixed image. y is found by Newton steps from f(x) until |g(y) - x| is
    below 256 units in the last place (6 micrometres in an image of 400 mm, in single precision); where g folds and has
    no such y, the nearest approach counts.

    The uncertainty is a standard deviation, of two errors that have nothing to do with each other and so add in square:
    half the distance of the two estimates of where x goes, which is the standard error of a mean of two, and `doubt`,
    what both get wrong alike because the images do not tell (`inrreg.information`). Doubt (k, j, i, 1), normalized, is
    at the nodes of `geometry` and linear between them; without one it is zero. What is left of |g(y) - x| adds.

    Derivatives with respect to x are exact (implicit function theorem, and by autograd up to second order). It is a
    field to evaluate: the networks are trained by what each says, not through the inversion.
    """

    kind = "cycle"
    two_way: ClassVar[bool] = True

    def __init__(
        self,
        forward: Field | dict[str, Any],
        backward: Field | dict[str, Any],
        geometry: LatticeGeometry | dict[str, Any] | None = None,
        doubt: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.there, self.back = (part if isinstance(part, Field) else from_spec(part) for part in (forward, backward))
        self.geometry = LatticeGeometry.from_dict(geometry) if isinstance(geometry, dict) else geometry
        if self.geometry and doubt is None:
            doubt = torch.zeros(*self.geometry.size[::-1], 1)
        self.register_buffer("doubt", doubt)

    def spec(self) -> dict[str, Any]:
        parts = {"kind": self.kind, "forward": self.there.spec(), "backward": self.back.spec()}
        return parts | ({"geometry": self.geometry.to_dict()} if self.geometry else {})

    def freeze(self) -> Cycle:
        self.there.freeze()
        self.back.freeze()
        return super().freeze()

    def value(self, x: Tensor) -> Tensor:
        u = self.there.value(x)
        y, _ = invert(self.back, x, x + u)
        if x.requires_grad:
            # Two steps with one Jacobian, from a solution: nothing moves, and autograd sees the inverse of g
            # to first order after the first, to second order after the second.
            inverse = _inverse_jacobian(self.back.jet(y, 1).jacobian.detach())
            for _ in range(2):
                y = y - _times(inverse, y + self.back.value(y) - x)
        return (u + y - x) / 2

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        there = self.there.jet(x, order)
        y, _ = invert(self.back, x, x + there.value)
        back = self.back.jet(y, order)
        inverse = _inverse_jacobian(back.jacobian)
        value = (there.value + y - x) / 2
        jacobian = (there.jacobian + inverse - torch.eye(3, dtype=x.dtype, device=x.device)) / 2
        if order == 1:
            return Jet(value, jacobian)
        curved = -torch.einsum("nil,nlpq,npj,nqk->nijk", inverse, back.hessian, inverse, inverse)
        hessian = (there.hessian + curved) / 2
        if trace:
            return Jet(value, jacobian, laplacian=hessian.diagonal(dim1=2, dim2=3).sum(-1))
        return Jet(value, jacobian, hessian)

    @torch.no_grad()
    def uncertainty(self, x: Tensor) -> Tensor:
        doubt = self.geometry.volume(self.doubt.to(x.dtype)) if self.geometry else None

        def of(part: Tensor) -> Tensor:
            estimate = part + self.there.value(part)
            y, left = invert(self.back, part, estimate)
            found = (estimate - y).norm(dim=-1) / 2
            if doubt is not None:
                found = torch.hypot(found, doubt.sample(part)[0])
            return found + left

        return in_chunks(of, x, _CHUNK)

    @torch.no_grad()
    def dense(self, x: Tensor) -> Tensor:
        return in_chunks(self.value, x, _CHUNK) if len(x) else x.clone()


@torch.no_grad()
def invert(field: Field, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Points y (N, 3) with y + field(y) = x, and what is left of that equation (N,), all normalized.

    Damped Newton steps from `start`, with a new Jacobian every few steps; the nearest approach found where the field
    has no inverse.
    """
    x, y = x.detach(), start.detach().clone()
    tolerance = 256 * torch.finfo(x.dtype).eps
    residual = y + field.value(y) - x
    error = residual.norm(dim=-1)
    damping, inverse = torch.ones_like(error), x.new_zeros(len(x), 3, 3)
    for step in range(_STEPS):
        active = ((error > tolerance) & (damping > 1e-3)).nonzero()[:, 0]
        if not len(active):
            break
        if step % _REFRESH == 0:
            inverse[active] = _inverse_jacobian(field.jet(y[active], 1).jacobian)
        trial = y[active] - damping[active, None] * _times(inverse[active], residual[active])
        remaining = trial + field.value(trial) - x[active]
        distance = remaining.norm(dim=-1)
        better = distance < error[active]
        good = active[better]
        y[good], residual[good], error[good] = trial[better], remaining[better], distance[better]
        damping[good] = (2 * damping[good]).clamp(max=1)
        damping[active[~better]] /= 2
    return y, error


def _inverse_jacobian(jacobian: Tensor) -> Tensor:
    """(I + grad v)^-1 (N, 3, 3), the identity where that is singular."""
    eye = torch.eye(3, dtype=jacobian.dtype, device=jacobian.device)
    matrix = jacobian + eye
    regular = torch.linalg.det(matrix).abs() > 1e-2
    return torch.linalg.inv(torch.where(regular[:, None, None], matrix, eye))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
