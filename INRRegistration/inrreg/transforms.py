"""Maps from fixed-space to moving-space points, in LPS mm: applied, inverted, sampled on grids, read.

Everything here has one method, `map(points)`, for points (N, 3) float64.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk
import torch

from inrreg.dicom import is_dicom, read_registration
from inrreg.geometry import Grid, interpolate
from inrreg.images import read_header, read_voxels
from inrreg.protocol import UserError

_CLOSE = 1e-4
"""Distance in mm at which a numerical inverse is good enough."""
_GAIN = 0.3
"""What a step may leave of the error for the next one to do without a new Jacobian."""
_CHUNK = 1 << 20
"""Points mapped at once: bounds the memory; a field costs something for every call, too."""


class PointMap(Protocol):
    """A map of points."""

    def map(self, points: np.ndarray) -> np.ndarray:
        """Moving-space points (N, 3) of fixed-space points (N, 3), LPS mm."""


@dataclass(frozen=True)
class Affine:
    """x -> matrix x + offset; the identity by default."""

    matrix: np.ndarray = None
    offset: np.ndarray = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", np.eye(3) if self.matrix is None else np.asarray(self.matrix))
        object.__setattr__(self, "offset", np.zeros(3) if self.offset is None else np.asarray(self.offset))

    def map(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix.T + self.offset

    def after(self, other: Affine) -> Affine:
        """The map that applies `other` first."""
        return Affine(self.matrix @ other.matrix, self.matrix @ other.offset + self.offset)

    def inverse(self) -> Affine:
        """The way back."""
        matrix = np.linalg.inv(self.matrix)
        return Affine(matrix, -matrix @ self.offset)

    def to_sitk(self) -> sitk.AffineTransform:
        """The same map for SimpleITK and its files."""
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(self.matrix.ravel().tolist())
        transform.SetTranslation(self.offset.tolist())
        return transform


@dataclass(frozen=True)
class DisplacementGrid:
    """A sampled displacement field, interpolated linearly; the identity outside its voxels, as in ITK.

    `vectors` (k, j, i, 3) LPS mm at the points of `grid`.
    """

    vectors: np.ndarray
    grid: Grid

    @classmethod
    def of(cls, image: sitk.Image) -> DisplacementGrid:
        """From a displacement field image; a field of type `modeling` is refused by `read_transform`, not here."""
        return cls(sitk.GetArrayFromImage(image).astype(np.float64), Grid.of(image))

    def map(self, points: np.ndarray) -> np.ndarray:
        size = np.array(self.grid.size)
        index = self.grid.to_index(points)
        located = torch.as_tensor(index / np.maximum((size - 1) / 2, 0.5) - 1)
        data = torch.as_tensor(self.vectors).permute(3, 0, 1, 2)[None]
        moved = interpolate(data, located)
        inside = ((index >= -0.5) & (index < size - 0.5)).all(1, keepdims=True)
        return points + np.where(inside, moved.T.numpy(), 0.0)


@dataclass(frozen=True)
class SitkTransform:
    """Any other SimpleITK transform, point by point."""

    transform: sitk.Transform

    def map(self, points: np.ndarray) -> np.ndarray:
        return np.array([self.transform.TransformPoint(point) for point in points.tolist()]).reshape(-1, 3)


@dataclass(frozen=True)
class Chain:
    """Several maps, the first applied first."""

    parts: tuple[PointMap, ...]

    def map(self, points: np.ndarray) -> np.ndarray:
        for part in self.parts:
            points = part.map(points)
        return points


def sample_on(transform: PointMap, grid: Grid) -> np.ndarray:
    """The displacement map(x) - x at a grid's points, (k, j, i, 3) float64 mm, some slices at a time."""
    result = grid.points()
    slices = max(1, _CHUNK // (grid.size[0] * grid.size[1]))
    for first in range(0, grid.size[2], slices):
        part = result[first : first + slices]
        points = part.reshape(-1, 3)
        part[...] = (transform.map(points) - points).reshape(part.shape)
    return result


def invert(transform: PointMap, points: np.ndarray, *, start: np.ndarray | None = None) -> np.ndarray:
    """Fixed-space points (N, 3) that the map takes to the given moving-space points (N, 3), LPS mm.

    Damped quasi-Newton steps (Broyden 1965), from `start`, else from where a map's own `approach` points to, else from
    the points themselves. Where the map has no inverse (it folds, or the point is never reached) the nearest approach
    found is returned: map it again to see its error.
    """
    points = np.asarray(points, dtype=np.float64)
    if start is None:
        start = transform.approach(points) if hasattr(transform, "approach") else points
    x, error = _solve(transform, points, start)
    if (missed := error > _CLOSE).any():
        again, other = _solve(transform, points[missed], points[missed])
        x[missed] = np.where((other < error[missed])[:, None], again, x[missed])
    return x


def _solve(transform: PointMap, points: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (N, 3) reached from `start`, and how far (N,) in mm the map takes them from `points`.

    A point keeps the inverse of its Jacobian, corrected by what each step shows, since mapping is what costs: it is
    differentiated anew only after a step that gained little, and steps shorten only where that does not help.
    """
    x = np.array(start, dtype=np.float64)
    residual = transform.map(x) - points
    error = np.linalg.norm(residual, axis=1)
    damping, inverse, stale = np.ones(len(x)), np.empty((len(x), 3, 3)), np.ones(len(x), bool)
    for _ in range(60):
        active = np.flatnonzero((error > _CLOSE) & (damping > 1e-3))
        if not len(active):
            break
        fresh = stale[active]
        new = active[fresh]
        inverse[new], stale[new] = _inverse_jacobian(transform, x[new], residual[new] + points[new]), False
        step = -damping[active, None] * (inverse[active] @ residual[active, :, None])[..., 0]
        trial = x[active] + step
        remaining = transform.map(trial) - points[active]
        distance = np.linalg.norm(remaining, axis=1)
        better = distance < error[active]
        good, bad = active[better], active[~better]
        inverse[good] = _broyden(inverse[good], step[better], (remaining - residual[active])[better])
        stale[good] = distance[better] > _GAIN * error[good]
        x[good], residual[good], error[good] = trial[better], remaining[better], distance[better]
        damping[good] = np.minimum(1, 2 * damping[good])
        damping[bad[fresh[~better]]] /= 2
        stale[bad[~fresh[~better]]] = True
    return x, error


def _inverse_jacobian(transform: PointMap, points: np.ndarray, mapped: np.ndarray, step: float = 0.05) -> np.ndarray:
    """Inverses (N, 3, 3) of a map's Jacobian, by forward differences over `step` mm; the identity for singular ones."""
    ahead = transform.map((points[:, None] + step * np.eye(3)).reshape(-1, 3)).reshape(-1, 3, 3)
    jacobian = np.swapaxes(ahead - mapped[:, None], 1, 2) / step
    jacobian[np.abs(np.linalg.det(jacobian)) < 1e-2] = np.eye(3)
    return np.linalg.inv(jacobian)


def _broyden(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Inverse Jacobians (N, 3, 3) after steps (N, 3) that changed the map by `change` (N, 3): the nearest to agree."""
    foreseen = (inverse @ change[..., None])[..., 0]
    scale = (step * foreseen).sum(1)
    usable = np.abs(scale) > 1e-3 * (step * step).sum(1)  # else it would become singular
    rows = (step[:, None] @ inverse) / np.where(usable, scale, np.inf)[:, None, None]
    return inverse + (step - foreseen)[..., None] * rows


def numerical_jacobian(transform: PointMap, points: np.ndarray, *, step: float = 0.05) -> np.ndarray:
    """Central differences of a map over `step` mm, (N, 3, 3)."""
    shifts = np.concatenate([np.eye(3), -np.eye(3)])[:, None] * step
    ahead, behind = np.split(transform.map((points + shifts).reshape(-1, 3)).reshape(6, -1, 3), 2)
    return np.moveaxis(ahead - behind, 0, -1) / (2 * step)


def read_transform(path: str | Path, *, own: bool = False) -> PointMap:
    """A transform file: a displacement field image, or anything that SimpleITK reads as a transform.

    A field is taken as ITK and Slicer's *from parent* take it, at fixed-space points the vector to moving space,
    unless its NRRD header's `displacement field type` says `modeling`: then it is inverted. A DICOM registration
    object needs pydicom. A file of our `own` is read here; any other first in a process that it may end.
    Raises `UserError` (code `file` or `transform`) for a missing or unusable file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError("file", f"The transform {path} does not exist.")
    if path.is_dir():
        raise UserError("file", f"The folder {path} holds no result of a registration.")
    if path.suffix.lower() in (".tfm", ".txt", ".h5", ".hdf5", ".mat", ".xfm"):
        try:
            if own or _survives(path):
                return simplify(sitk.ReadTransform(str(path)))
            raise RuntimeError
        except RuntimeError:
            raise UserError("transform", f"The file {path} cannot be read as a transform.") from None
    if is_dicom(path):
        return read_registration(path)
    try:
        image = read_voxels(read_header(path, "displacement field"), "displacement field")
    except UserError as error:
        if error.code != "file":
            raise
        raise UserError("transform", f"The file {path} cannot be read as a displacement field.") from None
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise UserError("transform", f"The file {path} is not a field of three-dimensional displacements.")
    field = DisplacementGrid.of(image)
    if not np.isfinite(field.vectors).all():
        raise UserError("transform", f"The displacement field {path} has NaN or infinite values.")
    key = "displacement field type"
    return Inverse(field) if image.HasMetaDataKey(key) and image.GetMetaData(key).strip() == "modeling" else field


def _survives(path: Path) -> bool:
    """Whether ITK's reader comes back from a transform file: one with NaN, or too few parameters, ends its process."""
    code = "import sys, SimpleITK; SimpleITK.ReadTransform(sys.argv[1])"
    quiet = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # of Windows
    command = [sys.executable, "-c", code, str(path)]
    found = subprocess.run(command, capture_output=True, check=False, creationflags=quiet)
    return 0 <= found.returncode < 1 << 31  # a signal's, or Windows' exception code


@dataclass(frozen=True)
class Inverse:
    """The numerical inverse of a map; the search begins at the values of `near`, where there is such a map."""

    transform: PointMap
    near: PointMap | None = None

    def map(self, points: np.ndarray) -> np.ndarray:
        return invert(self.transform, points, start=None if self.near is None else self.near.map(points))


def simplify(transform: sitk.Transform) -> PointMap:
    """A SimpleITK transform as the plainest map that equals it."""
    if transform.GetDimension() != 3:
        raise UserError("transform", "The transform is not three-dimensional.")
    if transform.GetTransformEnum() == sitk.sitkDisplacementField:
        return DisplacementGrid.of(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
    if not transform.IsLinear():
        return SitkTransform(transform)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
    matrix = np.stack(columns, -1)
    if not np.isfinite([*matrix, origin]).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise UserError("transform", "The transform cannot be inverted.", "Choose another one.")
    return Affine(matrix, origin)
