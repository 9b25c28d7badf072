"""Regularization losses: plain functions of a jet's derivatives, or of two fields, at N points, in normalized units.

One scale is shared by coordinates and displacements, so first derivatives are what they are in mm; second
derivatives are the ones in 1/mm times the scale of the frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Displacement = Callable[[Tensor], Tensor]
"""Displacements (N, 3) at points (N, 3), such as a field's `value`."""


def curvature(laplacian: Tensor) -> Tensor:
    """Mean squared Laplacian, summed over components (Fischer and Modersitzki 2003; Gebauer et al., eq. 6).

    `laplacian` (N, 3).
    """
    return laplacian.square().sum(-1).mean()


def bending(hessian: Tensor) -> Tensor:
    """Mean bending energy: all squared second derivatives, summed (Rueckert et al. 1999; IDIR). (N, 3, 3, 3)."""
    return hessian.square().sum((1, 2, 3)).mean()


def velocity_energy(velocity: Tensor, laplacian: Tensor, gamma: float, alpha: float) -> Tensor:
    """Half the mean of |L v|^2 with L = gamma - alpha Laplacian (Beg et al. 2005). (..., 3) both."""
    return 0.5 * (gamma * velocity - alpha * laplacian).square().sum(-1).mean()


def determinant(jacobian: Tensor) -> Tensor:
    """det(I + grad u), (...), from a displacement's Jacobian (..., 3, 3)."""
    a = jacobian + torch.eye(3, dtype=jacobian.dtype, device=jacobian.device)
    (a00, a01, a02), (a10, a11, a12), (a20, a21, a22) = (row.unbind(-1) for row in a.unbind(-2))
    return a00 * (a11 * a22 - a12 * a21) - a01 * (a10 * a22 - a12 * a20) + a02 * (a10 * a21 - a11 * a20)


def jacobian_deviation(jacobian: Tensor) -> Tensor:
    """Mean |det - 1|, IDIR's Jacobian regularization. (N, 3, 3)."""
    return (determinant(jacobian) - 1).abs().mean()


def hyperelastic(jacobian: Tensor) -> Tensor:
    """Mean hyperelastic energy, all three parts weighing 1, as IDIR has it (Burger et al. 2013). (N, 3, 3).

    With F = I + grad u: length 0.5 |grad u|^2, area max(c - 1, 0)^2 for the squared length c of each column of F's
    cofactor matrix, volume (det - 1)^4 / det^2. The latter's pole at det = 0 is cut off at |det| = 0.01.
    """
    f = jacobian + torch.eye(3, dtype=jacobian.dtype, device=jacobian.device)
    rows = [torch.linalg.cross(f[:, (i + 1) % 3], f[:, (i + 2) % 3]) for i in range(3)]
    cofactors = torch.stack(rows, 1)
    det = torch.linalg.vecdot(f[:, 0], rows[0])
    length = 0.5 * jacobian.square().sum((1, 2))
    area = torch.relu(cofactors.square().sum(1) - 1).square().sum(1)
    volume = (det - 1) ** 4 / det.square().clamp(min=1e-4)
    return (length + area + volume).mean()


def jacobian_shrinkage(jacobian: Tensor) -> Tensor:
    """Mean ReLU(1 - det), Gebauer et al., equation 7. (N, 3, 3).

    Their text speaks of negative determinants, but the equation penalizes all volume loss; the equation is
    what is built here, since it acts before anything folds.
    """
    return torch.relu(1 - determinant(jacobian)).mean()


def symmetric_jacobian(jacobian: Tensor, low: float = 0.1, high: float = 10.0) -> Tensor:
    """Mean (det - 1) + (1/det - 1), det clipped to [low, high]: ccIDIR's, the same for a map and its inverse.

    `jacobian` (N, 3, 3).
    """
    det = determinant(jacobian).clamp(low, high)
    return (det + 1 / det).mean() - 2


def cycle_distance(there: Displacement, back: Displacement, points: Tensor) -> Tensor:
    """Mean distance of points x (N, 3) from g(f(x)), normalized: f is x + there(x), g is y + back(y) (ccIDIR)."""
    displacement = there(points)
    return (displacement + back(points + displacement)).norm(dim=-1).mean()


def isotropic_total_variation(jacobian: Tensor, smoothing: float = 1e-3) -> Tensor:
    """Mean Frobenius norm of the Jacobian, isotropic over axes and components (Vishnevskiy et al. 2017).

    `jacobian` (..., 3, 3). Linear in a jump, so that a sliding interface costs no more than a ramp;
    `smoothing` rounds its corner at zero.
    """
    return (jacobian.square().sum((-1, -2)) + smoothing**2).sqrt().mean() - smoothing


def kinks(change: Tensor, threshold: float, smoothing: float = 1e-3) -> Tensor:
    """Mean t s / (s + t), s the Frobenius norm of how the Jacobian changes from cell to cell, t the `threshold`.

    `change` (..., 3, 3), dimensionless. Linear where s is small, which is what noise makes of a smooth motion;
    saturated where organs slide, so that the sliding costs a constant and is not pulled at (a robust function as in
    Geman and McClure 1985, on the second differences; `smoothing` rounds its corner at zero).
    """
    size = (change.square().sum((-1, -2)) + smoothing**2).sqrt()
    return (threshold * size / (size + threshold)).mean()


def folding(jacobian: Tensor, margin: float = 0.1) -> Tensor:
    """Mean ReLU(margin - det(I + grad u)), nothing but the fold itself and what is about to. (..., 3, 3)."""
    return torch.relu(margin - determinant(jacobian)).mean()
