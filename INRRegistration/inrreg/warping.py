"""Resampling a moving image, label map or mask through a transform."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid
from inrreg.intensities import is_ct
from inrreg.transforms import PointMap

_SLAB = 16
"""Slices resampled at once: bounds the memory of the displacements."""


def warp(moving: sitk.Image, transform: PointMap, reference: Grid, *, labels: bool = False) -> sitk.Image:
    """The moving image on the reference grid, in its own pixel type: linear, or nearest neighbour for labels.

    Where the transform leaves the moving image the value is 0, or for CT the image's smallest.
    """
    background = 0.0 if labels else padding_value(moving)
    interpolator = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    slabs = []
    for first in range(0, reference.size[2], _SLAB):
        count = min(_SLAB, reference.size[2] - first)
        slab = Grid((*reference.size[:2], count), reference.to_world(np.array([0, 0, first])), reference.matrix)
        points = slab.points()
        flat = points.reshape(-1, 3)
        field = sitk.DisplacementFieldTransform(slab.image((transform.map(flat) - flat).reshape(points.shape)))
        onto = slab.image(np.zeros(slab.size[::-1], np.uint8))
        warped = sitk.Resample(moving, onto, field, interpolator, background)
        slabs.append(sitk.GetArrayFromImage(warped))
    return reference.image(np.concatenate(slabs))


def padding_value(image: sitk.Image) -> float:
    """What stands for nothing in an image: its smallest value in CT, else 0."""
    array = sitk.GetArrayViewFromImage(image)
    return float(array.min()) if is_ct(array) else 0.0
