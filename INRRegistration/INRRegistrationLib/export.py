"""Scene to job folder. What is read from the scene is gathered on the GUI thread; files are written off it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from inrreg.protocol import UserError

from . import nrrd, transforms

FINEST = 2.0
"""Least spacing in mm at which an initial transform is sampled: finer than such a start needs to be."""
MOST_NODES = 2e6
"""Most nodes of that grid: 24 MB."""
GRID, LINEAR = "initial_transform.nrrd", "initial_transform.tfm"


@dataclass
class Snapshot:
    """An image as it stands in the scene: voxels, geometry, and the transform above it.

    The voxels are shared with the scene, not copied: a copy of a large volume would stop the GUI. A volume
    edited in the fraction of a second until it is on disk is registered as edited. The transform is a copy.
    """

    image: vtk.vtkImageData
    ijk_to_local: np.ndarray
    to_frame: vtk.vtkGeneralTransform
    labels: bool = False

    def write(self, path: Path) -> None:
        """Write as NRRD in the frame's coordinates. Safe off the GUI thread."""
        above = transforms.matrix(self.to_frame)
        matrix = None if above is None else above @ self.ijk_to_local
        if matrix is not None and _is_orthogonal(matrix):
            nrrd.write(path, _array(self.image), matrix)
        else:
            nrrd.write(path, *self._resampled())

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Voxel indices (729, 3) spread over the image, and where they lie in the frame, in RAS mm."""
        size = np.array(self.image.GetDimensions())
        index = np.stack(np.meshgrid(*[np.linspace(0, max(n - 1, 1), 9) for n in size], indexing="ij"), -1).reshape(
            -1, 3
        )
        local = index @ self.ijk_to_local[:3, :3].T + self.ijk_to_local[:3, 3]
        return index, np.array([self.to_frame.TransformPoint(point) for point in local])

    def _resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Voxels on an axis-parallel grid, about as fine along each axis, that holds the transformed image."""
        index, points = self.outline()
        # The affine map nearest to the transform; a step along a world axis passes that many voxels.
        affine = np.linalg.lstsq(np.c_[index, np.ones(len(index))], points, rcond=None)[0][:3].T
        spacing = 1 / np.linalg.norm(np.linalg.pinv(affine), axis=0)
        low, high = points.min(axis=0) - spacing, points.max(axis=0) + spacing
        count = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
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
    node: Any,
    to_frame: vtk.vtkGeneralTransform,
    values: dict[str, int] | None = None,
    chosen: list[str] | None = None,
    *,
    apart: bool = False,
) -> Snapshot:
    """Segments of a segmentation as one label map.

    `values` gives labels by segment name; without it, the segments with the ids in `chosen` (all where that
    is None) become 1, or `apart` 1, 2 and so on. Raises `UserError` (code `segmentation`).
    """
    _check_labelmap(node)
    segmentation = node.GetSegmentation()
    wanted = {}
    for identifier in segmentation.GetSegmentIDs():
        title = segmentation.GetSegment(identifier).GetName()
        if (title in values) if values is not None else (chosen is None or identifier in chosen):
            wanted[identifier] = values[title] if values is not None else len(wanted) + 1 if apart else 1
    return _merged(node, to_frame, wanted)


def layers(node: Any, to_frame: vtk.vtkGeneralTransform) -> list[tuple[Snapshot, dict[str, int]]]:
    """All segments of a segmentation as label maps, in each those that do not overlap; labels by segment id.

    Raises `UserError` (code `segmentation`).
    """
    _check_labelmap(node)
    segmentation = node.GetSegmentation()
    found = []
    for number in range(segmentation.GetNumberOfLayers()):
        ids = segmentation.GetSegmentIDsForLayer(number)
        values = {identifier: value for value, identifier in enumerate(ids, start=1)}
        found.append((_merged(node, to_frame, values), values))
    return found


def _check_labelmap(node: Any) -> None:
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not node.GetSegmentation().ContainsRepresentation(name):
        hint = "Create it in the Segmentations module, under Representations."
        raise UserError("segmentation", f"'{node.GetName()}' has no binary labelmap.", hint)


def _merged(node: Any, to_frame: vtk.vtkGeneralTransform, wanted: dict[str, int]) -> Snapshot:
    """Segments as one label map, labels by segment id."""
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for identifier, value in wanted.items():
        ids.InsertNextValue(identifier)
        values.InsertNextValue(value)
    merged = slicer.vtkOrientedImageData()
    extent = slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS
    done = wanted and node.GenerateMergedLabelmapForAllSegments(merged, extent, None, ids, values)
    if not done or not merged.GetNumberOfPoints():
        raise UserError("segmentation", f"The chosen segments of '{node.GetName()}' are empty.", "Choose others.")
    matrix = vtk.vtkMatrix4x4()
    merged.GetImageToWorldMatrix(matrix)
    matrix = slicer.util.arrayFromVTKMatrix(matrix)
    # The voxels of an oriented image may begin at another index than zero; a file's do not.
    extent = merged.GetExtent()
    matrix[:3, 3] += matrix[:3, :3] @ [extent[0], extent[2], extent[4]]
    return Snapshot(merged, matrix, to_frame, labels=True)


