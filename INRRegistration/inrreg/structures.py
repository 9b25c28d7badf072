"""Sliding borders and rigid structures for any method: what it fits is put together from what it fitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch

from inrreg.constraints import Border
from inrreg.fields import Field, LatticeGeometry, Rigid, Sliding
from inrreg.geometry import Grid
from inrreg.optimization import Run
from inrreg.phantom.shape import smoothstep
from inrreg.problem import Problem
from inrreg.protocol import UserError
from inrreg.regularization import determinant

NODES = (1.0, 1.5)
"""mm between the nodes of a blend, at least and at most; between them the fixed image's smallest spacing."""
MOST = 4_000_000
"""Nodes of a blend."""
REACH = 3.5
"""Nodes around a structure, in every direction, that its points are told by."""
FADES = (5.0, 10.0, 20.0)
"""mm over which a rigid motion fades: the first in which nothing folds."""
UNFOLDED = 0.1
"""Jacobian determinant above which nothing folds."""
BORDER_POINTS, CHECKED = 1000, 40_000

JUMPS = (2.0, 4.0)
"""mm between the motions of both sides along a border: below the first it does not slide, from the second on it does.
Chosen, with the next two, on sliding phantoms (seeds 3 and 5)."""
AROUND = 15.0
"""mm of a Gaussian over which that is averaged along the border: what is wrong at random has no direction."""
APART = 40.0
"""mm from where a border slides up to which its sides are fields of their own."""
APART_NODES = 5.0
"""mm between the nodes of the weight that says so."""
LOOKED_AT = 20_000
"""Points of the border at which its sides are compared."""

Fit = Callable[[Problem, Run], Field]


# ------------------------------------------------------------------------------------------- sliding


def fit_sides(problem: Problem, sliding: sitk.Image, fit: Fit, run: Run) -> Sliding:
    """What `fit` gives for the whole or, where the border of a mask (0 and 1, on the fixed grid) slides, for its sides.

    Each side has data of its own and the whole image's regularization, so that nothing acts across the border but the
    outside's pull towards no gap and no overlap with the inside. A side alone knows less, its border's contrast least:
    so it counts only around where the two have been found to move along each other. It begins anew, since the whole is
    wrong just there; the whole goes on from where it ended (where the method takes a start). Raises `UserError` (code
    `sliding`) for an empty side.
    """
    mask = sitk.GetArrayFromImage(sliding) > 0
    sides = [_side(problem, side) for side in (mask, ~mask)]
    members = run.members(4)
    first = fit(problem, next(members)).freeze()
    inside = fit(sides[0], next(members)).freeze()
    border = _border(problem, sliding, inside)
    outside = fit(replace(sides[1], border=border), next(members)).freeze()
    whole = fit(replace(problem, start=first, goes_on=True), next(members)).freeze()
    next(members, None)
    grid = _node_grid(problem, mask)
    # the border lies half a voxel outside the mask's outermost voxels
    inner = _distance(sliding, grid) - problem.grid.spacing.min() / 2
    apart = _blend(problem, inside, outside, grid, smoothstep(0.5 - inner / (2 * grid.spacing[0])))
    grid = _node_grid(problem, mask, APART, APART_NODES)
    return _blend(problem, apart, whole, grid, _slides(problem, sliding, apart, grid))


def _blend(problem: Problem, inside: Field, outside: Field, grid: Grid, weight: np.ndarray) -> Sliding:
    weight = torch.as_tensor(weight[..., None], dtype=torch.float32)
    return Sliding(inside, outside, _geometry(grid, problem), weight).to(problem.device)


