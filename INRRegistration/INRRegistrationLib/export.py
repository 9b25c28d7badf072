"""Scene to job folder. What is read from the scene is gathered on the GUI thread; files are written off it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from inrreg.protocol import UserError

from . import hierarchy, nrrd


@dataclass
class Snapshot:
    """An image as it stands in the scene: voxels, geometry, and the transform above it.

    The voxels are shared with the scene, not copied: a copy of a large volume would stop the GUI. A volume
    edited in the fraction of a second until it is on disk is registered as edited.
    """

    image: vtk.vtkImageData
    ijk_to_local: np.ndarray
    to_frame: vtk.vtkGeneralTransform
    labels: bool = False

    def __post_init__(self) -> None:
        above = hierarchy.linear(self.to_frame)
        self._matrix = None if above is None else above @ self.ijk_to_local

    def write(self, path: Path) -> None:
        """Write as NRRD in the frame's coordinates. Safe off the GUI thread."""
        if self._matrix is not None and _is_orthogonal(self._matrix):
            nrrd.write(path, _array(self.image), self._matrix)
        else:
            nrrd.write(path, *self._resampled())

    def _resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Voxels on an axis-parallel grid of the same spacing that holds the transformed image."""
        size = np.array(self.image.GetDimensions())
        lattice = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in size], indexing="ij"), -1).reshape(-1, 3)
        local = lattice @ self.ijk_to_local[:3, :3].T + self.ijk_to_local[:3, 3]
        points = np.array([self.to_frame.TransformPoint(point) for point in local])
        spacing = np.linalg.norm(self.ijk_to_local[:3, :3], axis=0)
        low, high = points.min(axis=0) - spacing, points.max(axis=0) + spacing
        # The finest spacing along each world axis that the voxels had, so that no detail is lost.
        spacing = np.full(3, spacing.min()) if not np.allclose(spacing, spacing[0]) else spacing
        count = np.ceil((high - low) / spacing).astype(int) + 1
        back = vtk.vtkGeneralTransform()
        back.PostMultiply()
        back.Concatenate(self.to_frame.GetInverse())
        back.Concatenate(slicer.util.vtkMatrixFromArray(np.linalg.inv(self.ijk_to_local)))
        image = vtk.vtkImageData()
        image.ShallowCopy(self.image)
        image.SetOrigin(0, 0, 0)
        image.SetSpacing(1, 1, 1)
        reslice = vtk.vtkImageReslice()
        reslice.SetInputData(image)
        reslice.SetResliceTransform(back)
        reslice.SetOutputOrigin(*low)
        reslice.SetOutputSpacing(*spacing)
        reslice.SetOutputExtent(0, int(count[0]) - 1, 0, int(count[1]) - 1, 0, int(count[2]) - 1)
        reslice.SetBackgroundLevel(0 if self.labels else image.GetScalarRange()[0])
        if self.labels:
            reslice.SetInterpolationModeToNearestNeighbor()
        else:
            reslice.SetInterpolationModeToLinear()
        reslice.Update()
        matrix = np.diag([*spacing, 1.0])
        matrix[:3, 3] = low
        return _array(reslice.GetOutput()), matrix


def volume(node: Any, to_frame: vtk.vtkGeneralTransform, labels: bool = False) -> Snapshot:
    """A scalar or label map volume. Raises `UserError` (code `image`) where it holds no such voxels."""
    data = node.GetImageData()
    if data is None or not data.GetNumberOfPoints():
        raise UserError("image", f"'{node.GetName()}' holds no image.", "Choose another volume.")
    if data.GetNumberOfScalarComponents() != 1:
        hint = "Convert it to a scalar volume first."
        raise UserError("image", f"'{node.GetName()}' has several components per voxel.", hint)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    image = vtk.vtkImageData()
    image.ShallowCopy(data)
    return Snapshot(image, slicer.util.arrayFromVTKMatrix(matrix), to_frame, labels)


def segments(
    node: Any, to_frame: vtk.vtkGeneralTransform, values: dict[str, int] | None = None, chosen: list[str] | None = None
) -> Snapshot:
    """Segments of a segmentation as one label map.

    `values` gives labels by segment name; without it, the segments with the ids in `chosen` (all where that
    is empty) become 1. Raises `UserError` (code `segmentation`).
    """
    segmentation = node.GetSegmentation()
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not segmentation.ContainsRepresentation(name):
        hint = "Create it in the Segmentations module, under Representations."
        raise UserError("segmentation", f"'{node.GetName()}' has no binary labelmap.", hint)
    ids, labels = vtk.vtkStringArray(), vtk.vtkIntArray()
    for identifier in segmentation.GetSegmentIDs():
        title = segmentation.GetSegment(identifier).GetName()
        if (title in values) if values is not None else (not chosen or identifier in chosen):
            ids.InsertNextValue(identifier)
            labels.InsertNextValue(values[title] if values is not None else 1)
    merged = slicer.vtkOrientedImageData()
    extent = slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS
    done = ids.GetNumberOfValues() and node.GenerateMergedLabelmapForAllSegments(merged, extent, None, ids, labels)
    if not done or not merged.GetNumberOfPoints():
        raise UserError("segmentation", f"The chosen segments of '{node.GetName()}' are empty.", "Choose others.")
    matrix = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    matrix = slicer.util.arrayFromVTKMatrix(matrix)
    # The voxels of an oriented image may begin at another index than zero; a file's do not.
    extent = merged.GetExtent()
    matrix[:3, 3] += matrix[:3, :3] @ [extent[0], extent[2], extent[4]]
    return Snapshot(merged, matrix, to_frame, labels=True)


def labels(
    node: Any, to_frame: vtk.vtkGeneralTransform, values: dict[str, int] | None = None, chosen: list[str] | None = None
) -> Snapshot:
    """A label map volume or segmentation."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return segments(node, to_frame, values, chosen)
    return volume(node, to_frame, labels=True)


