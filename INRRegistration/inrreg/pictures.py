"""Pictures of a registration, with matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.deformation import load_transform
from inrreg.geometry import Grid
from inrreg.images import read_image
from inrreg.intensities import normalize
from inrreg.protocol import Job, UserError
from inrreg.transforms import Affine, PointMap
from inrreg.warping import warp

_LINES = 10.0
"""Distance in mm of the deformed grid's lines."""


def overview(job: Job, result: Path, path: Path) -> Path:
    """Fixed, moving, warped, both differences and the deformed grid in a coronal and a sagittal slice, as PNG.

    Raises `UserError` (code `package`) without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "package", "The picture needs matplotlib.", "Install it with: pip install 'inrreg[report]'"
        ) from None
    fixed, moving = read_image(job.fixed, "fixed"), read_image(job.moving, "moving")
    transform, grid = load_transform(result), Grid.of(fixed)
    warped = [warp(moving, part, grid) for part in (Affine(), transform)]
    images = [normalize(sitk.GetArrayFromImage(image)) for image in (fixed, *warped)]
    titles = ("fixed", "moving", "warped", "difference before", "difference after", "deformed grid")
    figure = Figure(figsize=(18, 6.4), layout="constrained", facecolor="black")
    for row, axis in enumerate((1, 2)):  # array axes of the coronal and of the sagittal plane
        middle = images[0].shape[axis] // 2 if axis == 1 else images[0].shape[axis] // 3
        slices = [np.take(image, middle, axis) for image in images]
        aspect = grid.spacing[2] / grid.spacing[axis - 1]  # across lies x in the coronal, y in the sagittal plane
        panels = [*slices, slices[1] - slices[0], slices[2] - slices[0], slices[0]]
        for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            axes = figure.add_subplot(2, 6, row * 6 + column + 1)
            low, high, colours = (-0.5, 0.5, "RdBu") if "difference" in title else (0, 1, "gray")
            axes.imshow(panel, cmap=colours, vmin=low, vmax=high, origin="lower", aspect=aspect)
            if title == "deformed grid":
                _draw_grid(axes, transform, grid, axis, middle)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, color="white", fontsize=13)
    figure.savefig(path, dpi=100)
    return path


def _draw_grid(axes: object, transform: PointMap, grid: Grid, axis: int, middle: int) -> None:
    """Where a regular grid of the slice goes: the in-plane part of the transform, as lines."""
    size = grid.size[::-1]
    rows, columns = (a for a in range(3) if a != axis)
    across, along = np.meshgrid(np.arange(size[columns]), np.arange(size[rows]))
    index = np.zeros((*across.shape, 3))
    index[..., 2 - axis], index[..., 2 - columns], index[..., 2 - rows] = middle, across, along
    moved = grid.to_index(transform.map(grid.to_world(index).reshape(-1, 3))).reshape(index.shape)
    x, y = moved[..., 2 - columns], moved[..., 2 - rows]
    step = np.maximum(1, np.round(_LINES / grid.spacing)).astype(int)
    for k in range(0, size[rows], step[2 - rows]):
        axes.plot(x[k], y[k], color="#ffd040", linewidth=0.7)
    for k in range(0, size[columns], step[2 - columns]):
        axes.plot(x[:, k], y[:, k], color="#ffd040", linewidth=0.7)
    axes.set_xlim(-0.5, size[columns] - 0.5)
    axes.set_ylim(-0.5, size[rows] - 0.5)
