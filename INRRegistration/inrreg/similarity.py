"""Image similarity as losses: plain functions of tensors, smaller is better, each with its source.

A `weight` says which points count: 0 where a point left the moving image or its mask. It carries no gradient,
and both losses put what does not count down as no similarity at all, over the points of the *fixed* image:
so a step is never drawn towards the outside, and a field that leaves is never preferred to one that stays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ncc_loss(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """1 - NCC of values at sampled points, (N,) each; NCC the global normalized cross-correlation.

    With every point inside this is the loss of IDIR and of DUAL-INR-DIR. With a share s of them inside it
    is 2 - s (1 + NCC): 0 for a perfect match of all, 2 for none.
    """
    share = weight.mean()
    w = weight / weight.sum().clamp(min=1e-6)
    f, m = fixed - (w * fixed).sum(), warped - (w * warped).sum()
    variance = (w * f * f).sum() * (w * m * m).sum()
    ncc = (w * f * m).sum() / (variance + 1e-12).sqrt()
    return 2 - share * (1 + ncc)


def box_mean(image: Tensor, radius: int) -> Tensor:
    """Mean over cubes of 2 radius + 1 samples a side, (1, C, D, H, W); smaller cubes at the border."""
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * radius + 1, radius
        image = F.avg_pool3d(image, size, 1, padding, count_include_pad=False)
    return image


class LocalNcc:
    """1 - mean local NCC over a lattice, by box filters (the windows of Avants et al. 2008, not squared).

    Signed, since in images of one kind an inverted match is no match: beside a sliding interface its square
    draws the border of one organ to that of another. The fixed image's window means are computed once.
    `fixed` (1, 1, D, H, W); `mask`, of that shape, says where the fixed image counts; `radius` of the window in
    lattice samples. `noise` is the variance, in squared intensities, below which a window counts as flat.
    """

    def __init__(self, fixed: Tensor, mask: Tensor, radius: int, noise: float) -> None:
        self.fixed, self.mask, self.radius, self.noise = fixed, mask, radius, noise
        mean, square = box_mean(torch.cat([fixed, fixed * fixed], 1), radius).split(1, 1)
        self.mean, self.variance = mean, (square - mean * mean).clamp(min=0)
        self.count = mask.sum().clamp(min=1)

    def __call__(self, warped: Tensor, inside: Tensor) -> Tensor:
        """The loss of a warped image (1, 1, D, H, W); `inside` is 1 where it came from the moving image."""
        moments = box_mean(torch.cat([warped, warped * warped, warped * self.fixed], 1), self.radius)
        mean, square, product = moments.split(1, 1)
        variance = (square - mean * mean).clamp(min=0)
        covariance = product - mean * self.mean
        correlation = covariance / ((self.variance + self.noise) * (variance + self.noise)).sqrt()
        return 1 - (correlation * (self.mask * inside)).sum() / self.count


def lobe_cross_entropy(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy between fixed labels and warped moving labels, averaged over labels and points.

    `fixed` and `warped` (L, N): one row of membership, 0 to 1, for each structure (Gebauer et al., section 2.3).
    """
    eps = 1e-3  # bounds the loss, and with it the pull, where the structures do not meet yet
    warped = warped * (1 - 2 * eps) + eps
    entropy = -(fixed * warped.log() + (1 - fixed) * (1 - warped).log())
    return (entropy * weight).mean()
