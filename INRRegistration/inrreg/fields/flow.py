"""The flow of a velocity: points that are carried along it, there and back (LDDMM, Beg et al. 2005)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from inrreg.fields.base import CHUNK, Field, Jet, from_spec
from inrreg.fields.velocity import Velocity

STEEPEST = 0.8
"""Of a step: its length times the velocity's Lipschitz constant. Below 1 each can be undone, and nothing folds."""
MOST_STEPS = 64
"""Beyond this, a flow is a mistake."""


class Flow(Field):
    """x + u(x) = phi(x, 1) with phi(x, 0) = x and d phi / dt = v(phi, t), in `steps` of Euler (Zhang and Liang 2023,
    equations 3 to 6), the velocity taken in the middle of each. `until` ends it at an earlier time.

    What the steps give is the map itself, not an approximation of one. A step x + h v(x) is a homeomorphism with a
    positive determinant wherever h times the Lipschitz constant of v is below 1, since v can then not bridge the
    distance of two points; so is the composition of such steps. `adapt` makes so many steps that this holds. Going
    back, each step is undone by the fixed point x = y - h v(x), which converges for the same reason: the inverse is
    that of the steps, exact to rounding. The displacement's derivatives are multiplied up step by step, to first order.
    """

    kind = "flow"
    order: ClassVar[int] = 1
    two_way: ClassVar[bool] = True

    def __init__(self, velocity: Field | dict[str, Any], steps: int, until: float = 1.0) -> None:
        super().__init__()
        self.velocity = velocity if isinstance(velocity, Field) else from_spec(velocity)
        if not isinstance(self.velocity, Velocity):
            raise ValueError(f"a {self.velocity.kind} field is no velocity")
        if not 1 <= steps <= MOST_STEPS or not 0 <= until <= 1:
            raise ValueError("not the steps of a flow")
        self.steps, self.until = steps, until

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "velocity": self.velocity.spec(), "steps": self.steps, "until": self.until}

    def at_time(self, time: float) -> Flow:
        """The flow that ends at that time, 0 to 1, of the same velocity: the identity at 0."""
        return Flow(self.velocity, self.steps, time).eval()

    @property
    def times(self) -> list[float]:
        """When the velocity is asked, in the middle of each step."""
        return [(step + 0.5) / self.steps for step in range(self.steps)]

    def hold(self) -> None:
        """Ask the velocity once for the weights as they are: what follows, until they change, costs less."""
        self.velocity.hold(self.times)

    def freeze(self) -> Flow:
        super().freeze()
        self.velocity.freeze()
        self.hold()
        return self

    def adapt(self, points: Tensor) -> bool:
        """Make more steps, at most `MOST_STEPS`, where the velocity is too steep for these; whether that is enough.

        The velocity is looked at, where it does not know itself everywhere, at points (N, 3), normalized.
        """
        for _ in range(4):
            steepest = float(torch.stack([self._at(time).steepness(points) for time in self.times]).max())
            enough = steepest <= STEEPEST * self.steps
            if enough or self.steps == MOST_STEPS or not math.isfinite(steepest):
                break
            self.steps = min(MOST_STEPS, math.ceil(1.1 * steepest / STEEPEST))
            self.hold()  # at other times now: look again
        return enough

    def value(self, x: Tensor) -> Tensor:
        moved = x
        for velocity, length in self._steps():
            moved = moved + length * velocity.value(moved)
        return moved - x

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        moved, jacobian = x, eye.expand(len(x), 3, 3)
        for velocity, length in self._steps():
            jet = velocity.jet(moved, 1)
            jacobian = jacobian + length * jet.jacobian @ jacobian
            moved = moved + length * jet.value
        return Jet(moved - x, jacobian - eye)

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        return torch.cat([self._back(part) for part in y.split(CHUNK)]) if len(y) else y.clone()

    def _back(self, y: Tensor) -> Tensor:
        close = 16 * torch.finfo(y.dtype).eps
        for time, length in reversed(list(self._schedule())):
            velocity, x = self._at(time), y
            for _ in range(100):
                before, x = x, y - length * velocity.value(x)
                if not len(x) or (x - before).abs().max() <= close:
                    break
            y = x
        return y

    def _schedule(self) -> Iterator[tuple[float, float]]:
        """The time and the length of each step."""
        for number, time in enumerate(self.times):
            part = min(1.0, self.until * self.steps - number)
            if part > 0:
                yield time, part / self.steps

    def _steps(self) -> Iterator[tuple[Field, float]]:
        return ((self._at(time), length) for time, length in self._schedule())

    def _at(self, time: float) -> Field:
        self.velocity.time = time
        return self.velocity
