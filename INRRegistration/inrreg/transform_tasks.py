"""What the worker does with a result: write it, read one, apply it, map its change of volume.

As the functions of `inrreg.tasks`. Files of the job folder hold the coordinates that the result was made in; those that
the user asks for may be in others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inrreg.parts import is_prealigned
from inrreg.protocol import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk

    from inrreg.dicom import Series
    from inrreg.geometry import Grid
    from inrreg.transforms import Affine, PointMap

Emit = Callable[[str, dict[str, Any]], None]
Cancelled = Callable[[], bool]

FINEST, MOST_NODES = 2.0, 2_000_000
"""Least spacing in mm, and most nodes, of the grid that a transform without one is sampled on."""
MAPPED = 500_000
"""Most points at which a determinant is taken: some ten seconds."""


def export(folder: Path, data: dict[str, Any], emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
    """Write the result, its inverse or a part of it to `output`; returns the figures of `inrreg.export.export`.

    `before` and `after` are 4 x 4 matrices (LPS mm) around the map where the file is to be in other coordinates;
    `fixed_series` and `moving_series`, for DICOM, hold `folder`, or `files` and `instances`. `mask` is a file in the
    job folder. An output without ending becomes a folder with the model.
    """
    from inrreg.deformation import Deformation
    from inrreg.export import HERE, export_model, points_in
    from inrreg.export import export as write

    result, output = Path(data["result"]), Path(data["output"])
    if not output.suffix:
        export_model(result, output)
        return {"output": str(output)}
    deformation = Deformation.load(result, data.get("alpha"))
    _stop(cancelled)
    series = tuple(_series(data[f"{side}_series"], side) for side in ("fixed", "moving") if f"{side}_series" in data)
    figures = write(
        deformation,
        output,
        part=data.get("part", "whole"),
        prealigned=is_prealigned(result),
        inverse=bool(data.get("inverse")),
        spacing=data.get("spacing") or None,
        series=series or None,
        mask=points_in(folder / data["mask"]) if data.get("mask") else None,
        around=tuple(_affine(data[name]) for name in ("before", "after")) if "before" in data else HERE,
    )
    error = figures.get("interpolation_error", figures.get("return_error", {}).get("max", 0.0))
    if error > figures["limit"]:
        hint = "The deformation folds somewhere." if data.get("inverse") else "Choose a smaller spacing."
        text = f"The largest error of the file, {error:.2f} mm, is above {figures['limit']:.2f} mm. {hint}"
        emit("warning", {"code": "error", "message": text})
    return {"output": str(output), **figures}


def load(folder: Path, data: dict[str, Any], emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
    """Read a transform file, or a result or model folder, at `path`.

    Returns `matrix`, 4 x 4 from fixed to moving points in LPS mm, for a transform that is one, else `field`, a file of
    displacements; `model` says whether the path holds one. What has no grid is sampled over `reference`, a grid.
    """
    import SimpleITK as sitk

    from inrreg.deformation import Deformation, load_transform
    from inrreg.transforms import Affine, DisplacementGrid, Inverse, sample_on

    mapping = load_transform(data["path"])
    _stop(cancelled)
    if isinstance(mapping, Affine):
        return {"matrix": _matrix(mapping), "model": False}
    if isinstance(mapping, Deformation):
        image = mapping.displacement_field()
    elif isinstance(mapping, DisplacementGrid):
        image = mapping.grid.image(mapping.vectors.astype("f4"))
    else:
        own = isinstance(mapping, Inverse) and isinstance(mapping.transform, DisplacementGrid)
        grid = mapping.transform.grid if own else _box(data.get("reference"))
        image = grid.image(sample_on(mapping, grid).astype("f4"))
    _stop(cancelled)
    sitk.WriteImage(image, str(folder / "field.nrrd"), False)
    return {"field": str(folder / "field.nrrd"), "model": isinstance(mapping, Deformation)}


def apply(folder: Path, data: dict[str, Any], emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
    """Bring images, labels and points of the job folder to the other side of the result.

    `inverse` says from the fixed to the moving side. Images are resampled onto `reference`, a grid: its `size`,
    `origin` and `matrix` from voxels to LPS mm; without one, onto that of the result's fixed image. `items` each have a
    `file`, a `name`, and `kind`: `image` (linear, beyond the image 0 or, for CT, its smallest value), `labels` (nearest
    neighbour, 0 beyond), or `points`, (N, 3) as `.npy`. Each is written to `out-` and its name. `field`, where it is
    true, writes the map along which images are pulled as a displacement field.
    """
    import numpy as np
    import SimpleITK as sitk

    from inrreg.deformation import Deformation, load_transform
    from inrreg.export import inverted
    from inrreg.transforms import DisplacementGrid, invert
    from inrreg.warping import resample

    mapping, start = load_transform(data["result"], data.get("alpha")), time.monotonic()
    model, inverse = isinstance(mapping, Deformation), bool(data.get("inverse"))
    _stop(cancelled)
    # Points go along the map that they are at the ends of, images are pulled back along the other one.
    images = [item for item in data["items"] if item["kind"] != "points"]
    pull: PointMap | None = None
    if images or data.get("field"):
        if inverse and not model:
            raise UserError("model", "Only a result with its model has an inverse here.", "Load its folder.")
        pull = inverted(mapping) if inverse else mapping
        if isinstance(pull, Deformation):
            pull = DisplacementGrid.of(pull.displacement_field())
    done: dict[str, Any] = {"items": []}
    if data.get("field"):
        image = pull.grid.image(pull.vectors.astype(np.float32))
        sitk.WriteImage(image, str(folder / "field.nrrd"), False)
        done["field"] = str(folder / "field.nrrd")
    reference = None
    if images and data.get("reference"):
        reference = _grid(data["reference"])
    elif images:
        if not model:
            raise UserError("grid", "A transform file has no fixed image.", "Choose the grid to resample onto.")
        reference = mapping.grid
    through = _itk(pull) if images else None
    for number, item in enumerate(data["items"]):
        _stop(cancelled)
        path, out = folder / item["file"], folder / f"out-{item['file']}"
        if item["kind"] == "points":
            points = np.load(path)
            mapped = mapping.map(points) if inverse else invert(mapping, points)
            if not inverse:
                _warn_of_points(np.linalg.norm(mapping.map(mapped) - points, axis=1), item, emit)
            np.save(out, mapped)
        else:
            labels = item["kind"] == "labels"
            warped = resample(sitk.ReadImage(str(path)), reference, through, labels=labels, cancelled=cancelled)
            sitk.WriteImage(warped, str(out), False)
        done["items"].append(str(out))
        emit("progress", _progress("applying", number + 1, len(data["items"]), start))
    return done


def jacobian(folder: Path, data: dict[str, Any], emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
    """Map the determinant of the result over its fixed image's grid; returns the file, and its least and largest.

    Taken at no more than `MAPPED` points and no finer than `FINEST`, and linear in between: a deformation is smoother
    than its image.
    """
    import SimpleITK as sitk

    from inrreg.deformation import Deformation
    from inrreg.volume_change import volume_change
    from inrreg.warping import resample

    start = time.monotonic()
    deformation = Deformation.load(Path(data["result"]), data.get("alpha"))
    fixed = deformation.grid
    spacing = max(FINEST, float((fixed.extent.prod() / MAPPED) ** (1 / 3)))
    coarse = fixed.resampled(spacing)
    coarse = coarse if min(coarse.spacing) > min(fixed.spacing) else fixed

    def slab_done(done: int, of: int) -> None:
        _stop(cancelled)
        emit("progress", _progress("mapping", done, of, start))

    image = volume_change(deformation, coarse, slab_done)
    values = sitk.GetArrayViewFromImage(image)
    figures = {"minimum": float(values.min()), "maximum": float(values.max())}
    if coarse is not fixed:
        image = resample(image, fixed, sitk.Transform(), cancelled=cancelled)
    sitk.WriteImage(image, str(folder / "jacobian.nrrd"), False)
    return {"map": str(folder / "jacobian.nrrd"), **figures}


def mask(folder: Path, data: dict[str, Any], emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
    """Find a mask, `method` being one of `inrreg.protocol.AUTOMATIC_MASKS`, in the job folder's `image`."""
    import SimpleITK as sitk

    from inrreg.automask import mask as find
    from inrreg.images import read_image

    found = find(data["method"], "mask", read_image(folder / data["image"], "chosen"))
    _stop(cancelled)
    sitk.WriteImage(found, str(folder / "mask.nrrd"), False)
    return {"mask": str(folder / "mask.nrrd")}


