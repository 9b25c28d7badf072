"""How a displacement ends beyond the fixed image: it fades to zero, over margins in which nothing folds.

VTK continues a grid's border value beyond it and ITK does not: only a field that ends at zero is the same to both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inrreg.geometry import Grid
from inrreg.transforms import PointMap

_SLOPE = 0.7
"""Steepest fade of an outward displacement beyond a face of the fixed image; at 1 it would fold."""
_GROWTH = 1.25
"""Factor by which a margin grows while anything in it folds."""
MOST_NODES = 1 << 24
"""Nodes of the exported grid, 200 MB; a displacement too large to fade within them ends before that."""
_FADE_STEPS = 4
"""Where across a margin the fade is checked for folding."""


def choose_margins(maps: Sequence[PointMap], grid: Grid, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """Widths of the fade, (2, 3) mm and whole cells of `spacing` (3,) mm, and the smallest determinant in it.

    `maps` are displaced maps of the box of `grid`, which all fade over the same margins; the first sets their start.

    First wide enough for what each face moves outward; then those margins grow in which the fade of all that
    moves, along the faces too and where several margins meet, comes near to folding.
    """
    faces = _coarse(grid)
    index = np.indices(faces.size[::-1])
    border = np.zeros(index.shape[1:], bool)
    for axis, n in zip(index, border.shape, strict=True):
        border |= (axis == 0) | (axis == n - 1)
    points, moved = faces.points()[border], []
    for inner in maps:
        local = np.zeros((*border.shape, 3))
        local[border] = (inner.map(points) - points) @ grid.direction
        moved.append(local)
    margins = np.zeros((2, 3))
    for axis in range(3):
        for side, sign in ((0, -1), (1, 1)):
            face = sign * np.take(moved[0], -side, axis=2 - axis)[..., axis]
            margins[side, axis] = max(face.max() / _SLOPE, -face.min() / 3, 2 * spacing[axis])

    def smallest_within(margins: np.ndarray) -> np.ndarray:
        return np.min([_outside(local, faces, margins, spacing) for local in moved], axis=0)

    def too_many(margins: np.ndarray) -> bool:
        return ((grid.extent + margins.sum(0)) / spacing + 3).prod() > MOST_NODES

    while too_many(margins) and (margins > 2 * spacing).any():
        margins = np.maximum(margins / _GROWTH, 2 * spacing)
    # No margin does better than a very wide one, in which only the gradient along the faces is left.
    bound = min(0.2, 0.5 * smallest_within(np.full((2, 3), 1e6)).min())
    while True:
        margins = np.ceil(margins / spacing - 1e-6) * spacing
        smallest = smallest_within(margins)
        wider = np.where(smallest < bound, _GROWTH * margins, margins)
        if bound <= 0 or (smallest >= bound).all() or too_many(wider):
            return margins, float(smallest.min())
        margins = wider


def _coarse(grid: Grid, most: int = 33) -> Grid:
    """A grid over the same box with at most that many points along an axis."""
    size = np.minimum(np.array(grid.size), most)
    step = grid.extent / (size - 1)
    return Grid(tuple(int(n) for n in size), grid.origin, grid.direction * step)


def pad(inner: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Vectors (k, j, i, 3) continued beyond their grid by (3,) nodes along i, j, k: one, then falling to zero."""
    padded = np.pad(inner, [*zip(low[::-1], high[::-1], strict=True), (0, 0)], mode="edge")
    for axis in range(3):
        node = np.arange(padded.shape[2 - axis])
        weight = np.clip(np.minimum(node / (low[axis] - 1), node[::-1] / (high[axis] - 1)), 0, 1)
        padded *= weight.reshape([-1 if each == 2 - axis else 1 for each in range(4)])
    return padded


def _outside(local: np.ndarray, grid: Grid, margins: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The smallest Jacobian determinant of the fade below and above along each axis, (2, 3).

    `local` (k, j, i, 3) is the displacement along the grid's axes at its points; only its border counts. The fade
    over `margins` (2, 3) begins after a `cell` (3,).
    """
    steps = np.full(3, _FADE_STEPS + 1)
    padded, fade = pad(local, steps, steps), np.linspace(0, 1, _FADE_STEPS + 1)
    places = [
        np.concatenate([low * (fade - 1) - step, np.linspace(0, length, n), length + step + high * fade])
        for low, high, step, length, n in zip(*margins, cell, grid.extent, grid.size, strict=True)
    ]
    smallest = np.empty((2, 3))
    for axis in range(3):
        for side, part in enumerate((slice(0, _FADE_STEPS + 2), slice(-_FADE_STEPS - 2, None))):
            cut = [slice(None)] * 3
            cut[2 - axis] = part
            cut_places = [place[part] if each == axis else place for each, place in enumerate(places)]
            smallest[side, axis] = _determinants(padded[tuple(cut)], cut_places).min()
    return smallest


def _determinants(local: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """The smallest Jacobian determinant at the eight corners of each cell of a trilinear displacement.

    `local` (k, j, i, 3) is the displacement along the grid's axes, `places` its coordinates along i, j, k.
    """
    parts, slopes = np.ascontiguousarray(np.moveaxis(local, -1, 0)), []
    for axis, place in enumerate(places):
        steps = np.diff(place).reshape([-1 if each == 2 - axis else 1 for each in range(3)])
        slopes.append(np.diff(parts, axis=3 - axis) / steps)
        slopes[-1][axis] += 1
    cells = np.array(local.shape[:3]) - 1
    smallest = np.full(cells, np.inf)
    for corner in np.ndindex(2, 2, 2):
        ends = [slice(first, first + count) for first, count in zip(corner, cells, strict=True)]
        cuts = [[slice(None), *ends[: 2 - axis], slice(None), *ends[3 - axis :]] for axis in range(3)]
        (a, b, c), (d, e, f), (g, h, i) = (slope[tuple(cut)] for slope, cut in zip(slopes, cuts, strict=True))
        # Written out: NumPy's `cross` and `det` take several times as long.
        np.minimum(smallest, a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g), out=smallest)
    return smallest
