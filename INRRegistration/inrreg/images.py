"""Reading and writing images: what is not a usable volume ends here, in one sentence."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid
from inrreg.intensities import check
from inrreg.protocol import UserError

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
_SMALLEST = 4
"""Voxels along each axis that smoothing and resampling need."""


def read_image(path: str | Path, name: str) -> sitk.Image:
    """A three-dimensional scalar image. `name` says in errors which one it is.

    Raises `UserError` (code `file`) when it is missing or unreadable, (code `image`) when it is not a 3D
    volume with finite, varying values.
    """
    image = read_scalar(path, f"{name} image")
    array = sitk.GetArrayViewFromImage(image)
    if min(image.GetSize()) < _SMALLEST:
        size = " x ".join(map(str, image.GetSize()))
        raise UserError("image", f"The {name} image has only {size} voxels.", f"Each axis needs {_SMALLEST} or more.")
    check(array, name)
    return image


def read_mask(path: str | Path, name: str, reference: sitk.Image | None = None) -> sitk.Image:
    """A mask as 0 and 1 on the reference's grid, or its own: any value but 0 is inside.

    Raises `UserError` (code `mask`) when nothing of it is set within the reference image.
    """
    mask = on_grid(sitk.Cast(read_scalar(path, name) != 0, sitk.sitkUInt8), reference)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise UserError(
            "mask", f"The {name} is empty within its image.", "Choose a mask that covers what is to be registered."
        )
    return mask


def read_labels(path: str | Path, name: str, reference: sitk.Image | None = None) -> sitk.Image:
    """A label image on the reference's grid, or its own. Raises `UserError` (code `labels`) if empty."""
    labels = on_grid(sitk.Cast(read_scalar(path, name), sitk.sitkInt32), reference)
    if not sitk.GetArrayViewFromImage(labels).any():
        raise UserError("labels", f"The {name} have no label within their image.", "Choose other labels.")
    return labels


def on_grid(labels: sitk.Image, reference: sitk.Image | None) -> sitk.Image:
    """A mask or label image on another image's grid, by nearest neighbour; 0 where there was nothing."""
    if reference is None:
        return labels
    one, other = Grid.of(labels), Grid.of(reference)
    same = one.size == other.size and np.allclose(one.matrix, other.matrix) and np.allclose(one.origin, other.origin)
    if same:
        labels.CopyInformation(reference)  # equal but for rounding
        return labels
    return sitk.Resample(labels, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write an image, compressed where the format can. Raises `UserError` (code `output`) when it cannot."""
    with atomic(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Where to write a file so that it appears at `path` complete or not at all, with what is written beside it.

    The name stays the same, since formats of two files hold it. Raises `UserError` (code `output`) when it cannot
    be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            yield partial
            for other in sorted(partial.parent.iterdir()):
                if other != partial:
                    other.replace(path.with_name(other.name))
            partial.replace(path)
    except (OSError, RuntimeError):
        raise UserError(
            "output", f"The file {path} cannot be written.", "Check the folder, its permissions and the file ending."
        ) from None


def read_header(path: str | Path, name: str) -> sitk.ImageFileReader:
    """The header of a three-dimensional image, read without its voxels. Raises `UserError` as `read_image`."""
    path = Path(path)
    if not path.is_file():
        raise UserError("file", f"The {name} {path} does not exist.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise UserError("file", f"The {name} {path} cannot be read as an image.") from None
    if reader.GetPixelID() in _COMPLEX:
        raise UserError("image", f"The {name} has complex values.", "Choose a volume of magnitudes.")
    if reader.GetDimension() != 3:
        raise UserError("image", f"The {name} is {reader.GetDimension()}-dimensional.", "Choose a 3D volume.")
    return reader


def read_scalar(path: str | Path, name: str) -> sitk.Image:
    """A three-dimensional image with one value a voxel, whatever the values are."""
    reader = read_header(path, name)
    if reader.GetNumberOfComponents() != 1:
        raise UserError(
            "image", f"The {name} has {reader.GetNumberOfComponents()} values a voxel.", "Choose a scalar volume."
        )
    try:
        return reader.Execute()
    except RuntimeError:
        raise UserError("file", f"The {name} {path} cannot be read as an image.") from None
