"""A result, or a part of it, as a file that other programs read, with the error that sampling it costs.

Every file maps fixed-space to moving-space points, as ITK's transforms do, or back for an inverse. An inverse is a
displacement field of its own: programs that invert a field while they read it, or not at all, are not relied on.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg.abandoned import beside, remove_abandoned
from inrreg.deformation import Deformation
from inrreg.dicom import Series, check_pair, write_registration
from inrreg.fade import MOST_NODES
from inrreg.fields import Dual
from inrreg.geometry import Grid
from inrreg.images import atomic, read_mask
from inrreg.parts import PARTS
from inrreg.protocol import UserError, read_json
from inrreg.transforms import Affine, DisplacementGrid, Inverse, PointMap, sample_on

FORMATS = (".h5", ".tfm", ".nrrd", ".nii.gz", ".dcm")
HERE = (Affine(), Affine())
"""In the result's own coordinates."""
_LIMIT = 0.5
"""Largest error in mm at which a spacing of our choice stops; half a voxel where that is less."""
_PROBES = 20_000
"""Random points of the fixed image at which an error is measured."""


def part_of(deformation: Deformation, part: str, *, prealigned: bool) -> PointMap:
    """One of `PARTS`; `prealigned` says whether the first map before the deformable part is a prealignment.

    moving point = initial(prealignment(deformable(x))), and the displacements of coarse and fine add to the
    deformable one. Raises `UserError` (code `part`) for what this result does not have.
    """
    if part == "whole":
        return deformation
    if part == "deformable":
        return deformation.deformable()
    if part in ("coarse", "fine"):
        field = copy.deepcopy(deformation.field)
        if not isinstance(field, Dual):
            raise UserError("part", f"This result has no {part} field.", "Only those of the dual method have one.")
        with torch.no_grad():
            (field.c_fine if part == "coarse" else field.c_coarse).zero_()
        return replace(deformation, field=field, before=())
    if part not in PARTS:
        raise UserError("part", f"There is no part '{part}'.", f"Choose one of: {', '.join(PARTS)}.")
    names = ("prealignment", "initial") if prealigned else ("initial",)
    found = dict(zip(names, deformation.before, strict=False))
    if part not in found:
        raise UserError("part", f"This result was made without {part} transform.", "Choose another part.")
    return found[part]


def export(
    deformation: Deformation,
    output: str | Path,
    *,
    part: str = "whole",
    prealigned: bool = False,
    inverse: bool = False,
    spacing: float | None = None,
    series: tuple[Series, Series] | None = None,
    mask: np.ndarray | None = None,
    around: tuple[Affine, Affine] = HERE,
) -> dict[str, Any]:
    """Write a part of a result and return what was written: spacing, size, and the errors in mm.

    `spacing` in mm is the largest wanted, None for the coarsest that keeps the error below half a voxel and 0.5 mm.
    `series` are the fixed and the moving one, for DICOM. `mask` (N, 3) are LPS points in which an inverse is measured
    apart. `around` are the maps before and after the part, where the file shall be in other coordinates than the
    result is: those of the scene, or of the images' own files. Errors are measured at random points of the fixed image:
    for the way forward the distance between file and model, for an inverse the distance at which a point comes back
    after both ways. Raises `UserError`.
    """
    ending = _ending(output)
    if (ending == ".dcm") != (series is not None):
        raise UserError(
            "dicom",
            "A DICOM registration object refers to the DICOM series of both images.",
            "Give both folders with --fixed-dicom and --moving-dicom, and an output that ends in .dcm.",
        )
    if spacing is not None and not 0 < spacing < np.inf:
        raise UserError("spacing", f"A spacing of {spacing:g} mm is not possible.", "Give a number above 0.")
    home = around[0].inverse()
    if series:
        check_pair(*series, _moved(deformation.grid, home))
    transform = Placed(part_of(deformation, part, prealigned=prealigned), *around)
    voxel = np.linalg.norm(home.matrix @ deformation.grid.matrix, axis=0).min()
    figures = {"part": part, "inverse": inverse, "limit": min(_LIMIT, float(voxel) / 2)}
    if isinstance(transform.inner, Affine) and ending in (".h5", ".tfm"):
        exact = around[1].after(transform.inner).after(around[0])
        exact = exact.inverse() if inverse else exact
        with atomic(output) as path:
            sitk.WriteTransform(exact.to_sitk(), str(path))
        return {**figures, "interpolation_error": 0.0}
    probes = home.map(_probes(deformation, part, prealigned))
    field, found = _sampled(deformation, transform, probes, inverse, spacing, figures["limit"])
    if inverse and mask is not None:
        found["in_mask"] = _summary(_return_error(transform, field, home.map(mask)))
    with atomic(output) as path:
        _write(field, path, ending, series[::-1] if series and inverse else series)
    return {**figures, "spacing": field.grid.spacing.tolist(), "size": list(field.grid.size), **found}


