"""Images computed for looking at a result, in NumPy alone: they can be made off the GUI thread."""

from __future__ import annotations

import numpy as np

DOUBLED = 1.0
"""Logarithm to base 2 of the volume change at the ends of the colours: halved and doubled."""
FOLDED = -1.5 * DOUBLED
"""What stands where the deformation folds: beyond the ends."""
SQUARES = 8
"""Of a checkerboard, along the image's longest side."""


def log_determinant(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """log2 of the determinant of x + u(x), within `DOUBLED`, `FOLDED` where it is not above zero: float32 (k, j, i).

    `vectors` (k, j, i, 3) is u in RAS mm, `matrix` 4 x 4 leads from indices (i, j, k) to RAS. Central differences.
    """
    to_index = np.linalg.inv(matrix[:3, :3])
    slopes = [np.gradient(vectors, axis=2 - axis) for axis in range(3)]
    # The derivative along a RAS axis, (k, j, i, 3), of all three components.
    columns = [sum(np.float32(to_index[a, b]) * slopes[a] for a in range(3)) for b in range(3)]
    for axis, column in enumerate(columns):
        column[..., axis] += 1
    x, y, z = columns
    determinant = np.einsum("...a,...a", x, np.cross(y, z))
    folds = determinant <= 0
    result = np.log2(np.where(folds, 1, determinant)).clip(-DOUBLED, DOUBLED).astype(np.float32)
    result[folds] = FOLDED
    return result


def inner_part(matrix: np.ndarray, shape: tuple[int, int, int], corners: np.ndarray) -> tuple[slice, slice, slice]:
    """The part of a grid (k, j, i) that covers a box, by its `corners` (N, 3) RAS; all of it where they do not meet."""
    local = (corners - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
    low = np.maximum(np.floor(local.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(local.max(0)).astype(int) + 1, shape[::-1])
    if (high - low < 2).any():
        return (slice(None),) * 3
    return tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))


def checkerboard(image: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """Every other square of an image (k, j, i); the rest lies below the second result, all that is kept above it."""
    low = float(image.min())
    edge = max(np.multiply(image.shape[::-1], spacing)) / SQUARES
    parts = [(np.arange(n) * step // edge).astype(int) for n, step in zip(image.shape[::-1], spacing, strict=True)]
    odd = (parts[2][:, None, None] + parts[1][:, None] + parts[0]) % 2 == 1
    kind = np.promote_types(image.dtype, np.int16) if image.dtype.kind in "iu" else np.dtype(np.float32)
    hidden = low - max(1.0, 1e-3 * abs(low))
    return np.where(odd, image.astype(kind), kind.type(hidden)), (low + hidden) / 2
