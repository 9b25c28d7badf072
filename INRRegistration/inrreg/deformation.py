"""The result of a registration: a field over the fixed image, what comes before it, and how it ends outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file

from inrreg import protocol
from inrreg.fields import Field, from_spec
from inrreg.geometry import Frame, Grid
from inrreg.protocol import UserError
from inrreg.transforms import Affine, Chain, DisplacementGrid, PointMap, read_transform, sample_on

TOLERANCE = 0.1
"""Largest interpolation error, in mm, for which `displacement.nrrd` may be coarser than the fixed image."""
_SLOPE = 0.7
"""Steepest fade of an outward displacement beyond the fixed image; at 1 it would fold."""


@dataclass
class Deformation:
    """moving point = `before`(x + w(x) u(x)) - and, beyond the fixed image, a fade to the identity.

    `field` is u on normalized coordinates (`frame`), `grid` the fixed image's grid. Inside that grid's box the map
    is the model itself. Outside, the whole displacement is the one of the nearest point of the box times a weight
    that falls linearly to zero over `margins` (2, 3) mm, below and above along each of the grid's axes, so wide
    that nothing folds. `before` holds the prealignment and then the initial transform.
    """

    field: Field
    frame: Frame
    grid: Grid
    before: tuple[PointMap, ...] = ()
    margins: np.ndarray = field(default=None)
    spacing: np.ndarray = field(default=None)
    """Spacing of the exported grid along the fixed image's axes, (3,) mm, chosen with `interpolation_error`."""
    interpolation_error: float = 0.0
    """Largest distance in mm, over random points of the fixed image, between exported grid and model."""

    def __post_init__(self) -> None:
        if self.margins is None:
            self.spacing, self.interpolation_error = self._choose_spacing()
            self.margins = self._choose_margins()

    # ------------------------------------------------------------------------------------- mapping

    def deform(self, points: np.ndarray) -> np.ndarray:
        """x + u(x), the network's part alone, for points (N, 3) LPS mm inside the fixed image."""
        x = torch.as_tensor(self.frame.normalize(points), dtype=torch.float32, device=self._device)
        return points + self.field.dense(x).cpu().numpy().astype(np.float64) * self.frame.scale

    def map(self, points: np.ndarray) -> np.ndarray:
        """Moving-space points (N, 3) of fixed-space points (N, 3), LPS mm, anywhere."""
        return self._faded(points, Chain((_Deform(self), *self.before)))

    def map_deformable(self, points: np.ndarray) -> np.ndarray:
        """The deformable part alone, faded outside in the same way."""
        return self._faded(points, _Deform(self))

    def _faded(self, points: np.ndarray, inner: PointMap) -> np.ndarray:
        points = np.asarray(points, dtype=np.float64)
        local = (points - self.grid.origin) @ self.grid.direction
        nearest = np.clip(local, 0, self.grid.extent)
        below, above = np.maximum(-local, 0), np.maximum(local - self.grid.extent, 0)
        weight = np.clip(1 - below / self.margins[0] - above / self.margins[1], 0, 1).prod(1)
        moved = weight > 0
        anchor = nearest[moved] @ self.grid.direction.T + self.grid.origin
        result = points.copy()
        result[moved] += weight[moved, None] * (inner.map(anchor) - anchor)
        return result

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """The displacement's Jacobian (N, 3, 3) of the deformable part at points inside the fixed image."""
        x = torch.as_tensor(self.frame.normalize(points), dtype=torch.float32, device=self._device)
        with torch.no_grad():
            parts = [self.field.jet(part, 1).jacobian.cpu() for part in x.split(1 << 14)]
        return torch.cat(parts).numpy().astype(np.float64)

    @property
    def _device(self) -> torch.device:
        return next(self.field.parameters()).device

    # --------------------------------------------------------------------------------------- grids

    @property
    def padded_grid(self) -> Grid:
        """The exported grid: over the fixed image's box at `spacing`, and on to where the fade ends."""
        cells = np.round(self.grid.extent / self.spacing).astype(int)
        low, high = (np.round(margin / self.spacing).astype(int) for margin in self.margins)
        direction = self.grid.direction
        origin = self.grid.origin - direction @ (low * self.spacing)
        return Grid(tuple(int(n) + 1 for n in cells + low + high), origin, direction * self.spacing)

    def displacement_field(self, *, deformable_only: bool = False) -> sitk.Image:
        """The displacement on `padded_grid`, float32 LPS mm: for ITK's resampling, Slicer's *from parent*."""
        grid = self.padded_grid
        part = _Faded(self) if deformable_only else self
        image = grid.image(sample_on(part, grid).astype(np.float32))
        image.SetMetaData("displacement field type", "resampling")
        return image

    def _choose_spacing(self) -> tuple[np.ndarray, float]:
        """The coarsest grid over the box, no finer than the fixed image, that keeps to `TOLERANCE`."""
        fixed = self.grid.spacing
        for target in (8.0, 5.5, 4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5):
            cells = np.maximum(1, np.ceil(self.grid.extent / np.maximum(target, fixed) - 1e-6))
            spacing = self.grid.extent / cells
            error = self._interpolation_error(spacing)
            if error <= TOLERANCE or (spacing <= fixed * (1 + 1e-6)).all():
                return spacing, error
        return fixed, self._interpolation_error(fixed)

    def _interpolation_error(self, spacing: np.ndarray, count: int = 2000) -> float:
        random = np.random.default_rng(0)
        cells = np.round(self.grid.extent / spacing)
        corner = np.floor(random.random((count, 3)) * cells)
        part = random.random((count, 3))
        world = lambda local: local * spacing @ self.grid.direction.T + self.grid.origin  # noqa: E731
        interpolated = np.zeros((count, 3))
        for offset in np.ndindex(2, 2, 2):
            weight = np.where(offset, part, 1 - part).prod(1, keepdims=True)
            points = world(corner + offset)
            interpolated += weight * (self.deform(points) - points)
        points = world(corner + part)
        return float(np.linalg.norm(self.deform(points) - points - interpolated, axis=1).max())

    def _choose_margins(self) -> np.ndarray:
        """Widths of the fade, whole numbers of cells: wide enough for the outward displacement of each face."""
        faces = Grid(*_coarse(self.grid))
        chain = Chain((_Deform(self), *self.before))
        shape = (*faces.size[::-1], 3)
        local = (sample_on(chain, faces) @ self.grid.direction).reshape(shape)
        margins = np.zeros((2, 3))
        for axis in range(3):
            for side, sign in ((0, -1), (1, 1)):
                face = sign * np.take(local, -side, axis=2 - axis)[..., axis]
                width = max(face.max() / _SLOPE, -face.min() / 3, 2 * self.spacing[axis])
                margins[side, axis] = np.ceil(width / self.spacing[axis]) * self.spacing[axis]
        return margins

    # --------------------------------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        """Write everything that `load` and other programs need into an existing folder."""
        sitk.WriteImage(self.displacement_field(), str(folder / "displacement.nrrd"), useCompression=True)
        names = []
        if self.before:
            deformable = self.displacement_field(deformable_only=True)
            sitk.WriteImage(deformable, str(folder / "deformable.nrrd"), useCompression=True)
        for number, part in enumerate(self.before):
            names.append(_write_part(part, folder / f"before_{number + 1}"))
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.field.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        description = {
            "version": protocol.VERSION,
            "field": self.field.spec(),
            "frame": {"centre": self.frame.centre.tolist(), "scale": self.frame.scale},
            "grid": {
                "size": list(self.grid.size),
                "origin": self.grid.origin.tolist(),
                "matrix": self.grid.matrix.tolist(),
            },
            "before": names,
            "margins": self.margins.tolist(),
            "spacing": self.spacing.tolist(),
            "interpolation_error": self.interpolation_error,
        }
        protocol.write_json(folder / "model.json", description)

    @classmethod
    def load(cls, folder: Path) -> Deformation:
        """The deformation in a result folder. Raises `UserError` (code `model`) for a damaged or foreign one."""
        folder = Path(folder)
        data: dict[str, Any] = protocol.read_json(folder / "model.json")
        if not isinstance(data, dict) or data.get("version") != protocol.VERSION:
            raise UserError("model", f"{folder} holds no model of version {protocol.VERSION}.")
        try:
            network = from_spec(data["field"])
            network.load_state_dict(load_file(folder / "model.safetensors"))
            grid = data["grid"]
            return cls(
                network.eval(),
                Frame(np.array(data["frame"]["centre"]), float(data["frame"]["scale"])),
                Grid(tuple(grid["size"]), np.array(grid["origin"]), np.array(grid["matrix"])),
                tuple(read_transform(folder / Path(name).name) for name in data["before"]),
                np.array(data["margins"]),
                np.array(data["spacing"]),
                float(data["interpolation_error"]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise UserError("model", f"The model in {folder} is damaged ({type(error).__name__}).") from None


@dataclass(frozen=True)
class _Deform:
    deformation: Deformation

    def map(self, points: np.ndarray) -> np.ndarray:
        return self.deformation.deform(points)


@dataclass(frozen=True)
class _Faded:
    deformation: Deformation

    def map(self, points: np.ndarray) -> np.ndarray:
        return self.deformation.map_deformable(points)


def _coarse(grid: Grid, most: int = 33) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """A grid over the same box with at most that many points along an axis."""
    size = np.minimum(np.array(grid.size), most)
    step = grid.extent / (size - 1)
    return tuple(int(n) for n in size), grid.origin, grid.direction * step


def _write_part(part: PointMap, stem: Path) -> str:
    if isinstance(part, Affine):
        path = stem.with_suffix(".tfm")
        sitk.WriteTransform(part.to_sitk(), str(path))
    elif isinstance(part, DisplacementGrid):
        path = stem.with_suffix(".nrrd")
        image = part.grid.image(part.vectors)
        image.SetMetaData("displacement field type", "resampling")
        sitk.WriteImage(image, str(path), useCompression=True)
    else:
        raise TypeError(f"{type(part).__name__} has no file format")
    return path.name


def load_transform(path: str | Path) -> PointMap:
    """A result folder or any transform file, as a map from fixed-space to moving-space points."""
    path = Path(path)
    return Deformation.load(path) if (path / "model.json").is_file() else read_transform(path)
