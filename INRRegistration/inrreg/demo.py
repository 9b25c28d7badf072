"""The built-in phantom as the files of a job."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from inrreg.landmarks import Points, write_points
from inrreg.phantom import thorax
from inrreg.protocol import Job, UserError


def write_phantom(folder: Path, *, quick: bool = False) -> Job:
    """Write a phantom pair, 25 mm of motion, with masks, lobes and landmarks; the job that registers it.

    Raises `UserError` (code `output`) where it cannot be written.
    """
    size, spacing = ((96, 80, 96), 3.0) if quick else ((144, 120, 144), 2.0)
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        phantom = thorax(size, (spacing,) * 3, seed=0, amplitude=25.0)
        for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
            files[name] = str(folder / f"{name}.nrrd")
            sitk.WriteImage(getattr(phantom, name), files[name], useCompression=True)
    except (OSError, RuntimeError):
        raise UserError(
            "output", f"The folder {folder} cannot be written.", "Check its path, permissions and the free space."
        ) from None
    for name in ("fixed_landmarks", "moving_landmarks"):
        files[name] = str(folder / f"{name}.csv")
        write_points(files[name], Points(getattr(phantom, name)))
    return Job(**files)