def common_segments(fixed: Any, moving: Any) -> dict[str, int] | None:
    """Labels, from 1, for the names that the segments of two segmentations share; None for label maps.

    Raises `UserError` (code `labels`) where they share none, or are of different kinds.
    """
    kinds = [node.IsA("vtkMRMLSegmentationNode") for node in (fixed, moving)]
    if not any(kinds):
        return None
    if not all(kinds):
        hint = "Convert the label map to a segmentation, with the same names."
        raise UserError("labels", "Structure labels must be two segmentations or two label maps.", hint)
    names = []
    for node in (fixed, moving):
        segmentation = node.GetSegmentation()
        names.append([segmentation.GetSegment(entry).GetName() for entry in segmentation.GetSegmentIDs()])
    shared = [name for name in names[0] if name in names[1]]
    if not shared:
        hint = "Give the same structure the same name in both."
        raise UserError("labels", "The two segmentations have no segment name in common.", hint)
    return {name: number for number, name in enumerate(shared, start=1)}


def transform(node: Any, frame: Any, moving: Any) -> Callable[[Path], None]:
    """A function that writes a transform, from fixed to moving, for the engine; call it on the GUI thread."""
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(node.GetTransformToParent())
    whole.Concatenate(hierarchy.to_frame(node, frame, moving))

    def write(path: Path) -> None:
        loose = slicer.vtkMRMLTransformNode()
        loose.SetAndObserveTransformToParent(whole)
        storage = slicer.vtkMRMLTransformStorageNode()
        storage.SetFileName(str(path))
        if not storage.WriteData(loose):
            raise UserError("transform", f"The transform '{node.GetName()}' cannot be written.", "Choose another.")

    return write


def _array(image: vtk.vtkImageData) -> np.ndarray:
    """An image's voxels, shape (k, j, i), not copied."""
    scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions()[::-1])


def _is_orthogonal(matrix: np.ndarray) -> bool:
    """Whether the axes of a 4 x 4 matrix are at right angles, as image files have them."""
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-5))
