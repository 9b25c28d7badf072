"""A SIREN into which an embedding of the images is infused (REINDIR, van Harten et al., section 2.2)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inrreg.fields.siren import Siren


def repeated(gamma: Tensor, shape: torch.Size) -> Tensor:
    """A vector (E,) repeated, end to end, until it fills a matrix of that shape, whose rows it fills one by one."""
    count = math.prod(shape)
    return gamma.repeat(-(-count // len(gamma)))[:count].reshape(shape)


class Infused(Siren):
    """A SIREN whose layers between hidden ones have the weights W * (1 + R(gamma)) and the biases b + delta.

    R repeats `gamma` (hidden - 1, E), which is as long as the embedding, over each weight matrix; `delta`
    (hidden - 1, width) is as long as the biases. The first and the last layer are not modulated. The paper leaves open
    whether gamma is a factor or what a factor differs from 1 by, and whether delta is added: here zeros leave the
    network as it is, which makes a plain SIREN of one that nothing is infused into.

    The network was made for coordinates `zoom` times those that it is asked at: u(x) = v(zoom x) / zoom. So a network
    that knows anatomy in mm serves frames of any scale, and sees an image larger or smaller than it is. Raises
    ValueError for one that is not positive.
    """

    kind = "infused"

    def __init__(
        self,
        width: int = 256,
        hidden: int = 3,
        omega: float = 32.0,
        embedding: int = 1,
        zoom: float = 1.0,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(width, hidden, omega, generator=generator)
        if not zoom > 0:
            raise ValueError("a zoom must be positive")
        self.embedding, self.zoom = embedding, zoom
        self.register_buffer("gamma", torch.zeros(hidden - 1, embedding))
        self.register_buffer("delta", torch.zeros(hidden - 1, width))

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"embedding": self.embedding, "zoom": self.zoom}

    def sines(self) -> list[tuple[Tensor, Tensor]]:
        (weight, bias), *between, (last_weight, last_bias) = super().sines()
        modulated = [
            (inner * (1 + repeated(gamma, inner.shape)), shift + self.omega * delta)
            for (inner, shift), gamma, delta in zip(between, self.gamma, self.delta, strict=True)
        ]
        return [(self.zoom * weight, bias), *modulated, (last_weight / self.zoom, last_bias / self.zoom)]