def grid_of(node: Any, to_frame: vtk.vtkGeneralTransform) -> dict[str, Any]:
    """A volume's grid for the worker: `size`, `origin` and `matrix` from voxels to the frame's LPS mm.

    Raises `UserError` (code `grid`) where what is above it bends or shears it.
    """
    snapshot = volume(node, to_frame)
    above = transforms.matrix(to_frame)
    if above is None or not _is_orthogonal(above @ snapshot.ijk_to_local):
        hint = "Choose another one, or harden the transform above it."
        raise UserError("grid", f"The grid of '{node.GetName()}' is bent or sheared by its transform.", hint)
    matrix = nrrd.LPS @ above @ snapshot.ijk_to_local
    size = list(snapshot.image.GetDimensions())
    return {"size": size, "origin": matrix[:3, 3].tolist(), "matrix": matrix[:3, :3].tolist()}


def labels(node: Any, to_frame: vtk.vtkGeneralTransform, **segments_as: Any) -> Snapshot:
    """A label map volume as it is, or a segmentation: see `segments` for the rest."""
    if node.IsA("vtkMRMLSegmentationNode"):
        return segments(node, to_frame, **segments_as)
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
    names = [_segment_names(node) for node in (fixed, moving)]
    shared = [name for name in names[0] if name in names[1]]
    if not shared:
        hint = "Give the same structure the same name in both."
        raise UserError("labels", "The two segmentations have no segment name in common.", hint)
    return {name: number for number, name in enumerate(shared, start=1)}


def single_segments(fixed: Any, moving: Any) -> dict[str, list[str]]:
    """By side, the names of segments that the other segmentation lacks; none for label maps."""
    if not all(node.IsA("vtkMRMLSegmentationNode") for node in (fixed, moving)):
        return {}
    one, other = _segment_names(fixed), _segment_names(moving)
    return {
        "fixed": [name for name in one if name not in other],
        "moving": [name for name in other if name not in one],
    }


def _segment_names(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetSegment(entry).GetName() for entry in segmentation.GetSegmentIDs()]


@dataclass
class InitialTransform:
    """Where the engine shall start: from fixed to moving points, in the frame's RAS coordinates."""

    toward_moving: vtk.vtkGeneralTransform
    low: np.ndarray
    high: np.ndarray
    """Corners of the fixed image and of a quarter of it all around: where a transform is sampled."""

    def __post_init__(self) -> None:
        self.matrix = transforms.matrix(self.toward_moving)
        self.file = GRID if self.matrix is None else LINEAR
        self.spacing = float(max(FINEST, (np.prod(self.high - self.low) / MOST_NODES) ** (1 / 3)))
        """In mm, of the grid that a transform is sampled on which is not linear."""

    def write(self, folder: Path) -> None:
        """Write the file, a matrix or a displacement field. Safe off the GUI thread."""
        path = folder / self.file
        if self.matrix is not None:
            matrix = nrrd.LPS @ self.matrix @ nrrd.LPS
            numbers = " ".join(repr(float(value)) for value in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
            head = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            path.write_text(f"{head}Parameters: {numbers}\nFixedParameters: 0 0 0\n", encoding="ascii")
            return
        size = np.ceil((self.high - self.low) / self.spacing).astype(int) + 1
        vectors = transforms.sample(self.toward_moving, self.low, size, self.spacing)
        if not np.isfinite(vectors).all():
            raise UserError("initial", "The initial transform has no inverse here.", "Choose another one.")
        grid = np.diag([self.spacing] * 3 + [1.0])
        grid[:3, 3] = self.low
        nrrd.write(path, vectors * np.array([-1, -1, 1], vectors.dtype), grid)


def initial_transform(toward_moving: vtk.vtkGeneralTransform, fixed: Snapshot) -> InitialTransform:
    """An initial transform, for the surroundings of the fixed image."""
    _, points = fixed.outline()
    low, high = points.min(axis=0), points.max(axis=0)
    margin = (high - low) / 4
    return InitialTransform(toward_moving, low - margin, high + margin)


def state(node: Any) -> list[tuple[str, int]]:
    """What becomes another value when the voxels of a volume or segmentation change, or are replaced."""
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        parts = [segmentation.GetSegment(each) for each in segmentation.GetSegmentIDs()]
        images = [part.GetRepresentation(kind) for part in parts]
    else:
        images = [node.GetImageData()]
    found = [image.GetPointData().GetScalars() for image in images if image is not None]
    return [(voxels.GetAddressAsString(""), voxels.GetMTime()) for voxels in found if voxels is not None]


def _array(image: vtk.vtkImageData) -> np.ndarray:
    """An image's voxels, shape (k, j, i), not copied."""
    scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions()[::-1])


def _is_orthogonal(matrix: np.ndarray) -> bool:
    """Whether the axes of a 4 x 4 matrix are at right angles, as image files have them."""
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-5))