def export_model(folder: str | Path, output: str | Path) -> None:
    """Copy what evaluates a result anywhere, `model.safetensors` with `model.json`, into a new folder."""
    folder, output = Path(folder), Path(output)
    if output.exists():
        raise UserError("output", f"{output} exists.", "Choose a new folder for the model.")
    Deformation.load(folder)  # or it says what is wrong
    names = ["model.safetensors", "model.json", *map(str, read_json(folder / "model.json")["before"])]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(output)
        with beside(output) as partial:
            made = partial / output.name
            made.mkdir()
            for name in names:
                shutil.copyfile(folder / Path(name).name, made / Path(name).name)
            made.rename(output)
    except OSError as error:
        raise UserError(
            "output", f"The folder {output} cannot be written ({error.strerror or error}).", "Choose another one."
        ) from None


def points_in(mask: str | Path) -> np.ndarray:
    """Random voxels (N, 3) LPS mm of a mask file."""
    image = read_mask(mask, "fixed mask")
    k, j, i = np.nonzero(sitk.GetArrayViewFromImage(image))
    return Grid.of(image).to_world(np.stack([i, j, k], -1)[np.random.default_rng(2).integers(len(k), size=_PROBES)])


def _ending(output: str | Path) -> str:
    name = Path(output).name.lower()
    for ending in FORMATS:
        if name.endswith(ending):
            return ending
    raise UserError("output", f"{output} has no ending of a transform.", f"Use one of: {', '.join(FORMATS)}.")


# ------------------------------------------------------------------------------------------- sampling


def _probes(deformation: Deformation, part: str, prealigned: bool) -> np.ndarray:
    """Random points (N, 3) LPS mm of the fixed image, and its corners, where this part is applied to them."""
    last = np.array(deformation.grid.size) - 1
    random = np.random.default_rng(0).random((_PROBES, 3))
    points = deformation.grid.to_world(np.concatenate([random, list(np.ndindex(2, 2, 2))]) * last)
    return deformation.before[0].map(points) if part == "initial" and prealigned else points


@dataclass(frozen=True)
class Placed:
    """A map in other coordinates: after(inner(before(x)))."""

    inner: PointMap
    before: Affine
    after: Affine

    def map(self, points: np.ndarray) -> np.ndarray:
        return self.after.map(self.inner.map(self.before.map(points)))

    def approach(self, points: np.ndarray) -> np.ndarray:
        """Where `invert` begins for moving-space points (N, 3)."""
        start = self.after.inverse().map(points)
        if hasattr(self.inner, "approach"):
            start = self.inner.approach(start)
        return self.before.inverse().map(start)

    @property
    def conjugated(self) -> bool:
        """Whether fixed and moving space are moved alike: what is far away stays where it is."""
        both = self.after.after(self.before)
        return bool(np.allclose(both.matrix, np.eye(3), atol=1e-9) and np.allclose(both.offset, 0, atol=1e-6))


def inverted(deformation: Deformation) -> DisplacementGrid:
    """The inverse of a whole result as a displacement field, its error below that of an export by default."""
    limit = min(_LIMIT, float(deformation.grid.spacing.min()) / 2)
    probes = _probes(deformation, "whole", False)
    return _sampled(deformation, Placed(deformation, *HERE), probes, True, None, limit)[0]