# ------------------------------------------------------------------------------------------- pieces


def _stop(cancelled: Cancelled) -> None:
    from inrreg.optimization import Cancelled as End

    if cancelled():
        raise End


def _progress(stage: str, step: int, steps: int, start: float) -> dict[str, Any]:
    seconds = time.monotonic() - start
    eta = seconds / step * (steps - step)
    return {"stage": stage, "step": step, "steps": steps, "loss": None, "terms": {}, "seconds": seconds, "eta": eta}


def _series(source: dict[str, Any], side: str) -> Series:
    from inrreg.dicom import Series

    if "folder" in source:
        return Series.read(source["folder"], side)
    return Series.of(source["files"], side, "of the volume", frozenset(source["instances"]))


def _affine(matrix: list[list[float]]) -> Affine:
    import numpy as np

    from inrreg.transforms import Affine

    return Affine(np.array(matrix)[:3, :3], np.array(matrix)[:3, 3])


def _matrix(affine: Affine) -> list[list[float]]:
    return [*([*row, shift] for row, shift in zip(affine.matrix, affine.offset, strict=True)), [0.0, 0.0, 0.0, 1.0]]


def _grid(reference: dict[str, Any]) -> Grid:
    import numpy as np

    from inrreg.geometry import Grid

    return Grid(tuple(reference["size"]), np.array(reference["origin"]), np.array(reference["matrix"]))


