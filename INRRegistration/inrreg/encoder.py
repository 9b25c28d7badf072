"""REINDIR's convolutional encoder: from images to what is infused into two networks (van Harten et al., table 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

SLOPE = 0.25
"""PReLU's slope below zero at the start."""


class Side(nn.Module):
    """Convolutions of sizes 1, 3 and 5 side by side, summed together with their input (LKU-Net, Jia et al. 2022)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv3d(features, features, size, padding=size // 2) for size in (1, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(path(x) for path in self.paths)


def _start(layer: nn.Conv3d, size: tuple[int, ...], gain: float, generator: torch.Generator | None) -> None:
    """First weights of a layer whose input has that size, its padding not counted."""
    inside = math.prod(min(pair) for pair in zip(size, layer.kernel_size, strict=True))
    bound = gain * math.sqrt(6 / ((1 + SLOPE**2) * layer.in_channels * inside))
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)


class Encoder(nn.Module):
    """Both images on one grid, (2, k, j, i), to an embedding (E,), and that to the modulation of two networks.

    `patch` is the grid's size (i, j, k), `channels` the features of the first layer, 6 in the paper, of which the
    others have multiples. Halved four times and cut to a third, (336, 288, 336) is left with (7, 6, 7), which the two
    last kernels take to (5, 5, 5) and to one; for other sizes these kernels are made to do the same.

    At the start its heads answer zeros: the networks are then their templates. Weights start after He et al. 2015,
    counting those that lie in the image: of a small patch little is left where kernels reach beyond it.
    """

    def __init__(
        self,
        patch: tuple[int, int, int],
        width: int,
        hidden: int,
        channels: int = 6,
        embedding: int = 1025,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.channels, self.embedding = tuple(patch), channels, embedding
        self.width, self.hidden = width, hidden
        c = channels
        left = [math.ceil(n / 48) for n in self.patch[::-1]]
        inner = [max(1, n - 4) for n in left]
        outer = [n - part + 1 for n, part in zip(left, inner, strict=True)]
        parts: list[nn.Module] = [nn.Conv3d(2, c, 3, padding=1), nn.PReLU(), nn.Conv3d(c, c, 3, padding=1), nn.PReLU()]
        for before, after in ((c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c), (8 * c, 8 * c)):
            parts += [nn.Conv3d(before, after, 3, 2, padding=1), nn.PReLU(), Side(after), nn.PReLU()]
        parts += [nn.Conv3d(8 * c, 16 * c, 3, 3, padding=1), nn.PReLU(), nn.Conv3d(16 * c, 16 * c, inner), nn.PReLU()]
        self.body = nn.Sequential(*parts, nn.Conv3d(16 * c, embedding, outer))
        self.heads = nn.Linear(embedding, 2 * (hidden - 1) * (embedding + width))
        size = self.patch[::-1]
        for part in self.body:
            if isinstance(part, Side):
                for path in part.paths:
                    _start(path, size, 0.5, generator)  # three paths and the input: about as large as what came in
            elif isinstance(part, nn.Conv3d):
                _start(part, size, 1.0, generator)
                shape = zip(size, part.kernel_size, part.stride, part.padding, strict=True)
                size = tuple((n + 2 * padding - kernel) // stride + 1 for n, kernel, stride, padding in shape)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def spec(self) -> dict[str, Any]:
        """Plain JSON values that an encoder of this shape is made from."""
        return {
            "patch": list(self.patch),
            "width": self.width,
            "hidden": self.hidden,
            "channels": self.channels,
            "embedding": self.embedding,
        }

    def forward(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """gamma (hidden - 1, E) and delta (hidden - 1, width) of the network there and of the one back."""
        found = self.heads(self.body(images[None]).reshape(-1)).reshape(2, self.hidden - 1, -1)
        return [(each[:, : self.embedding], each[:, self.embedding :]) for each in found]
