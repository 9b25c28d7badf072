"""Image similarity as losses: plain functions of tensors, smaller is better, each with its source.

A `weight` says which points count: 0 where a point left the moving image or its mask. It carries no gradient,
and both losses put what does not count down as no similarity at all, over the points of the *fixed* image:
so a step is never drawn towards the outside, and a field that leaves is never preferred to one that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def ncc_loss(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """1 - NCC of values at sampled points, (N,) or (C, N) each; NCC the global normalized cross-correlation.

    With every point inside this is the loss of IDIR and of DUAL-INR-DIR. With a share s of them inside it
    is 2 - s (1 + NCC): 0 for a perfect match of all, 2 for none.
    """
    share = weight.mean()
    w = weight / weight.sum().clamp(min=1e-6)
    f, m = (each - (w * each).sum(-1, keepdim=True) for each in (fixed, warped))
    variance = (w * f * f).sum() * (w * m * m).sum()
    ncc = (w * f * m).sum() / (variance + 1e-12).sqrt()
    return 2 - share * (1 + ncc)


class GaussianWindow:
    """Gaussian means over a lattice, (C, D, H, W): one small dense matrix an axis, normalized up to the border.

    `sigma` (3,) in samples along D, H, W. Matrices because on a CPU they are several times as fast as convolutions.
    `support` (D, H, W), 0 to 1, says what is seen: the means are of that alone.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        sigma: Sequence[float],
        device: torch.device | str = "cpu",
        support: Tensor | None = None,
    ) -> None:
        self.matrices = [_gaussian(size, width).to(device) for size, width in zip(shape, sigma, strict=True)]
        self.support = support
        self.seen = None if support is None else self._apply(support[None], self.matrices)[0].clamp(min=1e-6)

    def __call__(self, image: Tensor) -> Tensor:
        if self.support is None:
            return self._apply(image, self.matrices)
        return self._apply(image * self.support, self.matrices) / self.seen

    def adjoint(self, image: Tensor) -> Tensor:
        """The transposed filter: what a gradient of the means means for the image."""
        transposed = [matrix.T for matrix in self.matrices]
        if self.support is None:
            return self._apply(image, transposed)
        return self._apply(image / self.seen, transposed) * self.support

    @staticmethod
    def _apply(image: Tensor, matrices: list[Tensor]) -> Tensor:
        depth, height, width = (matrix.to(image.dtype) for matrix in matrices)
        image = height @ (image @ width.T)
        return (depth @ image.flatten(2)).view_as(image)


def _gaussian(size: int, sigma: float) -> Tensor:
    distance = torch.arange(size)[:, None] - torch.arange(size)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


class LocalNcc:
    """1 - mean local NCC over a lattice, with Gaussian windows (Cachier et al. 2003; signed as in Vishnevskiy 2017).

    Signed, since in images of one kind an inverted match is no match: beside a sliding interface its square
    draws the border of one organ to that of another. `squared`, it is for images of two kinds: within a window one
    contrast is about a linear function of the other, falling or rising. The fixed image's window means are computed
    once. `fixed` (D, H, W); `mask`, of that shape, says where the fixed image counts, and `support` what the windows
    may look at; `sigma` (3,) of the windows in samples along D, H, W. `noise` is the variance, in squared intensities,
    below which a window counts as flat.
    """

    def __init__(
        self,
        fixed: Tensor,
        mask: Tensor,
        sigma: Sequence[float],
        noise: float,
        *,
        squared: bool = False,
        support: Tensor | None = None,
    ) -> None:
        self.fixed, self.mask, self.noise, self.squared = fixed, mask, noise, squared
        self.window = GaussianWindow(fixed.shape, sigma, fixed.device, support)
        self.mean, square = self.window(torch.stack([fixed, fixed * fixed]))
        self.variance = (square - self.mean * self.mean).clamp(min=0) + noise
        self.count = mask.sum().clamp(min=1)

    def __call__(self, warped: Tensor, inside: Tensor) -> Tensor:
        """The loss of a warped image (D, H, W); `inside` is 1 where it came from the moving image."""
        return _Correlation.apply(warped, self.mask * inside / self.count, self)

    def at_samples(self, warped: Tensor, inside: Tensor) -> Tensor:
        """The local correlation of a warped image, or its square, (D, H, W); 0 where nothing counts. No gradient."""
        _, _, covariance, slope = self.moments(warped)
        correlation = covariance * slope
        return (correlation.square() if self.squared else correlation) * self.mask * inside

    def moments(self, warped: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the windows: a warped image's mean and variance, its covariance with the fixed one, and what takes that
        to a correlation."""
        mean, square, product = self.window(torch.stack([warped, warped * warped, warped * self.fixed]))
        variance = (square - mean * mean).clamp(min=0) + self.noise
        return mean, variance, product - mean * self.mean, (variance * self.variance).rsqrt_()


class _Correlation(torch.autograd.Function):
    """1 - the weighted sum of local correlations, or of their squares.

    Its gradient in closed form costs the filters once more, no graph.
    """

    @staticmethod
    def forward(ctx: Any, warped: Tensor, weight: Tensor, of: LocalNcc) -> Tensor:
        mean, variance, covariance, slope = of.moments(warped)
        if of.squared:  # its gradient is that of a sum whose weights are twice the correlations
            weight = 2 * weight * covariance * slope
        correlation = covariance.mul_(slope.mul_(weight))
        loss = 1 - correlation.sum() / (2 if of.squared else 1)
        ctx.save_for_backward(warped, mean, slope, correlation / variance)
        ctx.of = of
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        warped, mean, slope, spread = ctx.saved_tensors
        of = ctx.of
        up, down, rest = of.window.adjoint(torch.stack([slope, spread, spread * mean - slope * of.mean]))
        return -grad * (of.fixed * up - warped * down + rest), None, None


def lobe_cross_entropy(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy between fixed labels and warped moving labels, averaged over labels and points.

    `fixed` and `warped` (L, N): one row of membership, 0 to 1, for each structure (Gebauer et al., section 2.3).
    """
    eps = 1e-3  # bounds the loss, and with it the pull, where the structures do not meet yet
    warped = warped * (1 - 2 * eps) + eps
    entropy = -(fixed * warped.log() + (1 - fixed) * (1 - warped).log())
    return (entropy * weight).mean()
