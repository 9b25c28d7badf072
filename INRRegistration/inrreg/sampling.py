"""Where a loss is evaluated: random voxel centres of a mask, random points of the image, or a lattice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inrreg.geometry import Frame, Grid


@dataclass(frozen=True)
class VoxelSampler:
    """Random voxel centres of a mask, and the values there.

    A large image has a hundred million of them, so that only their numbers in the image's memory are kept, `index`
    (V,) int32, or nothing where every voxel counts; `values` are whole images, (voxels,) each, of any type.
    """

    size: tuple[int, int, int]
    matrix: Tensor
    offset: Tensor
    index: Tensor | None
    values: tuple[Tensor, ...]
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        mask: np.ndarray | None,
        values: Iterable[np.ndarray],
        grid: Grid,
        frame: Frame,
        device: torch.device,
        seed: int,
    ) -> VoxelSampler:
        """The voxels where the mask (k, j, i) is set, or all without one, with the values (k, j, i) there."""
        index = None if mask is None else torch.as_tensor(np.flatnonzero(mask).astype(np.int32), device=device)
        matrix, offset = grid.matrix / frame.scale, frame.normalize(grid.origin)
        return cls(
            grid.size,
            *(torch.as_tensor(part, dtype=torch.float32, device=device) for part in (matrix, offset)),
            index,
            tuple(torch.as_tensor(np.ascontiguousarray(row), device=device).reshape(-1) for row in values),
            torch.Generator(device).manual_seed(seed),
        )

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Normalized positions (N, 3) and float32 values (C, N) of `count` voxels, drawn with replacement."""
        voxels = math.prod(self.size) if self.index is None else len(self.index)
        index = torch.randint(voxels, (count,), generator=self.generator, device=self.matrix.device)
        if self.index is not None:
            index = self.index[index].long()
        i, rest = index % self.size[0], index // self.size[0]
        ijk = torch.stack([i, rest % self.size[1], rest // self.size[1]], -1)
        values = self.matrix.new_empty(len(self.values), count)
        for row, image in zip(values, self.values, strict=True):
            row.copy_(image[index])
        return ijk.to(torch.float32) @ self.matrix.T + self.offset, values


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
