"""Two fields of one problem put together: each where it matches the images better (Lempitsky et al. 2010).

Where the other field counts, w, is what maximizes the sum over the image of

    w gain - SEAM |grad w| |u_other - u|    with  grad w . (u_other - u) >= -STEEPEST  and  0 <= w <= 1:

the gain is what the other field's local correlation is higher by, less `BETTER`, and around a guiding point what the
pair weighs less. Without the constraint that is a choice between two labels, whose relaxation is exact (Chan, Esedoglu
and Nikolova 2006). A seam costs what `fast`'s total variation does: it runs where the fields agree, or along a border
that slides. The constraint makes it wide where it would fold: of fields that strain little it bounds all that the seam
adds to the determinant. A shear along it is free. Labels of structures have no part in it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrreg.fields import Field, LatticeGeometry, Sliding
from inrreg.geometry import Frame, Grid
from inrreg.guidance import weights
from inrreg.lattices import ImageLattice
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.protocol import UserError
from inrreg.structures import Fit

SPACING, MOST = 4.0, 150_000
"""mm between the samples at which the fields are compared, and how many there are at most."""
NOISE = 3e-5
"""As in `LocalNcc`, of intensities 0 to 1."""
BETTER = 0.005
"""Of local correlation: by how much the other field must match better to be taken."""
SEAM, STEEPEST = 0.06, 0.3
NEIGHBOURHOOD = 3.0
"""mm, sigma of the Gaussian around a guiding point that its weight is spread over."""
SMALLEST, LEAST, STEPS, LOOK = 8, 200, 500, 50
"""Samples along an axis of the coarsest minimization, its steps at least and most, how often it looks for its end."""
EXCESS = 0.15
"""By how much a seam may still be steeper then."""


def fit_guided(problem: Problem, fit: Fit, run: Run) -> Field:
    """What `fit` gives or, where point pairs guide, what it gives with them wherever that is better than without.

    A pull that is strong enough to mend a failure also bends what was right before, most of all across a border where
    organs slide; and one that begins where the failure has ended does not get out of it. So the images, and how near
    the pairs are brought, decide between the two: what they do not better stays as it was. Of conditioned fields that
    is decided once, at the alpha they have.
    """
    if problem.guidance is None:
        return fit(problem, run)
    fields = []
    for member, guidance in zip(run.members(2), (None, problem.guidance), strict=True):
        member.seed = run.seed  # what differs is to differ by the pairs alone
        fields.append(fit(replace(problem, guidance=guidance), member).freeze())
    run.check_cancelled()
    return fuse(*fields, problem)


@torch.no_grad()
def fuse(field: Field, other: Field, problem: Problem) -> Sliding:
    """`field`, with `other` where that matches the problem's images, and leads its guiding points, better. Frozen."""
    spacing = max(SPACING, float(np.prod(problem.grid.extent) / MOST) ** (1 / 3))
    apart = np.maximum(spacing, problem.grid.spacing)
    whole = problem.grid.resampled(apart)
    points = torch.as_tensor(problem.frame.normalize(whole.points()), dtype=torch.float32, device=problem.device)
    fields = [_everywhere(each, whole, problem.frame, points) for each in (field, other)]
    gain = _matched(problem, whole, spacing, *fields) - BETTER
    if problem.guides is not None:
        gain += _guided(field, other, problem, whole, points)
    difference = (fields[1] - fields[0]) * problem.frame.scale @ points.new_tensor(whole.direction)
    weight = choose(gain, difference, whole.spacing)
    weight = F.pad(weight[None, None], (1,) * 6, mode="replicate")[0, 0, ..., None]
    geometry = LatticeGeometry.covering(problem.grid, problem.frame, apart)
    return Sliding(other, field, geometry, weight).to(problem.device).freeze()


def choose(gain: Tensor, difference: Tensor, spacing: np.ndarray) -> Tensor:
    """Where the other field counts, 0 to 1, (D, H, W), by what is gained where it does, (D, H, W).

    `difference` (D, H, W, 3) is how far it is from the first one, in mm along the axes i, j, k of samples that are
    `spacing` (3,) mm apart. By the primal-dual method of Chambolle and Pock (2011).
    """
    return _choose(gain, difference.movedim(-1, 0), spacing)[0]