def _slides(problem: Problem, sliding: sitk.Image, sides: Sliding, grid: Grid) -> np.ndarray:
    """From 0 to 1 at a grid's points (k, j, i): whether the border nearby slides, and how near that is."""
    border = _border(problem, sliding, sides.outside, LOOKED_AT)
    jump = sides.inside.dense(border.points) - border.displacement
    jump = (jump - (jump * border.normals).sum(-1, keepdim=True) * border.normals).cpu().numpy() * problem.frame.scale
    index = grid.to_index(problem.frame.to_world(border.points.cpu().numpy().astype(float)))
    i, j, k = np.rint(index).astype(int).T
    sums = []
    for values in (np.ones(len(jump)), *jump.T):
        total = np.zeros(grid.size[::-1], np.float32)
        np.add.at(total, (k, j, i), values)
        smooth = sitk.SmoothingRecursiveGaussian(grid.image(total), AROUND)
        sums.append(sitk.GetArrayFromImage(smooth))
    count = np.maximum(sums[0], 1e-6 * sums[0].max())
    size = np.linalg.norm(np.stack(sums[1:]), axis=0) / count
    away = np.abs(_distance(sliding, grid))
    return smoothstep((size - JUMPS[0]) / (JUMPS[1] - JUMPS[0])) * (1 - smoothstep(away / APART))


def _side(problem: Problem, side: np.ndarray) -> Problem:
    """The problem whose data, guiding points and rigid structures are of one side (k, j, i) alone."""
    mask = problem.mask & side
    if not mask.any():
        raise UserError(
            "sliding",
            "The mask that slides leaves nothing to compare on one of its sides.",
            "Choose a mask that covers a part of the fixed image and of its mask.",
        )
    guides, rigid = problem.guidance, problem.rigid
    if guides is not None:
        i, j, k = np.rint(problem.grid.to_index(guides.fixed)).astype(int).T
        last = np.array(problem.grid.size) - 1
        i, j, k = (np.clip(index, 0, n) for index, n in zip((i, j, k), last, strict=True))
        guides = guides.only(side[k, j, i])
    if rigid is not None:
        rigid = problem.grid.image(np.where(side, sitk.GetArrayViewFromImage(rigid), 0))
    # windows that look across the border see tissue that moves otherwise
    hidden = ~side if problem.exclude is None else ~side | (sitk.GetArrayViewFromImage(problem.exclude) > 0)
    return replace(
        problem,
        exclude=problem.grid.image(hidden.astype(np.uint8)),
        fixed_mask=problem.grid.image(mask.astype(np.uint8)),
        guidance=guides if guides is None or len(guides) else None,
        rigid=rigid if rigid is None or sitk.GetArrayViewFromImage(rigid).any() else None,
    )


def _border(problem: Problem, sliding: sitk.Image, field: Field, count: int = BORDER_POINTS) -> Border:
    """Random voxels at the border, their normals, and how a field moves them."""
    grid = problem.grid
    away = sitk.GetArrayFromImage(_signed(sliding))
    near = np.stack(np.nonzero(np.abs(away) <= grid.spacing.min()), -1)
    chosen = near[np.random.default_rng(problem.seed).integers(len(near), size=count)]
    k, j, i = chosen.T
    slopes = np.stack([slope[k, j, i] for slope in np.gradient(away)][::-1], -1) / grid.spacing
    normals = slopes @ grid.direction.T
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)
    points = problem.frame.normalize(grid.to_world(chosen[:, ::-1]))
    points, normals = (torch.as_tensor(each, dtype=torch.float32, device=problem.device) for each in (points, normals))
    return Border.of(points, normals, field)


# --------------------------------------------------------------------------------------------- rigid


def hold_rigid(field: Field, problem: Problem, run: Run) -> Field:
    """The field with the problem's structures held rigid, faded over the least distance in which nothing folds."""
    found = []
    for fade in FADES:
        run.check_cancelled()
        held, points = _rigid(field, problem, fade)
        with torch.no_grad():
            jacobians = [held.jet(part, 1).jacobian for part in points.split(1 << 14)]
        found.append((float(determinant(torch.cat(jacobians)).min()), held))
        if found[-1][0] > UNFOLDED:
            return held
    least, held = max(found, key=lambda each: each[0])
    if least <= 0:
        message = "The deformation folds beside a rigid structure: structures that touch move apart, or too far."
        run.emit("warning", {"code": "rigid", "message": message})
    return held


