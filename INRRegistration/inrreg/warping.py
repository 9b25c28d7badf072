"""Resampling a moving image, label map or mask through a transform."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid
from inrreg.intensities import is_ct
from inrreg.optimization import Cancelled
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


def resample(
    image: sitk.Image,
    reference: Grid,
    transform: sitk.Transform,
    *,
    labels: bool = False,
    threads: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> sitk.Image:
    """`warp` through one of ITK's own transforms, the whole grid at once; raises `Cancelled` on the way.

    On so many `threads`, 0 for as many as there are.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(reference.size)
    resampler.SetOutputOrigin(reference.origin.tolist())
    resampler.SetOutputSpacing(reference.spacing.tolist())
    resampler.SetOutputDirection(reference.direction.ravel().tolist())
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if labels else sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0.0 if labels else padding_value(image))
    resampler.SetNumberOfThreads(threads or os.cpu_count() or 1)
    resampler.AddCommand(sitk.sitkProgressEvent, lambda: resampler.Abort() if cancelled() else None)
    try:
        return resampler.Execute(image)
    except RuntimeError:  # SimpleITK's word for an abort, too
        if cancelled():
            raise Cancelled from None
        raise
    finally:
        # A command that knows its filter keeps it alive, and the transform and the image with it.
        resampler.RemoveAllCommands()


def padding_value(image: sitk.Image) -> float:
    """What stands for nothing in an image: its smallest value in CT, else 0."""
    array = sitk.GetArrayViewFromImage(image)
    return float(array.min()) if is_ct(array) else 0.0
