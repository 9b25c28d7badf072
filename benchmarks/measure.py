"""One method on one pair, in a process of its own: its peak memory is then its own too.

    python -m benchmarks.measure FOLDER METHOD [--seed 0] [--threads 2] [--curve]

FOLDER holds a pair as `save` wrote it, METHOD is one of `peers.TOOLS` or a preset. Prints one line of JSON. The clock
runs from the images in memory to the displacement field on the fixed image's grid, for everybody; reading files and
importing libraries do not count for the time, but do for the memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks import peers
from benchmarks.data import Pair

IMAGES = ("fixed", "moving", "mask")
GIB_PER_UNIT = (1 if sys.platform == "darwin" else 1024) / 2**30
"""What the system counts a process's largest memory in."""
POINTS = ("fixed_landmarks", "moving_landmarks", "region")


def save(pair: Pair, folder: Path) -> Path:
    """Write a pair into a new folder named after it, below `folder`."""
    own = folder / pair.name
    own.mkdir()
    for name in IMAGES:
        sitk.WriteImage(getattr(pair, name), str(own / f"{name}.mha"))
    np.savez(own / "points.npz", **{name: getattr(pair, name) for name in POINTS})
    return own


def load(folder: Path) -> Pair:
    """The pair that `save` wrote."""
    images = {name: sitk.ReadImage(str(folder / f"{name}.mha")) for name in IMAGES}
    with np.load(folder / "points.npz") as points:
        return Pair(folder.name, **images, **points)


def in_own_process(folder: Path, method: str, seed: int, threads: int, *, curve: bool = False) -> dict[str, Any]:
    """The measurement, from a fresh process. Exits with its last words where it fails."""
    call = [sys.executable, "-m", "benchmarks.measure", str(folder), method, f"--seed={seed}", f"--threads={threads}"]
    # ITK reads its number of threads once, before anything of ours runs
    environment = os.environ | {peers.THREADS_VARIABLE: str(threads)}
    done = subprocess.run(call + ["--curve"] * curve, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{method} failed on {folder.name}.")
    return json.loads(done.stdout.splitlines()[-1])


def measure(pair: Pair, method: str, seed: int, threads: int) -> dict[str, Any]:
    """Seconds, peak GiB, errors in mm and regularity of one run."""
    if method in peers.TOOLS:
        displacement, seconds = peers.TOOLS[method](pair.fixed, pair.moving, threads)
    else:
        import torch

        from benchmarks.ours import register
        from inrreg.problem import Problem

        torch.set_num_threads(threads)
        displacement, seconds = register(Problem(pair.fixed, pair.moving, seed=seed), method)
    memory = peak_memory()
    from inrreg.metrics import jacobian_determinant, jacobian_summary
    from inrreg.transforms import DisplacementGrid

    field = DisplacementGrid.of(displacement)
    figures = by_region(pair, field.map(pair.fixed_landmarks))
    determinant = jacobian_determinant(field.vectors, pair.fixed)
    regularity = jacobian_summary(determinant, sitk.GetArrayFromImage(pair.mask))
    row = {"pair": pair.name, "method": method, "seed": seed, **figures, "seconds": seconds, "memory": memory}
    return row | {name: regularity[name] for name in ("folding", "sd_log")}


def by_region(pair: Pair, mapped: np.ndarray) -> dict[str, float]:
    """Mean error in mm of the mapped fixed landmarks in each region, and `overall`, the mean of these."""
    errors = np.linalg.norm(mapped - pair.moving_landmarks, axis=1)
    figures = {str(region): float(errors[pair.region == region].mean()) for region in np.unique(pair.region)}
    return figures | {"overall": float(np.mean(list(figures.values())))}


def peak_memory() -> float:
    """The most memory that this process has held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * GIB_PER_UNIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--curve", action="store_true", help="the error in the course of the run instead")
    options = parser.parse_args()
    pair = load(options.folder)
    sys.stdout, out = sys.stderr, sys.stdout  # libraries print
    if options.curve:
        from benchmarks.curve import curve

        row = {"curve": curve(pair, options.method, options.seed, options.threads)}
    else:
        row = measure(pair, options.method, options.seed, options.threads)
    print(json.dumps(row), file=out)


if __name__ == "__main__":
    main()