def _rigid(field: Field, problem: Problem, fade: float) -> tuple[Rigid, torch.Tensor]:
    """The field with rigid structures that fade over so many mm, and random points (N, 3) of where they fade."""
    labels = sitk.GetArrayFromImage(problem.rigid)
    values = [value for value in np.unique(labels) if value]
    grid = _node_grid(problem, labels > 0, fade)
    near = REACH * grid.spacing[0]
    distances = np.full((2, *grid.size[::-1]), np.inf, np.float32)
    numbers = np.zeros(distances.shape, np.int16)
    for number, value in enumerate(values):
        found = _distance(problem.grid.image((labels == value).astype(np.uint8)), grid)
        first, second = found < distances[0], (found >= distances[0]) & (found < distances[1])
        for each, new in ((distances, found), (numbers, np.full_like(numbers[0], number))):
            each[1][first] = each[0][first]
            each[0][first], each[1][second] = new[first], new[second]
    whole = 1 - smoothstep((distances[0] - near) / fade)
    first = smoothstep(0.5 + (distances[1] - distances[0]) / (4 * grid.spacing[0]))
    share = np.stack([whole * first, whole * (1 - first)]).astype(np.float32)
    zero = torch.zeros(3, device=problem.device)
    matrix = problem.before.matrix(zero)
    after = torch.cat([matrix, problem.before(zero)[:, None]], 1)
    buffers = {"points": problem.rigid_points, "after": after}
    buffers |= {"number": torch.as_tensor(numbers), "share": torch.as_tensor(share)}
    structures = problem.rigid_points.shape[:2]
    held = Rigid(field, _geometry(grid, problem), structures, buffers).to(problem.device).freeze()
    places = np.argwhere((whole > 0) & (distances[0] > 0 if (distances[0] > 0).any() else True))
    random = np.random.default_rng(0)
    places = places[random.integers(len(places), size=CHECKED)] + random.uniform(-0.5, 0.5, (CHECKED, 3))
    index = problem.grid.to_index(grid.to_world(places[:, ::-1]))
    world = problem.grid.to_world(np.clip(index, 0, np.array(problem.grid.size) - 1))
    return held, torch.as_tensor(problem.frame.normalize(world), dtype=torch.float32, device=problem.device)


# --------------------------------------------------------------------------------------------- nodes


def _node_grid(problem: Problem, mask: np.ndarray, margin: float = 0.0, step: float = 0.0) -> Grid:
    """Nodes along the fixed image's axes, `step` mm or else `NODES` apart, around a mask (k, j, i) by `margin` mm and a
    spline's reach.

    Farther apart where they would be more than `MOST`. It may end beyond the image: where it ends within the image, its
    outermost nodes weigh nothing.
    """
    step = step or float(np.clip(problem.grid.spacing.min(), *NODES))
    places = np.stack(np.nonzero(mask)[::-1])
    first, last = places.min(1) * problem.grid.spacing, places.max(1) * problem.grid.spacing
    while True:
        around = margin + 3 * REACH * step
        low = first - around
        size = tuple(int(n) + 1 for n in np.ceil((last - first + 2 * around) / step))
        if math.prod(size) <= MOST:
            return Grid(size, problem.grid.origin + problem.grid.direction @ low, problem.grid.direction * step)
        step *= 1.1


def _geometry(grid: Grid, problem: Problem) -> LatticeGeometry:
    origin = grid.direction.T @ problem.frame.normalize(grid.origin)
    return LatticeGeometry(grid.size, origin, grid.spacing / problem.frame.scale, grid.direction)


def _signed(mask: sitk.Image) -> sitk.Image:
    """The distance in mm to a mask's outermost voxels, negative inside."""
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True)


def _distance(mask: sitk.Image, grid: Grid) -> np.ndarray:
    """`_signed` at a grid's points, (k, j, i); beyond the mask's image that of its nearest point there and the way."""
    filter = sitk.ResampleImageFilter()
    filter.SetSize(grid.size)
    filter.SetOutputOrigin(grid.origin.tolist())
    filter.SetOutputSpacing(grid.spacing.tolist())
    filter.SetOutputDirection(grid.direction.ravel().tolist())
    filter.SetInterpolator(sitk.sitkLinear)
    filter.SetUseNearestNeighborExtrapolator(True)
    own = Grid.of(mask)
    local = (grid.points() - own.origin) @ own.direction
    beyond = np.linalg.norm(local - np.clip(local, 0, own.extent), axis=-1)
    return sitk.GetArrayFromImage(filter.Execute(_signed(mask))) + beyond
