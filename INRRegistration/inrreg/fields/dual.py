"""The dual-branch field: global motion and local detail apart (Gebauer et al., MIDL 2026, section 2.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inrreg.fields.base import Field, Jet
from inrreg.fields.siren import Siren


class Dual(Field):
    """u(x) = c_coarse u_coarse(x) + c_fine u_fine(x), equation 10, with learnable scales c.

    The fine branch is inactive (c_fine = 0, not trained) until `activate_fine`.
    """

    kind = "dual"

    def __init__(
        self,
        width: int = 256,
        hidden: int = 2,
        omega_coarse: float = 10.0,
        omega_fine: float = 30.0,
        scale: float = 0.1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.coarse = Siren(width, hidden, omega_coarse, generator=generator)
        self.fine = Siren(width, hidden, omega_fine, generator=generator)
        self.c_coarse = nn.Parameter(torch.tensor(scale))
        self.c_fine = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self._fine_active = False  # known here, so that no step waits for the device to tell
        self.register_load_state_dict_post_hook(_find_active)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "width": self.coarse.width,
            "hidden": self.coarse.hidden,
            "omega_coarse": self.coarse.omega,
            "omega_fine": self.fine.omega,
            "scale": self.scale,
        }

    def activate_fine(self, share: float) -> None:
        """Start the fine branch at `share` of the coarse branch's present scale."""
        with torch.no_grad():
            self.c_fine.copy_(share * self.c_coarse)
        self.c_fine.requires_grad_(True)
        self._fine_active = True

    @property
    def active_parameters(self) -> list[nn.Parameter]:
        """What the optimizer may change now."""
        parts = [self.c_coarse, *self.coarse.parameters()]
        return parts + ([self.c_fine, *self.fine.parameters()] if self._fine_active else [])

    def value(self, x: Tensor) -> Tensor:
        u = self.c_coarse * self.coarse.value(x)
        return u + self.c_fine * self.fine.value(x) if self._fine_active else u

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        parts = [(self.c_coarse, self.coarse.jet(x, order, trace=trace))]
        if self._fine_active:
            parts.append((self.c_fine, self.fine.jet(x, order, trace=trace)))

        def total(name: str) -> Tensor | None:
            if getattr(parts[0][1], name) is None:
                return None
            return sum(scale * getattr(jet, name) for scale, jet in parts)

        return Jet(*(total(name) for name in ("value", "jacobian", "hessian", "laplacian")))


def _find_active(field: Dual, _keys: Any) -> None:
    """A field whose weights were loaded is as active as it was when they were saved."""
    field._fine_active = field.c_fine.item() != 0
    field.c_fine.requires_grad_(field._fine_active)
