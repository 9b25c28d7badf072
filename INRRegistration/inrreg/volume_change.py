"""The local change of volume of a deformation as a map, as for regional ventilation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from inrreg.deformation import Deformation
from inrreg.geometry import Grid
from inrreg.transforms import Chain, PointMap, numerical_jacobian


def volume_change(
    transform: PointMap, reference: Grid, done: Callable[[int, int], None] = lambda done, of: None
) -> sitk.Image:
    """The Jacobian determinant of the whole map at the reference grid's points, float32.

    A volume in the moving image over the one it has in the fixed image: 1 where nothing changes, above 1 where tissue
    is larger in the moving image, 0 or less where the map folds. What an affine prealignment scales is part of it.
    `done(count, of)` is told of each slice.
    """
    result = np.empty(reference.size[::-1], np.float32)
    for slab in range(reference.size[2]):
        one = Grid((*reference.size[:2], 1), reference.to_world(np.array([0, 0, slab])), reference.matrix)
        result[slab] = whole_determinant(transform, one.points().reshape(-1, 3)).reshape(result.shape[1:])
        done(slab + 1, reference.size[2])
    return reference.image(result)


def whole_determinant(transform: PointMap, points: np.ndarray) -> np.ndarray:
    """The determinant (N,) of everything that a map consists of, at points (N, 3) LPS mm.

    In closed form where a model is, numerically for any other map and beyond the fixed image.
    """
    if not isinstance(transform, Deformation):
        return np.linalg.det(numerical_jacobian(transform, points))
    result, inside = np.empty(len(points)), transform.contains(points)
    result[inside] = np.linalg.det(np.eye(3) + transform.jacobian(points[inside]))
    if transform.before:
        deformed, rest = transform.deform(points[inside]), Chain(transform.before)
        result[inside] *= np.linalg.det(numerical_jacobian(rest, deformed))
    result[~inside] = np.linalg.det(numerical_jacobian(transform, points[~inside]))
    return result
