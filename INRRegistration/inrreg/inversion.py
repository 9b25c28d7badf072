"""The inverse of a sampled displacement as another one: what counts is there and back by both, as other programs go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrreg.fade import MOST_NODES
from inrreg.geometry import Grid
from inrreg.transforms import DisplacementGrid, Inverse, invert, sample_on

RETURN, RETURN_VOXELS = 0.2, 0.06
"""How far there and back may miss for both ways to have one grid: in mm, or in the fixed image's smallest spacing where
that is more."""
RETURNING, RARE = 20_000, 99.8
"""Points of the fixed image that go there and back, and the percentile of what they miss: organs are a small part."""
FINEST, MOST_BACK = 3.0, MOST_NODES // 4
"""How many times finer than the way there, along its coarsest axis, the way back may be, and its nodes."""
COARSER = 2.0
"""How many times coarser than the way there it is inverted point by point."""
STEPS, CLOSE = 6, 5e-3
"""Steps from there on before points are inverted one by one again, and the distance in mm that is good enough."""
RELAXED, FIRM = 1.5, 1.0
"""How far a fit goes, and what a node's own value weighs in it, beside samples that weigh up to 1 each."""
_SLAB = 1 << 20
"""Samples looked at in one go: bounds the memory."""


def inverse_grid(there: DisplacementGrid, image: Grid) -> DisplacementGrid:
    """The inverse of `there` over the same box, for points of an image within it.

    Exact at the nodes of the same grid where going there and back keeps to `RETURN`, else of one as fine as that needs,
    along the axes on which the grid is coarser than that: where a map compresses, its inverse bends more within a cell
    than the map does. Where that is not enough the nodes are fitted, since linear between exact values the inverse
    always misses to the same side of a bend.
    """
    grid = there.grid
    points = image.to_world(np.random.default_rng(0).random((RETURNING, 3)) * (np.array(image.size) - 1))
    reached, limit = there.map(points), max(RETURN, RETURN_VOXELS * image.spacing.min())

    def missed(back: DisplacementGrid) -> float:
        return float(np.percentile(np.linalg.norm(back.map(reached) - points, axis=1), RARE))

    coarse = grid.resampled(max(grid.spacing.max(), COARSER * grid.spacing.min()))
    near = DisplacementGrid(sample_on(Inverse(there), coarse), coarse)
    back = DisplacementGrid(sample_on(_Nearby(there, near), grid), grid)
    if (error := missed(back)) <= limit:
        return back
    # the coarsest axis tells the error, at worst in proportion
    wanted = grid.spacing.max() / min(error / limit, FINEST)
    finer = grid.resampled(np.minimum(grid.spacing, wanted))
    while math.prod(finer.size) > max(MOST_BACK, math.prod(grid.size)):
        wanted *= 1.05
        finer = grid.resampled(np.minimum(grid.spacing, wanted))
    if finer.size != grid.size:
        back = DisplacementGrid(sample_on(_Nearby(there, back), finer), finer)
    return back if missed(back) <= limit else _fitted(there, back)


def _fitted(there: DisplacementGrid, back: DisplacementGrid) -> DisplacementGrid:
    """The way back, fitted to samples of the way there, each of which says where one point comes from.

    A step of simultaneous iterative reconstruction (Gilbert 1972): each node moves by the mean of what the samples
    around it miss, weighted as they are interpolated.
    """
    exact = torch.as_tensor(back.vectors, dtype=torch.float32).permute(3, 0, 1, 2)
    values = torch.cat([exact, torch.zeros_like(exact[:1])])[None]
    change = torch.zeros_like(values)
    for located, source in _samples(there, back.grid):
        change += _missed(values, located, source)
    exact = exact + RELAXED * change[0, :3] / (change[0, 3:] + FIRM)
    return DisplacementGrid(exact.permute(1, 2, 3, 0).numpy().astype(np.float64), back.grid)


@dataclass(frozen=True)
class _Nearby:
    """The numerical inverse of `there`, whose slope `near` knows about: that spares most points a Jacobian."""

    there: DisplacementGrid
    near: DisplacementGrid

    def map(self, points: np.ndarray) -> np.ndarray:
        first = self.near.map(points)
        found, active = first.copy(), np.arange(len(points))
        for _ in range(STEPS):
            reached = self.there.map(found[active])
            far = np.linalg.norm(reached - points[active], axis=1) > CLOSE
            active = active[far]
            found[active] += first[active] - self.near.map(reached[far])
        if len(active):
            found[active] = invert(self.there, points[active], start=found[active])
        return found


def _samples(there: DisplacementGrid, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Where, as torch's grid_sample takes it on a grid, the way there ends, and the displacement back from it.

    From its nodes, where it bends, and evenly between them, about as many as the grid has.
    """
    own, half = there.grid, (np.array(grid.size) - 1) / 2
    parts = np.maximum(1, np.ceil(own.spacing / grid.spacing - 0.1)).astype(int)
    size, matrix = (np.array(own.size) - 1) * parts + 1, own.matrix / parts
    slices = max(1, _SLAB // int(size[0] * size[1]))
    for first in range(0, size[2], slices):
        count = min(slices, int(size[2]) - first)
        slab = Grid((int(size[0]), int(size[1]), count), own.origin + first * matrix[:, 2], matrix)
        source = slab.points().reshape(-1, 3)
        end = there.map(source)
        located = torch.as_tensor(grid.to_index(end) / half - 1, dtype=torch.float32)
        back = torch.as_tensor((source - end).T, dtype=torch.float32)
        yield located[None, None, None], back[None, :, None, None]


def _missed(values: Tensor, located: Tensor, source: Tensor) -> Tensor:
    """What is missed at the samples, shared out to the nodes they are interpolated from; last, the shares' sums."""
    with torch.enable_grad():  # to share out is the adjoint of to interpolate
        nodes = values.detach().requires_grad_()
        found = F.grid_sample(nodes, located, padding_mode="border", align_corners=True)
        total = found[:, 3].sum() - 0.5 * (source - found[:, :3]).square().sum()
        return torch.autograd.grad(total, nodes)[0]
