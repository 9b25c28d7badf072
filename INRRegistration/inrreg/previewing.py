"""A look at a registration while it is optimized: coarse displacement fields in a file, for a small share of the time.

They show the whole way from fixed to moving, as `displacement.nrrd` does, on a grid as fine as its cost allows. Each
replaces the file, so that whoever reads it sees the newest one complete, and none waits for a reader.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.optimization import Emit
from inrreg.problem import Problem
from inrreg.transforms import PointMap

SHARE = 0.02
"""Of the time since the first step, what previews may cost."""
INTERVAL = 0.3
"""Least seconds between two."""
FEWEST, FIRST, MOST = 1_000, 4_000, 60_000
"""Points of the grid over the fixed image: at least, in the first preview, which tells what a point costs, at most."""
FADE = 3.0
"""Width of the fade beyond the fixed image, in displacements as large as the last preview's largest."""


class Preview:
    """Writes fields into `path` and announces each as the event `preview`."""

    def __init__(self, path: Path, problem: Problem, before: tuple[PointMap, ...], emit: Emit) -> None:
        self.count, self.seconds = 0, 0.0
        """Previews written, and what they have cost."""
        self._path, self._problem, self._before, self._emit = Path(path), problem, before, emit
        self._begun = self._last = time.perf_counter()
        self._points, self._reach = FIRST, float(problem.grid.extent.max()) / 12

    def look(self, field: Field, stage_ends: bool = False) -> None:
        """Write a preview where it is time for one: to be called between steps."""
        start = time.perf_counter()
        if (start - self._last < INTERVAL and not stage_ends) or self.seconds > SHARE * (start - self._begun):
            return
        with contextlib.suppress(OSError):  # a reader has the file open, or the disk is full: nothing depends on it
            self._write(field)
            self._emit("preview", {"path": str(self._path.absolute())})
        self._last = time.perf_counter()
        self.count += 1
        self.seconds += self._last - start
        affordable = self._points * SHARE * INTERVAL / max(self._last - start, 1e-4)
        self._points = int(np.clip(affordable, FEWEST, MOST))

    def __str__(self) -> str:
        share = self.seconds / max(1e-6, time.perf_counter() - self._begun)
        return f"{self.count} previews took {self.seconds:.2f} s, {share:.1%} of the optimization"

    def _write(self, field: Field) -> None:
        grid = self._problem.grid
        target = max(2.0, float(np.cbrt(grid.extent.prod() / self._points)))
        cells = np.maximum(1, np.ceil(grid.extent / np.maximum(target, grid.spacing)))
        spacing = grid.extent / cells
        margins = np.ceil(FADE * self._reach / spacing) * spacing
        made = Deformation(field, self._problem.frame, grid, self._before, np.stack([margins, margins]), spacing)
        image = made.displacement_field()
        self._reach = max(1.0, float(np.abs(sitk.GetArrayViewFromImage(image)).max()))
        partial = self._path.with_name("partial-" + self._path.name)
        try:
            sitk.WriteImage(image, str(partial), False)
        except RuntimeError:
            raise OSError(f"{partial} cannot be written") from None
        partial.replace(self._path)