def _box(reference: dict[str, Any] | None) -> Grid:
    """The grid that a transform without one is sampled on: over a reference grid and a quarter of it all around."""
    import numpy as np

    from inrreg.geometry import Grid

    if not reference:
        raise UserError("grid", "This transform has no grid of its own.", "Choose a fixed volume, and load it again.")
    grid = _grid(reference)
    extent = 1.5 * grid.extent
    spacing = max(FINEST, float((np.prod(extent) / MOST_NODES) ** (1 / 3)))
    size = tuple(int(n) for n in np.ceil(extent / spacing) + 1)
    return Grid(size, grid.to_world(-0.25 * (np.array(grid.size) - 1)), grid.direction * spacing)


def _itk(pull: PointMap) -> sitk.Transform:
    import SimpleITK as sitk

    from inrreg.transforms import Affine, DisplacementGrid, SitkTransform

    if isinstance(pull, DisplacementGrid):
        return sitk.DisplacementFieldTransform(pull.grid.image(pull.vectors))
    if isinstance(pull, Affine):
        return pull.to_sitk()
    if isinstance(pull, SitkTransform):
        return pull.transform
    raise UserError("transform", "Images cannot be resampled through this transform.", "Load its displacement field.")


def _warn_of_points(error: Any, item: dict[str, Any], emit: Emit) -> None:
    if (error > 0.1).any():
        text = f"{int((error > 0.1).sum())} points of '{item['name']}' have no exact inverse"
        emit("warning", {"code": "inverse", "message": f"{text}: off by up to {error.max():.1f} mm."})