def _choose(gain: Tensor, difference: Tensor, spacing: np.ndarray) -> Tensor:
    """`choose`, (5, D, H, W): the weight, the force (3) of its total variation and that of the constraint.

    Begun where samples twice as far apart end, since a wide seam needs forces over many samples. `difference` is
    (3, D, H, W).
    """
    size = difference.norm(dim=0).clamp(min=1e-3)
    normal, limit, seam = difference / size, STEEPEST / size, SEAM * size
    if min(gain.shape) >= 2 * SMALLEST:
        half = [(n + 1) // 2 for n in gain.shape]
        coarse = F.interpolate(torch.cat([gain[None], difference])[None], half, mode="area")[0]
        coarse = _choose(coarse[0], coarse[1:], spacing * gain.shape[::-1] / half[::-1])
        weight, slope, steep = F.interpolate(coarse[None], gain.shape, mode="trilinear")[0].split((1, 3, 1))
        weight, steep = weight[0], steep[0]
    else:
        weight, slope, steep = (gain > 0).to(gain), torch.zeros_like(normal), torch.zeros_like(gain)
    ahead = weight
    rate = (2 * 4 * float((1 / spacing**2).sum())) ** -0.5
    up, down = rate * 2, rate / 2  # forces add up over many samples, weights go as far as 1
    for step in range(1, STEPS + 1):
        gradient = _gradient(ahead, spacing)
        slope = slope + up * gradient
        slope = slope * (seam / slope.square().sum(0).sqrt().clamp(min=1e-9)).clamp(max=1)
        steep = (steep + up * ((normal * gradient).sum(0) + limit)).clamp(max=0)
        before = weight
        weight = (weight + down * (gain - _adjoint(slope + normal * steep, spacing))).clamp(0, 1)
        ahead = 2 * weight - before
        if step >= LEAST and step % LOOK == 0:
            steepest = float((difference * _gradient(weight, spacing)).sum(0).min())
            if steepest > -STEEPEST - EXCESS:
                break
    return torch.cat([weight[None], slope, steep[None]])


def _gradient(weight: Tensor, spacing: np.ndarray) -> Tensor:
    """Forward differences along i, j, k, (3, D, H, W), 0 at the last samples."""
    return torch.stack([_pad(weight.diff(dim=2 - axis), axis, 0, 1) / float(spacing[axis]) for axis in range(3)])


def _adjoint(slope: Tensor, spacing: np.ndarray) -> Tensor:
    """The transposed of `_gradient`, (D, H, W)."""
    total = torch.zeros_like(slope[0])
    for axis, part in enumerate(slope):
        part = part.narrow(2 - axis, 0, part.shape[2 - axis] - 1) / float(spacing[axis])
        total += _pad(part, axis, 1, 0) - _pad(part, axis, 0, 1)
    return total


def _pad(values: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Zeros added along the axis i, j or k."""
    widths = [0] * 6
    widths[2 * axis : 2 * axis + 2] = before, after
    return F.pad(values, widths)


def _matched(problem: Problem, whole: Grid, spacing: float, displacement: Tensor, other: Tensor) -> Tensor:
    """By how much the other displacement's local correlation is higher at the samples, (D, H, W)."""
    gain = torch.zeros_like(displacement[..., 0])
    try:
        images = ImageLattice(problem, None, spacing, spacing, NOISE)
    except UserError:  # a mask thinner than the samples are apart: the pairs alone decide
        return gain
    first = np.rint(whole.to_index(images.grid.origin)).astype(int)[::-1]  # a mask crops the samples
    within = tuple(slice(start, start + size) for start, size in zip(first, images.grid.size[::-1], strict=True))
    gain[within] = images.correlation_of(other[within]) - images.correlation_of(displacement[within])
    return gain


def _guided(field: Field, other: Field, problem: Problem, whole: Grid, points: Tensor) -> Tensor:
    """By how much less the pairs weigh with `other`, over their neighbourhoods and in mm³ a sample's mm³; (D, H, W)."""
    start = problem.guides[0]
    gained = weights(field.dense(start), problem) - weights(other.dense(start), problem)
    reach = points.new_tensor(np.maximum(NEIGHBOURHOOD, whole.spacing / 2))  # else none would be near, between slices
    along_axes = problem.frame.scale * points.new_tensor(whole.direction) / reach
    total = torch.zeros_like(points[..., 0])
    for point, gain in zip(start, gained, strict=True):
        distance = ((points - point) @ along_axes).norm(dim=-1)
        around = torch.exp(-(distance**2) / 2)
        total += gain * around / around.sum().clamp(min=1e-6)
    return total / float(np.prod(whole.spacing))


def _everywhere(field: Field, grid: Grid, frame: Frame, points: Tensor) -> Tensor:
    """The field's displacement on a grid, (D, H, W, 3)."""
    found = field.on_grid(grid, frame)
    return field.dense(points.flatten(0, 2)).view_as(points) if found is None else found
