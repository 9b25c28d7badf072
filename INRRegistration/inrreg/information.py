"""What the images tell of a displacement: the least error that an estimate of it has (Cramer-Rao).

Around a point x both images are one up to a linear function of intensity and white noise of variance s^2. What N
samples there tell of the displacement is its Fisher information (Robinson and Milanfar, IEEE TIP 13(9), 2004), with
which goes how freely the displacement varies where they tell nothing (Simoncelli, Adelson, Heeger, CVPR 1991):

    I(x) = N(x) / s(x)^2 G(x) + 1 / p^2,    doubt(x) = sqrt(tr I(x)^-1)

G is the mean of (grad f)(grad f)^T over a window, f the fixed image; where the images match, its gradients are those of
the warped one, without the blur of an interpolation. s^2 is what the best linear function of the warped image leaves of
the fixed one's variance in the window. Half of it is taken for noise of the fixed image, and what that adds to G is
taken off. So doubt grows where there is no structure, where it runs along one direction, where the images do not match,
and where they are not compared.

It is the error of one who looks through the window and nowhere else. What a method gets wrong for another reason, as an
anatomy that it matched with its neighbour, is not in it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from inrreg.fields import Field, LatticeGeometry
from inrreg.geometry import Volume
from inrreg.lattices import ImageLattice
from inrreg.problem import NOISE, Problem
from inrreg.similarity import GaussianWindow

SAMPLES = 2.7
"""mm between samples, where the voxels are not farther apart."""
WINDOW = 4.4
"""mm, sigma of the Gaussian window: that of a cubic B-spline with nodes 6 mm apart, 3.5, and of the samples' spacing,
over both of which `ccidir-light` lets an estimate gather."""
FREEDOM = WINDOW
"""mm, p: a displacement that varied by more than the window over the window would fold."""

MARGIN = 2
"""Samples beyond the outermost one where all is as there: so far the nodes go beyond the image."""


@torch.no_grad()
def doubt(problem: Problem, field: Field) -> tuple[LatticeGeometry, Tensor]:
    """Nodes over the fixed image, and at each the doubt of the field there, (k, j, i, 1) normalized."""
    images = ImageLattice(problem, None, SAMPLES, WINDOW, NOISE)
    fixed, moving = images.ncc.fixed, images.moving
    points = images.points.view(-1, 3)
    located = moving.locate(problem.before(points + field.dense(points)).view_as(images.points))
    seen = images.ncc.mask * problem.valid_located(located, moving)
    if images.ncc.window.support is not None:
        seen = seen * images.ncc.window.support
    step = images.grid.spacing
    window = GaussianWindow(fixed.shape, (WINDOW / step)[::-1].tolist(), fixed.device, seen)
    left = _unexplained(fixed, moving.sample_located(located)[0], window, signed=not problem.multimodal)
    products = _gradient_products(fixed, step, window)
    count = math.prod(np.maximum(1, 2 * math.sqrt(math.pi) * WINDOW / step)) * window.seen
    geometry = LatticeGeometry.covering(problem.grid, problem.frame, WINDOW)
    nodes = torch.as_tensor(geometry.points(), dtype=torch.float32, device=fixed.device)
    told = Volume.of(torch.cat([count[None], left[None], products]).cpu().numpy(), images.grid, problem.frame)
    count, left, *products = told.sample(nodes.cpu())
    count = count * told.contains(nodes.cpu(), beyond=MARGIN)
    own = _symmetric(products) - torch.diag_embed(left[..., None] / (4 * torch.as_tensor(step**2).float()))
    own = own.nan_to_num()  # a field that diverged is told of elsewhere
    information = (count / left)[..., None] * torch.linalg.eigvalsh(own).clamp(min=0) + FREEDOM**-2
    return geometry, ((1 / information).sum(-1, keepdim=True).sqrt() / problem.frame.scale).to(fixed.device)


def _unexplained(fixed: Tensor, warped: Tensor, window: GaussianWindow, *, signed: bool) -> Tensor:
    """What the best linear function of `warped`, rising if `signed`, leaves of the variance of `fixed`, (D, H, W)."""
    mean, other, square, product, own = window(torch.stack([fixed, warped, fixed**2, fixed * warped, warped**2]))
    variance, spread = ((a - b * b).clamp(min=0) + NOISE for a, b in ((square, mean), (own, other)))
    covariance = product - mean * other
    if signed:
        covariance = covariance.clamp(min=0)
    return (variance - covariance * covariance / spread).clamp(min=NOISE)


def _gradient_products(image: Tensor, step: np.ndarray, window: GaussianWindow) -> Tensor:
    """Window means of the products of gradients per mm along the axes i, j, k: ii, ij, ik, jj, jk, kk (6, D, H, W)."""
    i, j, k = (
        torch.gradient(image, spacing=float(step[axis]), dim=2 - axis)[0]
        if image.shape[2 - axis] > 1
        else torch.zeros_like(image)
        for axis in range(3)
    )
    return torch.stack([window(product[None])[0] for product in (i * i, i * j, i * k, j * j, j * k, k * k)])


def _symmetric(products: list[Tensor]) -> Tensor:
    """Matrices (..., 3, 3) from their upper triangles."""
    ii, ij, ik, jj, jk, kk = products
    return torch.stack([ii, ij, ik, ij, jj, jk, ik, jk, kk], -1).unflatten(-1, (3, 3))
