"""Generated pairs as files with their manifest: for trying out a training, and for testing one."""

from __future__ import annotations

import csv
from pathlib import Path

import SimpleITK as sitk

from inrreg.landmarks import Points, write_points
from inrreg.phantom.shifting import shifting


def write_phantoms(folder: Path, count: int, seed: int) -> Path:
    """Write `count` pairs (`inrreg.phantom.shifting`) with landmarks, those that are not there yet; their manifest.

    Raises OSError.
    """
    rows = []
    for number in range(count):
        name = f"{seed:04d}-{number:05d}"
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        ends = "fixed", "moving"
        files = {end: f"{name}/{end}.nrrd" for end in ends} | {f"{end}_landmarks": f"{name}/{end}.csv" for end in ends}
        if not all((folder / path).is_file() for path in files.values()):
            made = shifting(seed=100_000 * seed + number)
            for end in ends:
                sitk.WriteImage(getattr(made, end), str(own / f"{end}.nrrd"), useCompression=True)
                write_points(own / f"{end}.csv", Points(getattr(made, f"{end}_landmarks")))
        rows.append({"name": name, **files})
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return manifest
