"""The fixed part of a transform as a differentiable map of normalized coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inrreg.geometry import Frame, Volume
from inrreg.transforms import Affine, PointMap


@dataclass(frozen=True)
class Linear:
    """points (..., 3) -> `matrix` points + `offset`, normalized coordinates on both sides."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return points @ self.matrix.T + self.offset


@dataclass(frozen=True)
class Maps:
    """Maps of normalized points (..., 3), the first applied first; none is the identity."""

    parts: tuple[Callable[[Tensor], Tensor], ...] = ()

    def __call__(self, points: Tensor) -> Tensor:
        for part in self.parts:
            points = part(points)
        return points

    def matrix(self, like: Tensor) -> Tensor | None:
        """What the whole multiplies a displacement by, (3, 3), on the device of `like`; None if it is not linear."""
        matrix = torch.eye(3, dtype=like.dtype, device=like.device)
        for part in self.parts:
            if not isinstance(part, Linear):
                return None
            matrix = part.matrix @ matrix
        return matrix


def differentiable(parts: tuple[PointMap, ...], frame: Frame, device: torch.device) -> Maps:
    """Affine maps and displacement grids, the first applied first, on normalized points (..., 3)."""
    make = {True: _linear, False: _grid}
    return Maps(tuple(make[isinstance(part, Affine)](part, frame, device) for part in parts))


def _linear(part: Affine, frame: Frame, device: torch.device) -> Linear:
    arrays = frame.affine(part.matrix, part.offset)
    return Linear(*(torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays))


def _grid(part: PointMap, frame: Frame, device: torch.device) -> Callable[[Tensor], Tensor]:
    volume = Volume.of(part.vectors.transpose(3, 0, 1, 2) / frame.scale, part.grid, frame, device)
    return lambda points: points + volume.sample(points).movedim(0, -1) * volume.contains(points, beyond=0.5)[..., None]
