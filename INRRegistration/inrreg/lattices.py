"""Images on a lattice that is aligned with a B-spline lattice, where both are compared densely."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inrreg.fields import Lattice
from inrreg.fields.lattice import spread
from inrreg.geometry import Grid
from inrreg.problem import Problem
from inrreg.protocol import UserError
from inrreg.similarity import LocalNcc

SMOOTHING = 0.4
"""Gaussian before sampling, in lattice spacings: what a lattice can hold without aliasing."""


class ImageLattice:
    """The fixed image on a regular lattice of `spacing` mm, and the moving image warped onto it."""

    def __init__(self, problem: Problem, lattice: Lattice, spacing: float, window: int, noise: float) -> None:
        """`window` is the correlation's radius in samples, `noise` as in `LocalNcc`.

        Raises `UserError` (code `mask`) when no sample lies in the fixed mask.
        """
        self.problem = problem
        grid = problem.grid.resampled(spacing)
        mask = self._mask(grid)
        if mask is not None:  # nothing beyond a window's reach of it is ever looked at
            reach = np.stack(np.nonzero(mask.cpu().numpy())[::-1])
            if not reach.size:
                raise UserError(
                    "mask", f"The fixed mask is too small for samples {spacing:g} mm apart.", "Use a larger mask."
                )
            last = np.array(grid.size) - 1
            grid = grid.cropped(np.maximum(reach.min(1) - window, 0), np.minimum(reach.max(1) + window, last))
            mask = self._mask(grid)
        self.points = self._points(grid).reshape(-1, 3)
        self.shape = (1, 1, *grid.size[::-1])
        sigma = SMOOTHING * spacing
        self.moving = problem.moving_volume(sigma)
        fixed = problem.fixed_volume(sigma).sample(self.points).reshape(self.shape)
        self.ncc = LocalNcc(fixed, torch.ones_like(fixed) if mask is None else mask.reshape(self.shape), window, noise)
        self.bases = [basis.to(problem.device) for basis in lattice.geometry.bases(grid, problem.frame)]

    def displacement(self, coefficients: Tensor) -> Tensor:
        """The spline at every sample, (P, 3), from its coefficients (k, j, i, 3)."""
        return spread(coefficients, self.bases).reshape(-1, 3)

    def loss(self, coefficients: Tensor) -> Tensor:
        """The local NCC loss of the spline with these coefficients."""
        moved = self.problem.before(self.points + self.displacement(coefficients))
        inside = self.problem.valid(moved, self.moving).reshape(self.shape)
        return self.ncc(self.moving.sample(moved).reshape(self.shape), inside)

    def _points(self, grid: Grid) -> Tensor:
        points = self.problem.frame.normalize(grid.points())
        return torch.as_tensor(points, dtype=torch.float32, device=self.problem.device)

    def _mask(self, grid: Grid) -> Tensor | None:
        """The fixed mask's share of each sample of a grid, (k, j, i), or None where there is no mask."""
        volume = self.problem.fixed_mask_volume
        return None if volume is None else volume.sample(self._points(grid))[0]
