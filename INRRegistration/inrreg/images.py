"""Reading and writing images: what is not a usable volume ends here, in one sentence."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg import protocol
from inrreg.abandoned import beside, remove_abandoned
from inrreg.geometry import Grid
from inrreg.intensities import check
from inrreg.memory import exhausted, is_exhausted
from inrreg.nifti import is_finite
from inrreg.protocol import UserError

_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
_SMALLEST = 4
"""Voxels along each axis that smoothing and resampling need."""
_LENGTHS = (0.1, 3000.0)
"""mm: no volume is longer or shorter, but one whose spacing is not in mm; lattices of some mm would take all memory."""
_FINEST, _FLATTEST = 1e-5, 1e-3
"""Least spacing in mm, and least volume that the directions of the axes span."""
_FARTHEST = 1e6
"""mm from the origin of the world to an image's: beyond it, rounding shows."""
_MOST_LABEL = 2**31 - 1
MOST_VOXELS = 1 << 31
"""Of one image: voxels are counted in 32 bits."""
_TIGHTEST = 1100
"""How often a compressed file's size its content can be: deflate reaches 1032."""
_COMPRESSED_APART = (".mhd", ".nhdr", ".hdr", ".dcm")
"""Endings of files whose voxels lie elsewhere, or may be compressed beyond that."""


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
    _check_geometry(Grid.of(image), name)
    return image


def _check_geometry(grid: Grid, name: str) -> None:
    """Raise `UserError` (code `image`) for a grid that is not one of mm in a room."""
    length = float((np.array(grid.size) * grid.spacing).max())
    if not _LENGTHS[0] <= length <= _LENGTHS[1]:
        raise UserError(
            "image", f"The {name} image is {length:.3g} mm long.", "Check its voxel spacing, which must be in mm."
        )
    if not (np.abs(grid.origin) <= _FARTHEST).all():
        raise UserError("image", f"The {name} image lies too far from the origin.", "Check its position.")
    if not (grid.spacing >= _FINEST).all() or not abs(np.linalg.det(grid.direction)) > _FLATTEST:
        raise UserError("image", f"The {name} image has axes that span no volume.", "Check its spacing and directions.")


def read_mask(path: str | Path, name: str, reference: sitk.Image | None = None) -> sitk.Image:
    """A mask as 0 and 1 on the reference's grid, or its own: any value but 0 is inside.

    Raises `UserError` (code `mask`) when nothing of it is set within the reference image.
    """
    mask = on_grid(sitk.Cast(_countable(read_scalar(path, name), name) != 0, sitk.sitkUInt8), reference)
    if not sitk.GetArrayViewFromImage(mask).any():
        raise UserError(
            "mask", f"The {name} is empty within its image.", "Choose a mask that covers what is to be registered."
        )
    return mask


def read_labels(path: str | Path, name: str, reference: sitk.Image | None = None) -> sitk.Image:
    """A label image on the reference's grid, or its own. Raises `UserError` (code `labels`) if empty."""
    labels = on_grid(sitk.Cast(_countable(read_scalar(path, name), name), sitk.sitkInt32), reference)
    if not sitk.GetArrayViewFromImage(labels).any():
        raise UserError("labels", f"The {name} have no label within their image.", "Choose other labels.")
    return labels


def _countable(image: sitk.Image, name: str) -> sitk.Image:
    """The image, of values that 32 bits can number. Raises `UserError` (code `image`) for any other."""
    values = sitk.GetArrayViewFromImage(image)
    if not (np.isfinite(values).all() and values.min() >= -_MOST_LABEL and values.max() <= _MOST_LABEL):
        raise UserError("image", f"The {name} has values that number nothing.", "Choose a mask or label image.")
    return image


def on_grid(labels: sitk.Image, reference: sitk.Image | None) -> sitk.Image:
    """A mask or label image on another image's grid, by nearest neighbour; 0 where there was nothing."""
    if reference is None:
        return labels
    if Grid.of(labels).equals(Grid.of(reference)):
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

    What a killed process left of an earlier attempt goes first. The name stays the same, since formats of two files
    hold it. Raises `UserError` (code `output`) when it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        with beside(path) as folder:
            partial = folder / path.name
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
    if path.is_dir():
        hint = "Name one file; a DICOM series has to be saved as one first, by Slicer for instance."
        raise UserError("file", f"The {name} {path} is a folder.", hint)
    if not path.is_file():
        hint = f"Name a file, or one of: {', '.join(protocol.AUTOMATIC_MASKS)}." if "mask" in name else ""
        raise UserError("file", f"The {name} {path} does not exist.", hint)
    if not is_finite(path):
        hint = "Write the file again with the program that made it."
        raise UserError("image", f"The header of the {name} {path} holds numbers that are infinite or none.", hint)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise UserError("file", f"The {name} {path} cannot be read as an image.") from None
    _check_size(reader, path, name)
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
    return read_voxels(reader, name)


def read_voxels(reader: sitk.ImageFileReader, name: str) -> sitk.Image:
    """The image of a header that was read. Raises `UserError` (code `file`, or `memory`) where that fails."""
    try:
        return reader.Execute()
    except (RuntimeError, MemoryError) as error:
        if is_exhausted(error):
            raise exhausted(error) from None
        raise UserError("file", f"The {name} {reader.GetFileName()} cannot be read as an image.") from None


def _check_size(reader: sitk.ImageFileReader, path: Path, name: str) -> None:
    """Raise `UserError` for a header that claims more than can be, before memory is taken for it."""
    voxels = math.prod(reader.GetSize())
    if not 0 < voxels <= MOST_VOXELS:
        size = " x ".join(map(str, reader.GetSize()))
        raise UserError("image", f"The {name} has {size} voxels, which are too many.", "Crop or resample it.")
    claimed = voxels * reader.GetNumberOfComponents()
    if path.suffix.lower() not in _COMPRESSED_APART and claimed > _TIGHTEST * path.stat().st_size:
        raise UserError("file", f"The {name} {path} is cut short or damaged: its header claims more than it holds.")
