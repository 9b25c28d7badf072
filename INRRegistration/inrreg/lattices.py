"""Images on a lattice that is aligned with a B-spline lattice, where both are compared densely."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inrreg.fields import Lattice
from inrreg.problem import Problem
from inrreg.similarity import LocalNcc

SMOOTHING = 0.4
"""Gaussian before sampling, in lattice spacings: what a lattice can hold without aliasing."""


class ImageLattice:
    """The fixed image on a regular lattice of `spacing` mm, and the moving image warped onto it."""

    def __init__(self, problem: Problem, lattice: Lattice, spacing: float, window: int, noise: float) -> None:
        self.problem = problem
        grid = problem.grid.resampled(spacing)
        self.shape = grid.size[::-1]
        points = torch.as_tensor(problem.frame.normalize(grid.points()), dtype=torch.float32, device=problem.device)
        self.points = points.reshape(-1, 3)
        sigma = SMOOTHING * spacing
        self.moving = problem.moving_volume(sigma)
        fixed = problem.fixed_volume(sigma).sample(self.points).reshape(1, 1, *self.shape)
        mask = torch.ones_like(fixed)
        if problem.fixed_mask_volume is not None:
            mask = problem.fixed_mask_volume.sample(self.points).reshape(1, 1, *self.shape)
        self.ncc = LocalNcc(fixed, mask, window, noise)
        local = problem.grid.direction.T @ problem.frame.normalize(grid.origin)
        along = [local[a] + np.arange(n) * grid.spacing[a] / problem.frame.scale for a, n in enumerate(grid.size)]
        self.bases = [lattice.geometry.weights(a, along[a]).to(problem.device) for a in range(3)]

    def displacement(self, coefficients: Tensor) -> Tensor:
        """The spline at every sample, (P, 3), from its coefficients (k, j, i, 3): one matrix product an axis."""
        x, y, z = self.bases
        u = torch.einsum("zk,kjic->zjic", z, coefficients)
        u = torch.einsum("yj,zjic->zyic", y, u)
        return torch.einsum("xi,zyic->zyxc", x, u).reshape(-1, 3)

    def loss(self, coefficients: Tensor) -> Tensor:
        """The local NCC loss of the spline with these coefficients."""
        moved = self.problem.before(self.points + self.displacement(coefficients))
        warped = self.moving.sample(moved).reshape(1, 1, *self.shape)
        return self.ncc(warped, self.problem.valid(moved, self.moving).reshape(1, 1, *self.shape))
