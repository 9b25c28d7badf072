"""The result of a registration: a field over the fixed image, what comes before it, and how it ends outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inrreg import protocol
from inrreg.fade import MOST_NODES, choose_margins, pad
from inrreg.fields import Field, from_spec
from inrreg.geometry import Frame, Grid
from inrreg.inversion import inverse_grid
from inrreg.memory import in_chunks
from inrreg.protocol import UserError
from inrreg.transforms import Affine, Chain, DisplacementGrid, PointMap, invert, read_transform, sample_on

TOLERANCE = 0.1
"""Largest interpolation error, in mm, for which `displacement.nrrd` may be coarser than the fixed image."""
FEW = 200
"""Points at which a spacing is tried before it is looked at closely."""
MOST_INNER = MOST_NODES // 2
"""Nodes of that grid over the fixed image: the rest is for the fade, without which no motion can end beyond it."""


@dataclass
class Deformation:
    """moving point = `before`(x + w(x) u(x)) - and, beyond the fixed image, a fade to the identity.

    `field` is u on normalized coordinates (`frame`), `grid` the fixed image's grid. Inside that grid's box the map
    is the model itself. Outside, the whole displacement is the one of the nearest point of the box times a weight
    that, after one cell of the exported grid, falls linearly to zero over `margins` (2, 3) mm, below and above along
    each of the grid's axes, so wide that nothing folds (but see `fade`). The cell keeps a cubic interpolation, with
    which Slicer reads a file, from overshooting into the image. `before` holds the prealignment and then the initial
    transform.
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
    fade: float = 1.0
    """Smallest Jacobian determinant beyond the fixed image. Not above zero only where nothing can be done: the
    model folds or turns by a right angle at its border, or moves so far that no grid of sensible size holds the fade.
    """

    def __post_init__(self) -> None:
        if self.margins is None:
            if self.spacing is None:
                self.spacing, self.interpolation_error = self._choose_spacing()
            else:
                self.interpolation_error = float(self.interpolation_errors(self.spacing).max())
            # both are exported: the whole, and the deformable part alone
            maps = (self._inner, _Deform(self)) if self.before else (self._inner,)
            self.margins, self.fade = choose_margins(maps, self.grid, self.spacing)

    # ------------------------------------------------------------------------------------- mapping

    def deform(self, points: np.ndarray) -> np.ndarray:
        """x + u(x), the network's part alone, for points (N, 3) LPS mm inside the fixed image."""
        x = torch.as_tensor(self.frame.normalize(points), dtype=torch.float32, device=self._device)
        return points + self.field.dense(x).cpu().numpy().astype(np.float64) * self.frame.scale

    def map(self, points: np.ndarray) -> np.ndarray:
        """Moving-space points (N, 3) of fixed-space points (N, 3), LPS mm, anywhere."""
        points = np.asarray(points, dtype=np.float64)
        local = (points - self.grid.origin) @ self.grid.direction
        nearest = np.clip(local, 0, self.grid.extent)
        below, above = (np.maximum(part - self.spacing, 0) for part in (-local, local - self.grid.extent))
        weight = np.clip(1 - below / self.margins[0] - above / self.margins[1], 0, 1).prod(1)
        moved = weight > 0
        anchor = nearest[moved] @ self.grid.direction.T + self.grid.origin
        result = points.copy()
        result[moved] += weight[moved, None] * (self._inner.map(anchor) - anchor)
        return result

    def deformable(self) -> Deformation:
        """The deformable part alone, faded outside in the same way."""
        return replace(self, before=())

    def at(self, alpha: float, spacing: float | None = None) -> Deformation:
        """A conditioned deformation at that alpha, exported on a grid of about `spacing` mm or of its own choice.

        Raises `UserError` (code `alpha`) for a deformation that is not conditioned, and for alphas beyond 0 to 1.
        """
        if self.field.alpha is None:
            hint = "Register with a preset that is conditioned on it, such as 'cidir-light'."
            raise UserError("alpha", "This result was made for one strength of regularization: it has no alpha.", hint)
        if not 0 <= alpha <= 1:
            raise UserError("alpha", f"There is no alpha {alpha:g}.", "It goes from 0, the weakest, to 1.")
        step = None if spacing is None else self.fitting(spacing)
        return Deformation(self.field.at(alpha), self.frame, self.grid, self.before, spacing=step)

    def family(self, alphas: Sequence[float], spacing: np.ndarray) -> list[Deformation]:
        """A conditioned deformation at several alphas, all exported on one grid of that spacing (3,), which fades."""
        return self.alike([self.field.at(alpha) for alpha in alphas], spacing)

    def alike(self, fields: Sequence[Field], spacing: np.ndarray) -> list[Deformation]:
        """The same with each of these fields instead, all exported on one grid of that spacing (3,), which fades."""
        made = [replace(self, field=each, spacing=spacing) for each in fields]
        margins, fade = choose_margins([each._inner for each in made], self.grid, spacing)
        return [replace(each, margins=margins, fade=fade) for each in made]

    def contains(self, points: np.ndarray, *, tolerance: float = 1e-6) -> np.ndarray:
        """Whether points (N, 3) LPS mm lie within the fixed image's outermost voxel centres, (N,) bool."""
        local = (points - self.grid.origin) @ self.grid.direction
        return ((local >= -tolerance) & (local <= self.grid.extent + tolerance)).all(1)

    def approach(self, points: np.ndarray) -> np.ndarray:
        """Where `invert` begins for moving-space points (N, 3): where they came from, if from the fixed image.

        Found without the fade, so that where the fade folds, and there are several inverses, it is the one in the
        image. The points themselves elsewhere.
        """
        start = points
        for part in reversed(self.before):
            start = invert(part, start)
        x = torch.as_tensor(self.frame.normalize(start), dtype=torch.float32, device=self._device)
        if (back := self.field.inverse(x)) is not None:
            start = self.frame.to_world(back.cpu().numpy().astype(np.float64))
        found = invert(replace(self, margins=np.full((2, 3), 1e12)), points, start=start)
        return np.where(self.contains(found, tolerance=0.01)[:, None], found, points)

    def jacobian(self, points: np.ndarray) -> np.ndarray:
        """The displacement's Jacobian (N, 3, 3) of the deformable part at points inside the fixed image."""
        x = torch.as_tensor(self.frame.normalize(points), dtype=torch.float32, device=self._device)
        with torch.no_grad():
            found = in_chunks(lambda part: self.field.jet(part, 1).jacobian.cpu(), x, 1 << 14)
        return found.numpy().astype(np.float64)

    def uncertainty(self, points: np.ndarray) -> np.ndarray | None:
        """How unsure, (N,) mm, the field says it is at points (N, 3) LPS mm, `before` not counted.

        Beyond the fixed image that of its nearest point; None for a field that does not say.
        """
        local = np.clip((points - self.grid.origin) @ self.grid.direction, 0, self.grid.extent)
        nearest = self.frame.normalize(local @ self.grid.direction.T + self.grid.origin)
        found = self.field.uncertainty(torch.as_tensor(nearest, dtype=torch.float32, device=self._device))
        return None if found is None else found.cpu().numpy().astype(np.float64) * self.frame.scale

    def on_grid(self, grid: Grid) -> np.ndarray:
        """The displacement (k, j, i, 3), float64 LPS mm, at a grid within the fixed image's box, along its axes."""
        found = self.field.on_grid(grid, self.frame)
        if found is None:
            return sample_on(self._inner, grid)
        u = found.cpu().numpy() * np.float64(self.frame.scale)
        if not self.before:
            return u
        points = grid.points()
        return Chain(self.before).map((points + u).reshape(-1, 3)).reshape(points.shape) - points

    @property
    def _inner(self) -> PointMap:
        """The model itself, for points inside the fixed image."""
        return Chain((_Deform(self), *self.before))

    @property
    def _device(self) -> torch.device:
        return next(self.field.parameters()).device

    # --------------------------------------------------------------------------------------- grids

    @property
    def padded_grid(self) -> Grid:
        """The exported grid: over the fixed image's box at `spacing`, and on to where the fade ends."""
        low, high = self._padding()
        inner, direction = self._inner_grid(), self.grid.direction
        origin = self.grid.origin - direction @ (low * self.spacing)
        return Grid(tuple(int(n) for n in inner.size + low + high), origin, direction * self.spacing)

    def displacement_field(self) -> sitk.Image:
        """The displacement on `padded_grid`, float32 LPS mm: for ITK's resampling, Slicer's *from parent*."""
        return _field_image(self.padded_grid, self._exported)

    def inverse_field(self) -> sitk.Image:
        """The inverse of `displacement_field` over the same box, which the whole map takes onto itself.

        On a grid of its own, as fine as it needs (`inrreg.inversion`).
        """
        return _field_image(self._inverse.grid, self._inverse.vectors)

    def uncertainty_image(self) -> sitk.Image | None:
        """`uncertainty` on `padded_grid`, float32 mm, or None."""
        found = self.uncertainty(self._inner_grid().points().reshape(-1, 3))
        if found is None:
            return None
        inner = found.reshape(self._inner_grid().size[::-1]).astype(np.float32)
        low, high = self._padding()
        return self.padded_grid.image(np.pad(inner, list(zip(low[::-1], high[::-1], strict=True)), mode="edge"))

    @cached_property
    def _exported(self) -> np.ndarray:
        """The displacement on `padded_grid`, (k, j, i, 3) float64 LPS mm."""
        return pad(self.on_grid(self._inner_grid()), *self._padding())

    @cached_property
    def _inverse(self) -> DisplacementGrid:
        return inverse_grid(DisplacementGrid(self._exported, self.padded_grid), self.grid)

    def _inner_grid(self) -> Grid:
        cells = np.round(self.grid.extent / self.spacing).astype(int)
        return Grid(tuple(int(n) + 1 for n in cells), self.grid.origin, self.grid.direction * self.spacing)

    def _padding(self) -> np.ndarray:
        """Cells of the exported grid beyond the fixed image, (2, 3)."""
        return np.round(self.margins / self.spacing).astype(int) + 1

    def _choose_spacing(self) -> tuple[np.ndarray, float]:
        """The coarsest grid over the box, no finer than the fixed image, that keeps to `TOLERANCE`.

        At most `MOST_INNER` nodes, so that of the largest images it may be coarser than that.
        """
        fixed = self.grid.spacing
        steps = [self.fitting(target) for target in (8.0, 5.5, 4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5)]
        steps = [step for step in [*steps, fixed] if (self.grid.extent / step + 1).prod() <= MOST_INNER] or steps[:1]
        for spacing in steps:
            last = spacing is steps[-1] or (spacing <= fixed * (1 + 1e-6)).all()
            # One point too far off suffices, and is mostly found among a few.
            if not last and self.interpolation_errors(spacing, FEW).max() > TOLERANCE:
                continue
            error = float(self.interpolation_errors(spacing).max())
            if error <= TOLERANCE or last:
                break
        return spacing, error

    def fitting(self, target: float) -> np.ndarray:
        """The spacing (3,) nearest below `target` mm that divides the box, but not finer than the fixed image's."""
        cells = np.maximum(1, np.ceil(self.grid.extent / np.maximum(target, self.grid.spacing) - 1e-6))
        return self.grid.extent / cells

    def interpolation_errors(self, spacing: np.ndarray, count: int = 2000) -> np.ndarray:
        """Distance in mm between the model and a grid of that spacing (3,), at random points of the fixed image."""
        random = np.random.default_rng(0)
        cells = np.round(self.grid.extent / spacing)
        corner = np.floor(random.random((count, 3)) * cells)
        part = random.random((count, 3))
        offsets = np.array(list(np.ndindex(2, 2, 2)))
        local = np.concatenate([corner + part, *(corner + offset for offset in offsets)]) * spacing
        points = local @ self.grid.direction.T + self.grid.origin
        exact, *corners = np.split(self._inner.map(points) - points, 9)
        weights = [np.where(offset, part, 1 - part).prod(1, keepdims=True) for offset in offsets]
        interpolated = sum(weight * value for weight, value in zip(weights, corners, strict=True))
        return np.linalg.norm(exact - interpolated, axis=1)

    def sampled(self) -> Deformation:
        """The same map with the model's values on the exported grid in place of the model: exact to
        `interpolation_error`, and many times quicker."""
        grid = self._inner_grid()
        values = {item.name: getattr(self, item.name) for item in fields(Deformation)}
        return _Sampled(**values, inner=DisplacementGrid(self.on_grid(grid), grid))

    # --------------------------------------------------------------------------------------- files

    def save(self, folder: Path) -> None:
        """Write everything that `load` and other programs need into an existing folder. Raises OSError."""
        images = {"displacement.nrrd": self.displacement_field()}
        if self.before:
            images["deformable.nrrd"] = self.deformable().displacement_field()
        if self.field.two_way:
            images["inverse_displacement.nrrd"] = self.inverse_field()
        if (uncertainty := self.uncertainty_image()) is not None:
            images["uncertainty.nrrd"] = uncertainty
        try:
            for name, image in images.items():
                sitk.WriteImage(image, str(folder / name))  # smooth numbers hardly compress, and that takes time
            names = [_write_part(part, folder / f"before_{n}") for n, part in enumerate(self.before, 1)]
            self._save_model(folder, names)
        except RuntimeError:  # SimpleITK's word for a full disk and the like
            raise OSError(f"{folder} cannot be written") from None

    def _save_model(self, folder: Path, names: list[str]) -> None:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.field.state_dict().items()}
        # not save_file, whose file only its owner may read
        (folder / "model.safetensors").write_bytes(save(tensors))
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
            "fade": self.fade,
        }
        protocol.write_json(folder / "model.json", description)

    @classmethod
    def load(cls, folder: Path, alpha: float | None = None) -> Deformation:
        """The deformation in a result folder, at `alpha` or, without one, at the result's own.

        Raises `UserError`: code `model` for a damaged or foreign one, `alpha` where there is no such alpha.
        """
        made = cls._load(Path(folder))
        return made if alpha is None else made.at(alpha)

    @classmethod
    def _load(cls, folder: Path) -> Deformation:
        description = folder / "model.json"
        if folder.is_file():
            raise UserError("model", f"{folder} is a file.", "Name the folder that a registration has left.")
        if description.is_file() and description.stat().st_size > _MOST_BYTES:
            raise UserError("model", f"The model in {folder} is damaged (its description is too long).")
        data: dict[str, Any] = protocol.read_json(description)
        if not isinstance(data, dict) or data.get("version") != protocol.VERSION:
            raise UserError("model", f"{folder} holds no model of version {protocol.VERSION}.")
        try:
            tensors = load_file(folder / "model.safetensors")
            if _least_weights(data["field"]) > sum(tensor.numel() for tensor in tensors.values()):
                raise ValueError("fewer weights than the field needs")
            if not all((tensor.abs() <= _MOST).all() for tensor in tensors.values()):
                raise ValueError("weights that are no numbers, or out of all proportion")
            network = from_spec(data["field"])
            network.load_state_dict(tensors)
            size, origin, matrix = data["grid"]["size"], data["grid"]["origin"], data["grid"]["matrix"]
            return cls(
                network.freeze(),
                Frame(_array(data["frame"]["centre"], 3), float(_array(data["frame"]["scale"], positive=True))),
                Grid(_size(size), _array(origin, 3), _array(matrix, 3, 3, regular=True)),
                tuple(read_transform(folder / Path(name).name, own=True) for name in data["before"]),
                _array(data["margins"], 2, 3, positive=True),
                _array(data["spacing"], 3, positive=True),
                float(_array(data["interpolation_error"])),
                float(_array(data["fade"])),
            )
        except (LookupError, AttributeError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise UserError("model", f"The model in {folder} is damaged ({type(error).__name__}).") from None


_MOST = 1e9
"""Of any weight, length in mm or other number in a model: beyond it, products of some of them would overflow."""
_MOST_BYTES = 1 << 20
"""Of a model's description, which holds no weights; 25 members of an ensemble need less than a tenth of it."""


def _least_weights(spec: Any) -> int:
    """A lower bound of the weights of the field that a `spec` describes: what building it would cost.

    Raises ValueError for numbers out of all proportion.
    """
    if isinstance(spec, (int, float)) and not abs(spec) <= 1e6:
        raise ValueError("a number out of all proportion")
    if isinstance(spec, list):
        return sum(map(_least_weights, spec))
    if not isinstance(spec, dict):
        return 0
    if "size" in spec:
        _size(spec["size"], MOST_NODES)
    width, hidden = max(1, spec.get("width", 0)), max(0, spec.get("hidden", 0))
    infused = max(0, spec.get("embedding", 0)) * max(0, hidden - 1)
    return width * max(width * (hidden - 1), hidden) + infused + sum(map(_least_weights, spec.values()))


def _size(values: Any, most: int = 1 << 32) -> tuple[int, int, int]:
    size = tuple(values)
    if len(size) != 3 or not all(type(n) is int and n > 1 for n in size) or math.prod(size) > most:
        raise ValueError("not the size of a grid")
    return size


def _array(values: Any, *shape: int, positive: bool = False, regular: bool = False) -> np.ndarray:
    """Numbers of that shape, none beyond `_MOST`. Raises ValueError for anything else."""
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not (np.abs(array) <= _MOST).all() or (positive and not (array > 0).all()):
        raise ValueError("not the numbers of a model")
    if regular and abs(np.linalg.det(array)) < 1e-9:
        raise ValueError("not the axes of a grid")
    return array


@dataclass
class _Sampled(Deformation):
    inner: DisplacementGrid = None

    @property
    def _inner(self) -> PointMap:
        return self.inner


@dataclass(frozen=True)
class _Deform:
    deformation: Deformation

    def map(self, points: np.ndarray) -> np.ndarray:
        return self.deformation.deform(points)


def _field_image(grid: Grid, vectors: np.ndarray) -> sitk.Image:
    image = grid.image(vectors.astype(np.float32))
    image.SetMetaData("displacement field type", "resampling")
    return image


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


def load_transform(path: str | Path, alpha: float | None = None) -> PointMap:
    """A result folder, at `alpha` or its own, or any transform file: a map from fixed-space to moving-space points.

    Raises `UserError`: code `alpha` for an alpha that the transform does not have.
    """
    path = Path(path)
    if (path / "model.json").is_file():
        return Deformation.load(path, alpha)
    if alpha is not None:
        raise UserError("alpha", f"{path} is a transform without an alpha.", "Name a result folder of 'cidir-light'.")
    return read_transform(path)
