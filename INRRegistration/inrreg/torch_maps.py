"""The fixed part of a transform as a differentiable map of normalized coordinates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inrreg.geometry import Frame, Volume
from inrreg.transforms import Affine, PointMap


def differentiable(parts: tuple[PointMap, ...], frame: Frame, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Affine maps and displacement grids, the first applied first, on normalized points (..., 3)."""
    maps = [_affine(part, frame, device) if isinstance(part, Affine) else _grid(part, frame, device) for part in parts]

    def apply(points: Tensor) -> Tensor:
        for each in maps:
            points = each(points)
        return points

    return apply


def _affine(part: Affine, frame: Frame, device: torch.device) -> Callable[[Tensor], Tensor]:
    matrix, offset = (
        torch.as_tensor(array, dtype=torch.float32, device=device) for array in frame.affine(part.matrix, part.offset)
    )
    return lambda points: points @ matrix.T + offset


def _grid(part: PointMap, frame: Frame, device: torch.device) -> Callable[[Tensor], Tensor]:
    volume = Volume.of(part.vectors.transpose(3, 0, 1, 2) / frame.scale, part.grid, frame, device)
    return lambda points: points + volume.sample(points).movedim(0, -1) * volume.contains(points, beyond=0.5)[..., None]
