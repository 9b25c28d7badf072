"""The course of a flow in time, as a sequence of coarse displacement fields that a program can play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg import protocol
from inrreg.deformation import Deformation

TIMES = tuple(n / 5 for n in range(6))
"""From where the moving image lies at first (0) to where the registration takes it (1)."""
BETWEEN_NODES = 0.15
"""Largest 99th percentile, in mm, of what interpolation over the coarse grid changes at the end."""
SPACINGS = (8.0, 5.5, 4.0)
"""Spacings of the coarse grid, in mm, of which the first that keeps to the bound, or the last, is taken."""


def save(folder: Path, deformation: Deformation) -> None:
    """Write `time.json` and, all on one grid, a displacement field for each of `TIMES`. Raises OSError.

    Each is the whole way from fixed to moving at its time, as `displacement.nrrd` is at the end: at 0 the prealignment
    and the initial transform alone.
    """
    fields = []
    for number, (time, each) in enumerate(zip(TIMES, _course(deformation), strict=True)):
        name = f"time_{number:02}.nrrd"
        try:
            sitk.WriteImage(each.displacement_field(), str(folder / name))
        except RuntimeError:
            raise OSError(f"{folder} cannot be written") from None
        fields.append({"time": time, "file": name})
    protocol.write_json(folder / "time.json", {"version": protocol.VERSION, "fields": fields})


def _course(deformation: Deformation) -> list[Deformation]:
    for target in SPACINGS:
        spacing = deformation.fitting(target)
        if np.quantile(deformation.interpolation_errors(spacing), 0.99) <= BETWEEN_NODES:
            break
    return deformation.alike([deformation.field.at_time(time) for time in TIMES], spacing)
