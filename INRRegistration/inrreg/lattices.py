"""Images on a lattice that is aligned with a B-spline lattice, where both are compared densely."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
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
FINER = 1.3
"""Voxels that are finer than the lattice by more than this are smoothed before they are sampled."""
REACH = 3
"""Where a Gaussian window ends, in sigmas."""


class ImageLattice:
    """The fixed image on a regular lattice, and the moving image warped onto it.

    The lattice's spacing is `spacing` mm, along axes with coarser voxels that of the voxels: no detail lies between.
    """

    def __init__(self, problem: Problem, lattice: Lattice | None, spacing: float, window: float, noise: float) -> None:
        """`window` is the sigma of the correlation's Gaussian in mm, `noise` as in `LocalNcc`; without a B-spline
        lattice only `loss_of` answers.

        Raises `UserError` (code `mask`) when no sample lies in the fixed mask.
        """
        self.problem = problem
        grid = problem.grid.resampled(np.maximum(spacing, problem.grid.spacing))
        points, whole = self._points(grid), math.prod(grid.size)
        mask = None if problem.fixed_mask_volume is None else problem.fixed_mask_volume.sample(points)[0]
        if mask is not None:  # nothing beyond a window's reach of it is ever looked at
            voxels = np.stack(np.nonzero(mask.cpu().numpy())[::-1])
            if not voxels.size:
                raise UserError(
                    "mask", f"The fixed mask is too small for samples {spacing:g} mm apart.", "Use a larger mask."
                )
            reach, last = np.ceil(REACH * window / grid.spacing).astype(int), np.array(grid.size) - 1
            low, high = np.maximum(voxels.min(1) - reach, 0), np.minimum(voxels.max(1) + reach, last)
            grid = grid.cropped(low, high)
            within = tuple(slice(first, end + 1) for first, end in zip(low[::-1], high[::-1], strict=True))
            points, mask = points[within].contiguous(), mask[within].contiguous()
        self.grid, self.points = grid, points
        self.moving = problem.moving_volume(_antialiasing(spacing, problem.moving))
        smoothing = _antialiasing(spacing, problem.fixed)
        fixed, seen = problem.fixed_volume(smoothing).sample(self.points)[0], problem.seen(smoothing)
        turned = problem.before.matrix(self.points)
        if turned is not None:
            self.located = self.moving.locate(problem.before(self.points))
            turned = self.moving.matrix @ turned
        self.turned = turned
        sigma = (window / grid.spacing)[::-1].tolist()
        support = None if seen is None else seen.sample(self.points)[0]
        mask = torch.ones_like(fixed) if mask is None else mask
        self.name = "squared local NCC" if problem.multimodal else "local NCC"
        self.ncc = LocalNcc(fixed, mask, sigma, noise, squared=problem.multimodal, support=support)
        self.share = float(self.ncc.count) / whole
        bases = lattice.geometry.bases(grid, problem.frame) if lattice else []
        self.bases = [basis.to(problem.device) for basis in bases]

    def displacement(self, coefficients: Tensor) -> Tensor:
        """The spline at every sample, (D, H, W, 3), from its coefficients (k, j, i, 3)."""
        return spread(coefficients, self.bases)

    def loss(self, coefficients: Tensor) -> Tensor:
        """The local NCC loss of the spline with these coefficients, times the share of the image that the mask is.

        An integral over the image, as the regularization is: else a small mask would leave its inside to the data.
        """
        return self._loss(self._locate(coefficients))

    def loss_of(self, displacement: Tensor) -> Tensor:
        """The same of any displacement at the samples, (D, H, W, 3)."""
        return self._loss(self.moving.locate(self.problem.before(self.points + displacement)))

    def correlation_of(self, displacement: Tensor) -> Tensor:
        """The local correlation, 0 where nothing counts, of any displacement at the samples: (D, H, W). No gradient."""
        return self.ncc.at_samples(*self._warped(self.moving.locate(self.problem.before(self.points + displacement))))

    def _loss(self, located: Tensor) -> Tensor:
        return self.share * self.ncc(*self._warped(located))

    def _warped(self, located: Tensor) -> tuple[Tensor, Tensor]:
        """The moving image there, and 1 where that counts."""
        return self.moving.sample_located(located)[0], self.problem.valid_located(located, self.moving)

    def _locate(self, coefficients: Tensor) -> Tensor:
        """Where the samples lie in the moving volume, (D, H, W, 3). Linear maps are taken to the few coefficients."""
        if self.turned is None:
            return self.moving.locate(self.problem.before(self.points + self.displacement(coefficients)))
        return self.located + self.displacement(coefficients @ self.turned.T)

    def _points(self, grid: Grid) -> Tensor:
        points = self.problem.frame.normalize(grid.points())
        return torch.as_tensor(points, dtype=torch.float32, device=self.problem.device)


def _antialiasing(spacing: float, image: sitk.Image) -> np.ndarray:
    """The Gaussian, (3,) mm, without which samples `spacing` mm apart would alias; none where voxels are as coarse."""
    own = np.array(image.GetSpacing())
    return np.where(spacing > FINER * own, SMOOTHING * spacing, 0)
