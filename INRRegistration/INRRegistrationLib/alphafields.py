"""What alpha does to a result, and its coarse displacement fields, interpolated without torch. NumPy alone."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrreg.protocol import UserError

from . import results

FILE = "alpha.json"
LARGEST = 16_000_000
"""Bytes of packed fields above which every second node of a grid has to do."""


@dataclass(frozen=True)
class AlphaFields:
    """Fields of one result at some alphas, all on one grid, and curves over alpha by name, those of `alpha.json`."""

    chosen: float
    curves: dict[str, list[float]]
    alphas: np.ndarray
    """(A,), increasing."""
    vectors: np.ndarray
    """RAS displacements from fixed to moving space, float32 (A, k, j, i, 3)."""
    matrix: np.ndarray
    """4 x 4, from the grid's indices to RAS."""

    def interpolate(self, alpha: float, out: np.ndarray) -> None:
        """Write the field at `alpha`, clamped to the trained range, into `out` (k, j, i, 3) float32."""
        high, part = self._between(alpha)
        for below, above, slab in zip(self.vectors[high - 1], self.vectors[high], out, strict=True):
            # A slab stays in the processor's cache: memory is what takes the time.
            np.subtract(above, below, out=slab)
            slab *= part
            slab += below

    def _between(self, alpha: float) -> tuple[int, np.float32]:
        """The number of the field above `alpha`, and how near to it, from the one below, `alpha` is."""
        high = int(np.clip(np.searchsorted(self.alphas, alpha), 1, len(self.alphas) - 1))
        below, above = self.alphas[high - 1 : high + 1]
        return high, np.float32(np.clip((alpha - below) / (above - below), 0, 1))

    def errors(self, fixed: np.ndarray, moving: np.ndarray) -> list[float]:
        """Mean target registration error, mm, of landmarks (N, 3) RAS at each alpha of the curves."""
        index = (fixed - self.matrix[:3, 3]) @ np.linalg.inv(self.matrix[:3, :3]).T
        low = np.clip(np.floor(index), 0, np.array(self.vectors.shape[3:0:-1]) - 2).astype(int)
        part = np.clip(index - low, 0, 1)
        moves = np.zeros((len(self.alphas), len(fixed), 3))
        for corner in np.ndindex(2, 2, 2):
            i, j, k = (low + corner).T
            moves += np.where(corner, part, 1 - part).prod(1)[:, None] * self.vectors[:, k, j, i]
        found = []
        for alpha in self.curves["alpha"]:
            high, share = self._between(alpha)
            mapped = fixed + moves[high - 1] + share * (moves[high] - moves[high - 1])
            found.append(float(np.linalg.norm(mapped - moving, axis=1).mean()))
        return found

    def figures(self, alpha: float) -> dict[str, float]:
        """The curves' values at `alpha`, interpolated linearly."""
        where = self.curves["alpha"]
        return {name: float(np.interp(alpha, where, row)) for name, row in self.curves.items() if name != "alpha"}

    def pack(self) -> bytes:
        """Everything as one compressed file of bounded size: half precision, and a coarser grid where it must be."""
        step = 1
        while self.vectors[:, ::step, ::step, ::step].nbytes // 2 > LARGEST:
            step *= 2
        matrix = self.matrix @ np.diag([step, step, step, 1.0])
        vectors = self.vectors[:, ::step, ::step, ::step].astype(np.float16)
        described = json.dumps({"chosen": self.chosen, "curves": self.curves})
        file = io.BytesIO()
        np.savez_compressed(file, described=described, alphas=self.alphas, vectors=vectors, matrix=matrix)
        return file.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> AlphaFields:
        """What `pack` made. Raises `UserError` (code `result`) for anything else."""
        try:
            with np.load(io.BytesIO(data)) as file:
                described = json.loads(str(file["described"]))
                vectors = file["vectors"].astype(np.float32)
                return cls(described["chosen"], described["curves"], file["alphas"], vectors, file["matrix"])
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise UserError("result", f"The fields in the scene are damaged ({error}).", "Register again.") from None


def load(folder: Path) -> AlphaFields | None:
    """Those of a result folder; None for one that is not conditioned. Raises `UserError`. Safe off the GUI thread."""
    described = Path(folder) / FILE
    if not described.is_file():
        return None
    data: dict[str, Any] = json.loads(described.read_text(encoding="utf-8"))
    grids = [results.read_grid(Path(folder) / entry["file"]) for entry in data["fields"]]
    alphas = np.array([entry["alpha"] for entry in data["fields"]], float)
    vectors = np.stack([grid.astype(np.float32, copy=False) for grid, _ in grids])
    return AlphaFields(data["chosen"], data["curves"], alphas, vectors, grids[0][1])
