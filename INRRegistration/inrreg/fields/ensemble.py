"""Several fields as one: their median, and how far they spread (ensembles: Lakshminarayanan et al., NeurIPS 2017)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet, from_spec


class Ensemble(Field):
    """The component-wise median of its members' displacements; of an even number the mean of the two in the middle.

    A median, so that one member in a local minimum of its own moves nothing. It is continuous and, but for the
    surfaces where another member takes over, as smooth as they are: there its first derivative jumps. So `jet`
    offers the first order, the derivative of the members that are the median; a second one would miss the jumps.
    The uncertainty is the root mean square distance of the members from the median.
    """

    kind = "ensemble"
    order: ClassVar[int] = 1

    def __init__(self, members: list[Field | dict[str, Any]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(part if isinstance(part, Field) else from_spec(part) for part in members)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, "members": [part.spec() for part in self.members]}

    def freeze(self) -> Ensemble:
        for part in self.members:
            part.freeze()
        return super().freeze()

    def value(self, x: Tensor) -> Tensor:
        return self._median(torch.stack([part.value(x) for part in self.members]))

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        self.check_order(order)
        jets = [part.jet(x, order) for part in self.members]
        values, jacobians = torch.stack([jet.value for jet in jets]), torch.stack([jet.jacobian for jet in jets])
        middle = self._middle(values)
        rows = jacobians.gather(0, middle[..., None].expand(*middle.shape, 3))
        return Jet(values.gather(0, middle).mean(0), rows.mean(0))

    @torch.no_grad()
    def dense(self, x: Tensor) -> Tensor:
        return self._median(torch.stack([part.dense(x) for part in self.members]))

    def uncertainty(self, x: Tensor) -> Tensor:
        values = torch.stack([part.dense(x) for part in self.members])
        return (values - self._median(values)).square().sum(-1).mean(0).sqrt()

    def _median(self, values: Tensor) -> Tensor:
        return values.gather(0, self._middle(values)).mean(0)

    def _middle(self, values: Tensor) -> Tensor:
        """Which of the members' values (M, N, 3) are in the middle: indices (1 or 2, N, 3)."""
        ranked = values.detach().argsort(stable=True, dim=0)
        count = len(ranked)
        return ranked[(count - 1) // 2 : count // 2 + 1]
