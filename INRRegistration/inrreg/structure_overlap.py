"""Overlap of structures before and after a registration, of label maps that may be cropped to what they hold."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid
from inrreg.metrics import label_overlap
from inrreg.transforms import Affine, PointMap
from inrreg.warping import warp

_SEARCHED = 40
"""Points along each axis at which it is asked whether a structure comes to lie there."""


def overlap(transform: PointMap, fixed: sitk.Image, moving: sitk.Image, image: Grid | None) -> dict[str, Any]:
    """Dice, HD95 and mean distance to agreement of each label before and after, on the fixed labels' grid.

    That is grown within the fixed `image`, where known, to hold the warped structures too: of what a cropped label map
    cuts off nobody would hear.
    """
    rows = {}
    for name, part in (("before", Affine()), ("after", transform)):
        held = fixed if image is None else _grown(fixed, moving, part, image)
        figures = label_overlap(held, warp(moving, part, Grid.of(held), labels=True))
        rows[name] = {str(label): each for label, each in figures.items()}  # as JSON will have it
    return rows


def _grown(fixed: sitk.Image, moving: sitk.Image, transform: PointMap, image: Grid) -> sitk.Image:
    """The fixed labels, padded by whole voxels to where the moving ones come to lie within the image's box."""
    grid, onto = Grid.of(fixed), Grid.of(moving)
    filled = sitk.GetArrayViewFromImage(moving) > 0
    axes = [np.flatnonzero(filled.any(tuple({0, 1, 2} - {2 - axis}))) for axis in range(3)]  # i, j, k
    if not axes[0].size:
        return fixed
    corners = np.array(list(product(*[(0, n - 1) for n in image.size])))
    box = np.concatenate([grid.to_index(image.to_world(corners)), [[0, 0, 0], np.array(grid.size) - 1]])
    first, last = np.ceil(box.min(0) - 1e-3), np.floor(box.max(0) + 1e-3)
    index = np.stack(np.meshgrid(*np.linspace(first, last, _SEARCHED, axis=1), indexing="ij"), -1).reshape(-1, 3)
    step = (last - first) / (_SEARCHED - 1)
    reached = onto.to_index(transform.map(grid.to_world(index)))
    # Between two points that were asked, a map may stretch to twice their distance.
    slack = 2 * np.linalg.norm(step * grid.spacing) / onto.spacing + 0.5
    low, high = (np.array([axis[end] for axis in axes]) for end in (0, -1))
    inside = index[((reached >= low - slack) & (reached <= high + slack)).all(1)]
    if not len(inside):
        return fixed
    before = -np.clip(np.floor(inside.min(0) - step), first, 0).astype(int)
    after = np.clip(np.ceil(inside.max(0) + step), np.array(grid.size) - 1, last).astype(int) - np.array(grid.size) + 1
    return sitk.ConstantPad(fixed, before.tolist(), after.tolist(), 0)
