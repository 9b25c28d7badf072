"""Where a loss is evaluated: random voxel centres of a mask, random points of the image, or a lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inrreg.geometry import Frame, Grid


@dataclass(frozen=True)
class VoxelSampler:
    """Random voxel centres of a mask: their normalized positions (V, 3) and values (C, V)."""

    points: Tensor
    values: Tensor
    generator: torch.Generator

    @classmethod
    def of(
        cls, mask: np.ndarray, values: np.ndarray, grid: Grid, frame: Frame, device: torch.device, seed: int
    ) -> VoxelSampler:
        """All voxels where the mask (k, j, i) is set, with the values (C, k, j, i) there."""
        k, j, i = np.nonzero(mask)
        points = frame.normalize(grid.to_world(np.stack([i, j, k], -1)))
        generator = torch.Generator(device).manual_seed(seed)
        return cls(
            torch.as_tensor(points, dtype=torch.float32, device=device),
            torch.as_tensor(np.ascontiguousarray(values[:, k, j, i]), dtype=torch.float32, device=device),
            generator,
        )

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) and values (C, N) of `count` voxels, drawn with replacement."""
        index = torch.randint(len(self.points), (count,), generator=self.generator, device=self.points.device)
        return self.points[index], self.values[:, index]


@dataclass(frozen=True)
class BoxSampler:
    """Random points of a grid's whole box, in normalized coordinates."""

    corner: Tensor
    edges: Tensor
    generator: torch.Generator

    @classmethod
    def of(cls, grid: Grid, frame: Frame, device: torch.device, seed: int) -> BoxSampler:
        """Points between the outermost voxel centres of a grid."""
        corner = torch.as_tensor(frame.normalize(grid.origin), dtype=torch.float32, device=device)
        edges = torch.as_tensor(grid.direction * grid.extent / frame.scale, dtype=torch.float32, device=device)
        return cls(corner, edges, torch.Generator(device).manual_seed(seed))

    def draw(self, count: int) -> Tensor:
        """`count` uniform points, (N, 3)."""
        unit = torch.rand(count, 3, generator=self.generator, device=self.corner.device)
        return unit @ self.edges.T + self.corner
