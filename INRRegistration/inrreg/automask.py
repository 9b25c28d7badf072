"""Masks by classical means: the body in any image, the lungs in a CT. Thresholds, components, closing, filling.

Plain arithmetic, no learning: a table or arms that touch the body stay in its mask, and what takes the air out of a
lung (an effusion, a tumour at its border) leaves the lungs' mask. Look at a mask before trusting it.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid
from inrreg.images import read_mask
from inrreg.intensities import is_ct
from inrreg.protocol import AUTOMATIC_MASKS, UserError

SKIN = -350.0
"""HU between air and fat."""
LUNG = -400.0
"""HU between aerated lung and soft tissue."""

_SPACING = 3.0
"""mm of the grid on which masks are found: none needs a finer one, and noise averages out."""
_DETACH = 5.0
"""mm: half the width of what an opening parts from the body, such as a table's edge or a blanket."""
_WALL = 6.0
"""mm below the skin in which no lung lies."""
_VESSELS = 6.0
"""mm: half the width of vessels and airways that a closing takes into the lungs."""
_LEAST_BODY = 0.02
"""Share of the image: a smaller body is none."""
_LEAST_LUNG, _LEAST_VOLUME = 0.2, 100_000.0
"""Of the largest lung, and mm³ of that: smaller parts are bowel gas, or the trachea."""


def mask(path: str, name: str, image: sitk.Image | None) -> sitk.Image:
    """The mask in a file, or the one of `AUTOMATIC_MASKS` made from the image; 0 and 1 on the image's grid.

    A file's mask keeps its own grid where no image is given. Raises `UserError` (code `mask`) where it is empty,
    nothing is found, or there is no image to look in.
    """
    if path not in AUTOMATIC_MASKS:
        return read_mask(path, name, image)
    if image is None:
        raise UserError("mask", f"The {name} is to be found in an image, but there is none.", "Give the image.")
    return lungs(image) if path == "lungs" else body(image)


def body(image: sitk.Image) -> sitk.Image:
    """The body and all it encloses: above `SKIN` in CT, else above Otsu's threshold; 0 and 1 on the image's grid.

    Raises `UserError` (code `mask`) where nothing of size is found.
    """
    coarse = _coarse(image)
    return _fine(_body(coarse), coarse, image)


def lungs(image: sitk.Image) -> sitk.Image:
    """The lungs of a CT with their vessels: the large parts of the air in the body; 0 and 1 on the image's grid.

    Raises `UserError` (code `mask`) for what is no CT, and where no lungs are found.
    """
    coarse = _coarse(image)
    array = sitk.GetArrayFromImage(coarse)
    if not is_ct(array):
        raise UserError("mask", "Lungs are found in CT only, and this image is none.", "Use 'auto' for the body.")
    inside = _shrunk(_body(coarse), _WALL, coarse)
    parts, sizes = _components((array < LUNG) & inside, coarse)
    if not sizes.size or sizes[0] * np.prod(coarse.GetSpacing()) < _LEAST_VOLUME:
        raise UserError("mask", "No lungs are found in the image.", "Draw a mask, or use 'auto' for the body.")
    found = np.zeros(array.shape, bool)
    for number in range(1, 1 + int((sizes >= _LEAST_LUNG * sizes[0]).sum())):
        # One by one, or the closing would join the lungs where they nearly touch before the heart.
        closed = _shrunk(_grown(parts == number, _VESSELS, coarse), _VESSELS, coarse)
        found |= sitk.GetArrayFromImage(sitk.BinaryFillhole(_image(closed, coarse))) > 0
    return _fine(found & inside, coarse, image)


def _body(coarse: sitk.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(coarse)
    if is_ct(array):
        bright = array > SKIN
    else:
        # Of the root, since near a coil the body is many times brighter than far from it.
        low, high = np.percentile(array, [0.1, 99.5])
        root = _image(np.sqrt(np.clip(array - low, 0, high - low)), coarse)
        bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(root, 0, 1)) > 0
    parts, sizes = _components(_shrunk(bright, _DETACH, coarse), coarse)
    if not sizes.size or sizes[0] < _LEAST_BODY * array.size:
        raise UserError("mask", "No body is found in the image.", "Draw a mask, or go without one.")
    found = _grown(parts == 1, _DETACH, coarse) & bright
    found = _shrunk(_grown(found, 2 * _DETACH, coarse), 2 * _DETACH, coarse)
    for axis in range(3):  # slice by slice: where the image ends, lungs are open to the outside
        slices = [
            sitk.BinaryFillhole(sitk.GetImageFromArray(part)) for part in np.moveaxis(found, axis, 0).astype("u1")
        ]
        found = np.moveaxis(np.stack([sitk.GetArrayFromImage(part) > 0 for part in slices]), 0, axis)
    return found


def _coarse(image: sitk.Image) -> sitk.Image:
    grid = Grid.of(image).resampled(_SPACING)
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), _SPACING / 3)
    onto = grid.image(np.zeros(grid.size[::-1], np.uint8))
    return sitk.Resample(smooth, onto, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)


def _fine(found: np.ndarray, coarse: sitk.Image, image: sitk.Image) -> sitk.Image:
    share = _image(found.astype(np.float32), coarse)
    fine = sitk.Resample(share, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True) > 0.5
    fine.CopyInformation(image)
    return fine


def _components(mask: np.ndarray, like: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a mask numbered from the largest, and their sizes in voxels."""
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(_image(mask, like)), sortByObjectSize=True)
    labels = sitk.GetArrayFromImage(parts)
    return labels, np.bincount(labels.ravel())[1:]


def _grown(mask: np.ndarray, distance: float, like: sitk.Image) -> np.ndarray:
    """What lies within `distance` mm of the mask. Nothing comes in from beyond the image."""
    if mask.all() or not mask.any():
        return mask
    away = sitk.SignedMaurerDistanceMap(_image(mask, like), squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(away) <= distance


def _shrunk(mask: np.ndarray, distance: float, like: sitk.Image) -> np.ndarray:
    """What of the mask lies farther than `distance` mm from what is not mask; the image's border does not count."""
    return ~_grown(~mask, distance, like)


def _image(array: np.ndarray, like: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    image.CopyInformation(like)
    return image
