"""How good a registration is: landmark errors, label overlap, and how the deformation changes volume.

All distances are millimetres. Arrays of images are (z, y, x); points and vectors are LPS (x, y, z).
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from inrreg.protocol import UserError

SLAB = 16
"""Slices that `jacobian_determinant` takes at a time."""

# --------------------------------------------------------------------------------------- landmarks


def target_registration_error(mapped: np.ndarray, moving: np.ndarray, snap_to: sitk.Image | None = None) -> np.ndarray:
    """Euclidean distance from each mapped fixed landmark to its moving landmark, (N,) mm.

    `mapped` and `moving` are (N, 3) LPS mm in moving space. With `snap_to`, the moving image, each mapped
    point is first rounded to the centre of the voxel that holds it, as DIR-Lab's protocol does.
    Raises `UserError` (code `points`) where the two sets do not correspond.
    """
    mapped, moving = np.asarray(mapped, dtype=np.float64), np.asarray(moving, dtype=np.float64)
    if mapped.shape != moving.shape or mapped.ndim != 2 or mapped.shape[1] != 3:
        raise UserError("points", f"{len(mapped)} fixed and {len(moving)} moving landmarks do not correspond.")
    if snap_to is not None:
        origin, axes = np.array(snap_to.GetOrigin()), _index_to_world(snap_to)
        # Halves round up, as ITK rounds them; numpy's rint would go to the even neighbour.
        index = np.floor((mapped - origin) @ np.linalg.inv(axes).T + 0.5)
        mapped = index @ axes.T + origin
    return np.linalg.norm(mapped - moving, axis=1)


def summary(errors: np.ndarray) -> dict[str, float | int]:
    """Mean, sample standard deviation (0 for one value), median, 95th percentile, largest value and count.

    Percentiles interpolate linearly. Raises `UserError` (code `points`) where there are no values.
    """
    errors = np.asarray(errors, dtype=np.float64)
    if not errors.size:
        raise UserError("points", "There are no landmark errors to summarize.")
    return {
        "mean": float(errors.mean()),
        "sd": float(errors.std(ddof=1)) if errors.size > 1 else 0.0,
        "median": float(np.median(errors)),
        "p95": float(np.percentile(errors, 95)),
        "max": float(errors.max()),
        "count": int(errors.size),
    }


# ------------------------------------------------------------------------------------------ labels


def dice(a: sitk.Image, b: sitk.Image) -> float:
    """Dice overlap 2 |A and B| / (|A| + |B|) of two masks (nonzero is inside) on one grid; NaN for two empty ones.

    Raises `UserError` (code `labels`) where the grids differ.
    """
    _require_one_grid(a, b)
    inside_a, inside_b = (sitk.GetArrayViewFromImage(image) != 0 for image in (a, b))
    total = int(inside_a.sum()) + int(inside_b.sum())
    return 2.0 * int((inside_a & inside_b).sum()) / total if total else float("nan")


def surface_distances(a: sitk.Image, b: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """From each surface voxel's centre of A the distance in mm to the nearest of B, and the other way round.

    A surface voxel is one inside (nonzero) with a face neighbour outside; beyond the image is outside. Both arrays
    are empty where one mask is. Raises `UserError` (code `labels`) where the grids differ.
    """
    _require_one_grid(a, b)
    # Distances need only the neighbourhood of both masks, and that is a small part of most images.
    box = _bounding_box(a, b)
    surfaces = [_surface(_crop(image, box)) for image in (a, b)]
    if not all(np.any(sitk.GetArrayViewFromImage(surface)) for surface in surfaces):
        return np.empty(0), np.empty(0)
    distances = []
    for one, other in (surfaces, surfaces[::-1]):
        distance = sitk.SignedMaurerDistanceMap(other, squaredDistance=False, useImageSpacing=True)
        # A surface is one voxel thick, so that its own voxels are at distance zero.
        distances.append(np.abs(sitk.GetArrayViewFromImage(distance))[sitk.GetArrayViewFromImage(one) != 0])
    return distances[0], distances[1]


def hausdorff95(a: sitk.Image, b: sitk.Image) -> float:
    """95 % Hausdorff distance of two masks on one grid, in mm; NaN where one is empty.

    The larger of the two directions' 95th percentiles of `surface_distances`. (Others pool both, or average.)
    Raises `UserError` (code `labels`) where the grids differ.
    """
    return _hausdorff95(*surface_distances(a, b))


def mean_distance_to_agreement(a: sitk.Image, b: sitk.Image) -> float:
    """Mean distance to agreement of two masks on one grid, in mm; NaN where one is empty.

    The mean of both directions' `surface_distances` together, also known as average symmetric surface distance.
    (Others take the mean of the two directions' means.) Raises `UserError` (code `labels`) where the grids differ.
    """
    return _mean_distance(*surface_distances(a, b))


def _hausdorff95(there: np.ndarray, back: np.ndarray) -> float:
    return max(float(np.percentile(values, 95)) for values in (there, back)) if there.size else float("nan")


def _mean_distance(there: np.ndarray, back: np.ndarray) -> float:
    return float(np.concatenate([there, back]).mean()) if there.size else float("nan")


def label_overlap(fixed_labels: sitk.Image, warped_labels: sitk.Image) -> dict[int, dict[str, float | None]]:
    """Dice, 95 % Hausdorff distance and mean distance to agreement (`mda`), in mm, of each label in either image.

    0 is background. A label in one image only has Dice 0 and no distances: None, which JSON can carry and NaN it
    cannot. Raises `UserError` (code `labels`) where the grids differ.
    """
    _require_one_grid(fixed_labels, warped_labels)
    values = np.union1d(*(np.unique(sitk.GetArrayViewFromImage(image)) for image in (fixed_labels, warped_labels)))
    overlap = {}
    for label in (int(value) for value in values if value != 0):
        a, b = fixed_labels == label, warped_labels == label
        distances = surface_distances(a, b)
        overlap[label] = {
            "dice": dice(a, b),
            "hd95": _hausdorff95(*distances) if distances[0].size else None,
            "mda": _mean_distance(*distances) if distances[0].size else None,
        }
    return overlap


def _require_one_grid(a: sitk.Image, b: sitk.Image) -> None:
    # Headers carry rounded numbers: a thousandth of a voxel is the same place.
    tolerance = 1e-3 * min(a.GetSpacing())
    same = (
        a.GetSize() == b.GetSize()
        and np.allclose(a.GetOrigin(), b.GetOrigin(), rtol=0, atol=tolerance)
        and np.allclose(a.GetSpacing(), b.GetSpacing(), rtol=1e-4)
        and np.allclose(a.GetDirection(), b.GetDirection(), rtol=0, atol=1e-4)
    )
    if not same:
        raise UserError("labels", "The two label images lie on different grids.", "Resample one onto the other.")


def _bounding_box(a: sitk.Image, b: sitk.Image) -> tuple[slice, ...]:
    """The (z, y, x) range that holds all voxels of both masks."""
    either = (sitk.GetArrayViewFromImage(a) != 0) | (sitk.GetArrayViewFromImage(b) != 0)
    box = []
    for axis in range(either.ndim):
        occupied = np.flatnonzero(either.any(axis=tuple(other for other in range(either.ndim) if other != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1) if occupied.size else slice(0, 1))
    return tuple(box)


def _crop(mask: sitk.Image, box: tuple[slice, ...]) -> sitk.Image:
    """The mask as 0 and 1 in the box and a margin of one voxel outside around it. Spacing alone is kept."""
    inside = np.pad(sitk.GetArrayViewFromImage(mask)[box] != 0, 1)
    image = sitk.GetImageFromArray(inside.astype(np.uint8))
    # Distances do not depend on origin and direction.
    image.SetSpacing(mask.GetSpacing())
    return image


def _surface(mask: sitk.Image) -> sitk.Image:
    """The inside voxels that have a face neighbour outside."""
    return sitk.BinaryContour(mask, fullyConnected=False, backgroundValue=0, foregroundValue=1)


# ------------------------------------------------------------------------------------- deformation


def jacobian_determinant(field: np.ndarray, grid: sitk.Image) -> np.ndarray:
    """Determinant of the deformation's Jacobian, det(I + du/dx), at each voxel, (z, y, x) float64.

    `field` is (z, y, x, 3), the displacement u in LPS mm on the grid of `grid`. Derivatives are central
    differences along the image's axes (one-sided on the boundary, zero along an axis of one voxel),
    carried to world axes.
    """
    axes = _index_to_world(grid)
    slices = len(field)
    determinant = np.empty(field.shape[:3])
    # Slab by slab, since all derivatives of a large image at once take many times its memory.
    for start in range(0, slices, SLAB):
        stop = min(start + SLAB, slices)
        first, last = max(start - 1, 0), min(stop + 1, slices)
        x, y, z = _voxel_steps(np.asarray(field[first:last], dtype=np.float64), axes)
        volume = (
            x[0] * (y[1] * z[2] - y[2] * z[1]) + x[1] * (y[2] * z[0] - y[0] * z[2]) + x[2] * (y[0] * z[1] - y[1] * z[0])
        )
        determinant[start:stop] = volume[start - first : stop - first] / np.linalg.det(axes)
    return determinant


def _voxel_steps(displacement: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Where the steps to the next voxel along x, y and z are carried: (step, component, z, y, x) in mm."""
    components = np.ascontiguousarray(np.moveaxis(displacement, -1, 0))
    steps = np.zeros((3, *components.shape))
    for column, axis in enumerate((3, 2, 1)):
        if components.shape[axis] > 1:
            steps[column] = np.gradient(components, axis=axis)
        steps[column] += axes[:, column, None, None, None]
    return steps


def jacobian_summary(determinant: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Smallest and largest determinant, the share that folds (<= 0) and the spread of its logarithm.

    `sd_log` is the standard deviation of the natural logarithm over the determinants above zero, with
    those below 1e-9 raised to it; it is 0 where all of them fold. `mask`, of the determinant's shape,
    restricts the voxels. Raises `UserError` (code `mask`) where it leaves none.
    """
    values = np.asarray(determinant, dtype=np.float64)
    values = values.ravel() if mask is None else values[np.asarray(mask) != 0]
    if not values.size:
        raise UserError("mask", "The mask is empty, so there is no deformation to measure in it.")
    positive = values[values > 0]
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "folding": float(np.mean(values <= 0)),
        "sd_log": float(np.log(np.maximum(positive, 1e-9)).std()) if positive.size else 0.0,
    }


def _index_to_world(image: sitk.Image) -> np.ndarray:
    """(3, 3) matrix whose columns are the steps, in LPS mm, from voxel to voxel along x, y and z."""
    return np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
