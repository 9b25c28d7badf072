"""The resampled volume of a result, made anew where the result has changed. Off the GUI thread, slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from inrreg.intensities import is_ct

from . import export, hierarchy, results
from .background import Task
from .results import ALPHA

VOLUME = "INRRegistration.Volume"
"""Role of a transform's reference to the moving volume as it was resampled through it."""


def volume_of(transform: Any) -> Any:
    """The resampled volume of a result, None where there is none any more."""
    return transform.GetNodeReference(VOLUME) if transform is not None else None


class Renewal:
    """Resamples the moving volume linearly through what its transform shows, at this alpha; then `done()` is called.

    Nothing where the moving volume is not under the transform.
    """

    def __init__(self, transform: Any, alpha: float, done: Callable[[], None]) -> None:
        self._id, self._alpha, self._done = volume_of(transform).GetID(), alpha, done
        self._ended = False
        self._task: Task | None = None
        moving = transform.GetNodeReference(hierarchy.MOVING)
        if moving is not None and transform in hierarchy.chain(moving):
            volume = volume_of(transform)
            path = [*hierarchy.shown(volume, None), *hierarchy.inverse(hierarchy.shown(moving, None))]
            source, target = (export.volume(node, vtk.vtkGeneralTransform()) for node in (moving, volume))
            through = hierarchy.composed(path)
            self._task = Task(lambda: self._resampled(source, target, through), self._on_resampled)

    def stop(self) -> None:
        """Leave the volume as it is."""
        self._ended = True
        if self._task is not None:
            self._task.abandon()

    def _resampled(self, source: export.Snapshot, target: export.Snapshot, through: Any) -> np.ndarray:
        back = vtk.vtkGeneralTransform()
        back.PostMultiply()
        for part in (target.ijk_to_local, through, np.linalg.inv(source.ijk_to_local)):
            back.Concatenate(slicer.util.vtkMatrixFromArray(part) if part is not through else through)
        image = vtk.vtkImageData()
        image.ShallowCopy(source.image)
        image.SetOrigin(0, 0, 0)
        image.SetSpacing(1, 1, 1)
        values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        columns, rows, slices = target.image.GetDimensions()
        reslice = vtk.vtkImageReslice()
        reslice.SetInputData(image)
        reslice.SetResliceTransform(back)
        reslice.SetOutputOrigin(0, 0, 0)
        reslice.SetOutputSpacing(1, 1, 1)
        reslice.SetInterpolationModeToLinear()
        reslice.SetBackgroundLevel(float(values.min()) if is_ct(values) else 0.0)  # as the engine does
        found = None
        for number in range(slices):
            if self._ended:
                break
            # VTK keeps Python waiting while it works: not for longer than a slice takes.
            reslice.SetOutputExtent(0, columns - 1, 0, rows - 1, number, number)
            reslice.Update()
            values = numpy_support.vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars())
            if found is None:
                found = np.empty((slices, rows, columns), values.dtype)
            found[number] = values.reshape(rows, columns)
        return found

    def _on_resampled(self, voxels: np.ndarray, error: BaseException | None) -> None:
        self._task = None
        if error is not None:
            raise error
        volume = slicer.mrmlScene.GetNodeByID(self._id)
        if volume is not None:
            volume.SetAndObserveImageData(results.plain_image(voxels))
            volume.SetAttribute(ALPHA, repr(self._alpha))
            self._done()
