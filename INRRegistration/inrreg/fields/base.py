"""What every field answers, and how fields are described in a saved model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inrreg.geometry import Frame, Grid
from inrreg.memory import in_chunks

CHUNK = 1 << 16
"""Points evaluated at once in a dense evaluation: bounds its memory to some hundred MiB."""


@dataclass(frozen=True)
class Jet:
    """A displacement and its derivatives at N points, all in normalized units.

    `value` (N, 3); `jacobian` (N, 3, 3), entry [n, i, j] the derivative of component i along axis j;
    `hessian` (N, 3, 3, 3), entry [n, i, j, k]; `laplacian` (N, 3). Those not asked for are None.
    Coordinates and displacements share one scale, so that the Jacobian is the same in mm.
    """

    value: Tensor
    jacobian: Tensor | None = None
    hessian: Tensor | None = None
    laplacian: Tensor | None = None


def product(weight: Jet, jet: Jet) -> Jet:
    """The jet of w(x) u(x), to the order that both have; `weight` is that of one component, w (N, 1)."""
    w, u = weight.value, jet.value
    if jet.jacobian is None:
        return Jet(w * u)
    slope = weight.jacobian  # (N, 1, 3)
    jacobian = w[..., None] * jet.jacobian + u[..., None] * slope
    if jet.laplacian is not None:
        crossed = 2 * (jet.jacobian * slope).sum(-1)
        return Jet(w * u, jacobian, laplacian=w * jet.laplacian + crossed + u * weight.laplacian)
    if jet.hessian is None:
        return Jet(w * u, jacobian)
    crossed = jet.jacobian[..., None] * slope[..., None, :]  # (N, 3, j, k)
    hessian = w[..., None, None] * jet.hessian + crossed + crossed.mT + u[..., None, None] * weight.hessian
    return Jet(w * u, jacobian, hessian)


def add(one: Jet, other: Jet, sign: float = 1.0) -> Jet:
    """The jet of one field plus, or minus, another, to the order that both have."""
    names = [item.name for item in fields(Jet)]
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in names}
    return Jet(**{name: None if a is None or b is None else a + sign * b for name, (a, b) in pairs.items()})


class Field(nn.Module, ABC):
    """A displacement field over normalized coordinates."""

    kind: ClassVar[str]
    order: ClassVar[int] = 2
    """The highest order of derivatives that `jet` offers."""
    two_way: ClassVar[bool] = False
    """Whether its inverse is part of a result: it was optimized in both directions, or knows the way back."""
    kinds: ClassVar[dict[str, Callable[..., Field]]] = {}
    alpha: float | None = None
    """Where on its scale of regularization, 0 to 1, a conditioned field answers; None for a field without one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Field.kinds[cls.kind] = cls

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Displacements (N, 3) at points x (N, 3), both normalized."""

    @abstractmethod
    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        """Displacements and derivatives up to `order` (1 or 2) at points x (N, 3), in closed form.

        With `trace`, order 2 gives only the Laplacian, which costs half as much as the Hessian.
        Raises ValueError for an order that the field does not offer.
        """

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Plain JSON values from which `from_spec` builds a field of this shape; weights are kept apart."""

    def on_axes(self, coordinates: list[Tensor], axes: Tensor) -> Tensor:
        """Displacements (k, j, i, 3) at a grid's points, from the coordinates (n,) along each of its three axes.

        `axes` (3, 3) has the directions of i, j and k as columns.
        """
        z, y, x = torch.meshgrid(*reversed(coordinates), indexing="ij")
        points = torch.stack([x, y, z], -1) @ axes.T
        return self.value(points.reshape(-1, 3)).reshape(points.shape)

    def on_grid(self, grid: Grid, frame: Frame) -> Tensor | None:
        """Displacements, (k, j, i, 3) normalized, at a grid of the fixed axes; None where `dense` is as good."""
        return None

    def uncertainty(self, x: Tensor) -> Tensor | None:
        """How unsure the field is of its value at points x (N, 3): (N,) normalized; None where it does not say."""
        return None

    def inverse(self, y: Tensor) -> Tensor | None:
        """Points (N, 3) that x + u(x) takes to y (N, 3), normalized; None for a field that only a search can invert."""
        return None

    def at(self, alpha: float) -> Field:
        """The ordinary, frozen field that a conditioned one is at that alpha. Raises ValueError for any other field."""
        raise ValueError(f"a {self.kind} field has no scale of regularization")

    def check_order(self, order: int) -> None:
        """Raise ValueError unless `jet` can answer that order."""
        if not 1 <= order <= self.order:
            raise ValueError(f"a {self.kind} field offers derivatives of order 1 to {self.order}, not {order}")

    def freeze(self) -> Field:
        """No more training: returns itself, ready to be evaluated again and again."""
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def dense(self, x: Tensor) -> Tensor:
        """`value` without gradients, in chunks that bound the memory."""
        return in_chunks(self.value, x, CHUNK) if len(x) else x.clone()


def from_spec(spec: dict[str, Any]) -> Field:
    """The untrained field that a `spec` describes. Raises ValueError for an unknown kind."""
    entries = dict(spec)
    kind = entries.pop("kind", None)
    if kind not in Field.kinds:
        raise ValueError(f"there is no field of kind {kind!r}")
    return Field.kinds[kind](**entries)
