"""From scanner values to what a network compares: clipped, scaled to about 0 to 1, checked."""

from __future__ import annotations

import numpy as np

from inrreg.protocol import UserError

CT_WINDOW = (-1000.0, 500.0)
"""Hounsfield units that a registration of soft parts needs; padding (-1024, -2000, -3024) becomes air."""

_LARGEST = 1e30
"""Beyond it, sums of squares overflow."""


def check(array: np.ndarray, name: str) -> None:
    """Raise `UserError` (code `image`) for an image with NaN, infinite or only equal values."""
    if not np.isfinite(array).all():
        raise UserError(
            "image", f"The {name} image has NaN or infinite values.", "Replace them (for CT by -1024) and try again."
        )
    if max(abs(float(array.min())), abs(float(array.max()))) > _LARGEST:
        raise UserError("image", f"The {name} image has values beyond {_LARGEST:g}.", "Check how it was made.")
    if array.min() == array.max():
        raise UserError("image", f"The {name} image has the same value everywhere.", "Choose another volume.")


def is_ct(array: np.ndarray) -> bool:
    """Whether values look like Hounsfield units: air well below zero over a part of the image."""
    return bool(np.mean(array < -300) > 0.01)


def normalize(array: np.ndarray) -> np.ndarray:
    """Values as float32 from 0 to about 1.

    CT is clipped to `CT_WINDOW`. Anything else is scaled from its 0.1th to its 99.5th percentile and clipped
    there, so that a few bright vessels or artifacts do not decide the scale; where most of the image is one
    value (a background), the percentiles are those of the rest.
    """
    array = array.astype(np.float32)
    if is_ct(array):
        low, high = CT_WINDOW
    else:
        foreground = array[array != np.median(array)] if np.mean(array == np.median(array)) > 0.5 else array
        low, high = np.percentile(foreground, [0.1, 99.5])
        if low == high:
            low, high = array.min(), array.max()
        low = min(low, np.median(array))
    low, high = float(low), float(high)  # numpy's own numbers would make the image float64
    np.clip(array, low, high, out=array)
    array -= low
    array /= high - low
    return array
