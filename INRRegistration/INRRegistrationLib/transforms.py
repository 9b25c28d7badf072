"""Transforms apart from the scene: copied, so that they can be used off the GUI thread, and sampled."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support


def compose(parts: list[vtk.vtkAbstractTransform]) -> vtk.vtkGeneralTransform:
    """Copies of transforms as one, the first applied first. Later changes of the scene do not reach it.

    Displacement vectors and spline coefficients are shared, not copied: a copy of a large field would stop
    the GUI.
    """
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    for part in parts:
        simple = vtk.vtkCollection()
        slicer.vtkMRMLTransformNode.FlattenGeneralTransform(simple, part)
        for index in range(simple.GetNumberOfItems()):
            whole.Concatenate(_copy(simple.GetItemAsObject(index)))
    return whole


def matrix(transform: vtk.vtkGeneralTransform) -> np.ndarray | None:
    """The 4 x 4 matrix of a transform; None where it is not linear."""
    result = vtk.vtkTransform()
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(transform, result):
        return None
    return slicer.util.arrayFromVTKMatrix(result.GetMatrix())


def sample(transform: vtk.vtkAbstractTransform, low: np.ndarray, size: np.ndarray, spacing: float) -> np.ndarray:
    """The displacement T(x) - x, float32 (k, j, i, 3), on an axis-parallel grid that begins at `low`."""
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(transform)
    sampler.SetGridScalarTypeToFloat()
    sampler.SetGridOrigin(*low)
    sampler.SetGridSpacing(spacing, spacing, spacing)
    sampler.SetGridExtent(0, int(size[0]) - 1, 0, int(size[1]) - 1, 0, int(size[2]) - 1)
    sampler.Update()
    vectors = numpy_support.vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars())
    return vectors.reshape(*size[::-1], 3)


def _copy(simple: vtk.vtkAbstractTransform) -> vtk.vtkAbstractTransform:
    simple.Update()  # an inverse has nothing of its own before
    if simple.IsA("vtkHomogeneousTransform"):
        # Not its own kind: that one may go on following the matrix of a node.
        result = vtk.vtkTransform()
        result.SetMatrix(simple.GetMatrix())
        return result
    result = simple.MakeTransform()
    result.DeepCopy(simple)
    if result.IsA("vtkGridTransform"):
        result.SetDisplacementGridData(_apart(simple.GetDisplacementGrid()))
    elif result.IsA("vtkBSplineTransform"):
        result.SetCoefficientData(_apart(simple.GetCoefficientData()))
    elif result.IsA("vtkThinPlateSplineTransform"):
        for points, put in (
            (simple.GetSourceLandmarks(), result.SetSourceLandmarks),
            (simple.GetTargetLandmarks(), result.SetTargetLandmarks),
        ):
            copied = vtk.vtkPoints()
            copied.DeepCopy(points)
            put(copied)
    return result


def _apart(image: vtk.vtkImageData) -> vtk.vtkImageData:
    result = vtk.vtkImageData()
    result.ShallowCopy(image)
    return result