def _sampled(
    deformation: Deformation,
    transform: Placed,
    probes: np.ndarray,
    inverse: bool,
    spacing: float | None,
    limit: float,
) -> tuple[DisplacementGrid, dict[str, Any]]:
    """A transform as a displacement field, and its errors."""
    mapped = transform.map(probes)
    source, inner, home = transform, transform.inner, transform.before.inverse()
    if isinstance(inner, Deformation):
        fading = inner if spacing is None else _coarser(inner, spacing)
        source = replace(transform, inner=inner.sampled() if inverse else fading)
    if isinstance(inner, Deformation) and (transform.conjugated or not inverse):
        grid = _moved(fading.padded_grid, home)
        if spacing is not None:
            grid = _finer(grid, np.ceil(grid.spacing / spacing - 1e-6))
    else:  # no fade: its own grid, or a box around where it is applied
        own = isinstance(inner, DisplacementGrid) and not inverse
        like = _moved(replace(deformation.grid, matrix=deformation.grid.direction * deformation.spacing), home)
        grid = _moved(inner.grid, home) if own else _around(mapped if inverse else probes, like)
        if spacing is not None:
            grid = grid.resampled(spacing)
    if spacing is not None and np.prod(grid.size) > MOST_NODES:
        count = f"{np.prod(grid.size) / 1e6:.0f} million"
        raise UserError("spacing", f"A spacing of {spacing:g} mm takes {count} vectors.", "Choose a larger one.")
    before, most, field = np.inf, MOST_NODES // 4 if inverse else MOST_NODES, None
    while True:
        # the inverse found on a coarser grid is near the one sought
        vectors = sample_on(Inverse(source, field) if inverse else source, grid)
        field = DisplacementGrid(vectors.astype(np.float32).astype(np.float64), grid)  # as files hold it
        error = _return_error(transform, field, probes) if inverse else _length(field.map(probes) - mapped)
        finer = _finer(grid, np.full(3, 2))
        # where a map folds there is no inverse, and no spacing helps
        helpless = error.max() > 0.7 * before or np.prod(finer.size) > most
        if spacing is not None or error.max() <= limit or helpless:
            break
        grid, before = finer, error.max()
    if inverse:
        return field, {"return_error": _summary(error)}
    found = {"interpolation_error": float(error.max())}
    if isinstance(inner, Deformation):
        around = grid.to_world(np.random.default_rng(1).random((_PROBES // 4, 3)) * (np.array(grid.size) - 1))
        found["error_beyond"] = float(_length(field.map(around) - transform.map(around)).max())
    return field, found


def _return_error(transform: PointMap, inverse: DisplacementGrid, points: np.ndarray) -> np.ndarray:
    """How far in mm fixed-space points (N, 3) lie from where they come back, (N,)."""
    return _length(inverse.map(transform.map(points)) - points)


def _summary(error: np.ndarray) -> dict[str, float]:
    return {"mean": float(error.mean()), "p99": float(np.percentile(error, 99)), "max": float(error.max())}


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _finer(grid: Grid, factor: np.ndarray) -> Grid:
    """A grid over the same box with each cell divided along the axes."""
    size = (np.array(grid.size) - 1) * factor + 1
    return Grid(tuple(int(n) for n in size), grid.origin, grid.matrix / factor)


def _coarser(deformation: Deformation, spacing: float) -> Deformation:
    """The deformation to be sampled up to `spacing` mm apart: within the fixed image the same, its fade wider."""
    widest = deformation.grid.extent / np.maximum(1, np.ceil(deformation.grid.extent / spacing - 1e-6))
    if (widest <= deformation.spacing).all():
        return deformation
    widest = np.maximum(widest, deformation.spacing)
    margins = np.ceil(np.maximum(deformation.margins / widest, 2) - 1e-6) * widest
    return replace(deformation, spacing=widest, margins=margins)


def _moved(grid: Grid, home: Affine) -> Grid:
    """A grid taken along by a map; where its axes are at right angles no more, one that covers it."""
    moved = Grid(grid.size, home.map(grid.origin), home.matrix @ grid.matrix)
    if np.allclose(moved.direction.T @ moved.direction, np.eye(3), atol=1e-6):
        return moved
    left, _, right = np.linalg.svd(moved.direction)
    corners = moved.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.size) - 1))
    return _around(corners, replace(moved, matrix=left @ right * moved.spacing))


def _around(points: np.ndarray, like: Grid) -> Grid:
    """A grid with the axes and spacing of another that covers points with a tenth to spare."""
    low, high = (points @ like.direction).min(0), (points @ like.direction).max(0)
    spare = 0.1 * (high - low)
    cells = np.maximum(1, np.ceil((high - low + 2 * spare) / like.spacing)).astype(int)
    return Grid(tuple(int(n) + 1 for n in cells), like.direction @ (low - spare), like.matrix)


# -------------------------------------------------------------------------------------------- formats


def _write(field: DisplacementGrid, path: Path, ending: str, series: tuple[Series, Series] | None) -> None:
    """Write a displacement field. Raises OSError or RuntimeError."""
    if ending == ".dcm":
        write_registration(field.vectors, field.grid, *series, path)
    elif ending in (".h5", ".tfm"):
        sitk.WriteTransform(sitk.DisplacementFieldTransform(field.grid.image(field.vectors)), str(path))
    else:
        # NIfTI comes out as ANTs writes it, intent 1007 (vector) with LPS components, which ITK reads as they are;
        # intent 1006 (displacement vector), with RAS ones, is read wrongly by ITK 5.3 and older
        image = field.grid.image(field.vectors.astype(np.float32))
        image.SetMetaData("displacement field type", "resampling")
        sitk.WriteImage(image, str(path), useCompression=True)
