"""Label arrays as segments of segmentation nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from . import results


def add_segments(node: Any, array: np.ndarray, matrix: np.ndarray, segments: dict[int, tuple[str, Any]]) -> None:
    """Add segments to a node; they share the label map, shape (k, j, i), with its matrix to RAS.

    By label, `segments` give an id, or "" for any, and a segment of which name, colour and tags are taken.
    """
    image, direction = results.image_of(array, matrix)
    oriented = slicer.vtkOrientedImageData()
    oriented.ShallowCopy(image)
    oriented.SetDirectionMatrix(slicer.util.vtkMatrixFromArray(direction))
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(name)
    for label, (identifier, like) in segments.items():
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(like)
        segment.AddRepresentation(name, oriented)
        segment.SetLabelValue(label)
        segmentation.AddSegment(segment, identifier)


def new_segment(name: str, colour: tuple[float, float, float]) -> Any:
    """A segment without a shape."""
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*colour)
    return segment


def as_in(volume: Any, node: Any) -> None:
    """Put a segmentation where a volume is: its grid, and its place in the hierarchy."""
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
