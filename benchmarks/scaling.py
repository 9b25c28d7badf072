"""Time and peak memory of `inrreg register` against voxels, random points, lattice nodes and threads.

    python -m benchmarks.scaling [--sweeps voxels,points,nodes,threads] [--threads 2] [--output DIR]

A generated thorax, resampled to each size, is registered by the command itself in a process of its own: memory is the
most that this process held, libraries, reading and writing included; seconds are its whole run, wall clock, and within
it those of the registration, as its own metrics tell them. A run that several sweeps share is done once. Prints a
table, writes scaling.json and scaling.png after each sweep. Fails where the largest images need more than `BOUND`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.measure import GIB_PER_UNIT
from inrreg import protocol
from inrreg.geometry import Grid
from inrreg.phantom import thorax

SIZES = ((128, 128, 100), (256, 256, 200), (512, 512, 400))
"""Voxels of the images; nodes and threads are varied on the middle one, points on the first."""
EXTENT = (410.0, 410.0, 400.0)
"""Their size in mm, that of a wide CT, to which the phantom is stretched: so large are the lattices then."""
BOUND = 6.0
"""GiB within which the largest images must be registered."""
POINTS = (3_000, 10_000, 30_000)
NODES = (0.7, 1.0, 1.5)
"""Factors on the preset's node spacing."""
SHORT = "steps=5,5,5"
"""So few steps show the cost of points as well as all would."""


Run = tuple[Any, ...]
"""Size, preset, threads and assignments of one call."""
Rows = list[dict[str, Any]]


def write_pair(folder: Path, size: tuple[int, int, int]) -> tuple[Path, Path]:
    """A thorax of that many voxels (x, y, z) and its other respiratory state, int16 with noise, as files."""
    paths = folder / "fixed.nrrd", folder / "moving.nrrd"
    if folder.is_dir():
        return paths
    folder.mkdir()
    phantom, random = thorax(seed=0), np.random.default_rng(0)
    grid = Grid(size, np.zeros(3), np.diag(np.array(EXTENT) / size))
    for path, image in zip(paths, (phantom.fixed, phantom.moving), strict=True):
        spacing = np.multiply(image.GetSize(), image.GetSpacing()) / size
        like = image.GetOrigin(), spacing.tolist(), image.GetDirection()
        fine = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, *like, -1000, sitk.sitkInt16)
        array = sitk.GetArrayFromImage(fine)
        for part in array:  # slice by slice
            part += random.normal(0, 20, part.shape).astype(np.int16)
        sitk.WriteImage(grid.image(array), str(path))
    return paths


def register(pair: tuple[Path, Path], preset: str, threads: int, *assignments: str) -> dict[str, float]:
    """One run of the command. Exits with its words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result"
        call = [
            sys.executable,
            "-c",
            "from inrreg.cli import main; main()",
            "register",
            "--json",
            f"--threads={threads}",
            f"--preset={preset}",
        ]
        call += [f"--fixed={pair[0]}", f"--moving={pair[1]}", f"--output={output}", "--device=cpu"]
        for assignment in assignments:
            call += ["--set", assignment]
        start = time.perf_counter()
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"inrreg register failed with exit code {process.returncode}.")
        seconds = protocol.read_json(output / "metrics.json")["seconds"]
    return {"wall": wall, "seconds": seconds, "memory": usage.ru_maxrss * GIB_PER_UNIT}


def planned(name: str, threads: int) -> list[tuple[float, Run]]:
    """The runs of one sweep, each with its variable. Exits with a sentence where there is no such sweep."""
    small, middle, _ = SIZES
    if name == "voxels":
        return [(float(np.prod(size)), (size, "fast", threads)) for size in SIZES]
    if name == "points":
        return [(float(n), (small, "dual-light", threads, SHORT, f"points={n}")) for n in POINTS]
    if name == "nodes":
        spacing, runs = protocol.preset("fast").settings.node_spacing, []
        for factor in NODES:
            scaled = "node_spacing=" + ",".join(f"{factor * value:.3g}" for value in spacing)
            runs.append((1 / factor**3, (middle, "fast", threads, *[scaled] * (factor != 1))))
        return runs
    if name == "threads":
        cores = os.cpu_count() or 1
        counts = sorted({1 << n for n in range(cores.bit_length()) if 1 << n <= cores} | {cores})
        return [(float(n), (middle, "fast", n)) for n in counts]
    raise SystemExit(f"There is no sweep '{name}'. Choose of: voxels, points, nodes, threads.")


def sweep(name: str, folder: Path, threads: int, done: dict[Run, dict[str, float]]) -> Rows:
    """The runs of one sweep: its variable `x`, seconds and GiB; `done` are those that earlier sweeps made."""
    rows = []
    for x, run in planned(name, threads):
        size, preset, *rest = run
        if run not in done:
            done[run] = register(write_pair(folder / "x".join(map(str, size)), size), preset, *rest)
        rows.append(row := {"x": x, "preset": preset, **done[run]})
        print(
            f"{name:8} {x:13,.6g}  {preset:12}{row['seconds']:8.1f} s of {row['wall']:8.1f} s {row['memory']:7.2f} GiB",
            flush=True,
        )
    return rows


def _short(value: float) -> str:
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def plot(sweeps: dict[str, Rows], path: Path) -> None:
    """Seconds and GiB against each sweep's variable."""
    from matplotlib.figure import Figure

    labels = {"nodes": "nodes, of the preset's", "points": "random points a step"}
    figure = Figure(figsize=(3.2 * len(sweeps), 5.5), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(2, len(sweeps), squeeze=False).T, sweeps.items(), strict=True):
        x = [row["x"] for row in rows]
        axes[0].plot(x, [row["wall"] for row in rows], "o-", label="whole command")
        axes[0].plot(x, [row["seconds"] for row in rows], "o-", label="registration")
        axes[1].plot(x, [row["memory"] for row in rows], "o-")
        for each, label in zip(axes, ("seconds", "peak memory (GiB)"), strict=True):
            each.set(xlabel=labels.get(name, name), ylabel=label, xscale="log")
            each.set_xticks(x, [_short(value) for value in x])
            each.minorticks_off()
            each.set_ylim(bottom=0)
            each.grid(alpha=0.3)
        axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", default="voxels,points,nodes,threads")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sweeps: dict[str, Rows] = {}
    done: dict[Run, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.sweeps.split(","):
            sweeps[name] = sweep(name, Path(scratch), options.threads, done)
            protocol.write_json(options.output / "scaling.json", {"threads": options.threads, "sweeps": sweeps})
            plot(sweeps, options.output / "scaling.png")
    most = max((row["memory"] for row in sweeps.get("voxels", [])), default=0.0)
    if most > BOUND:
        raise SystemExit(f"Failed: {most:.2f} GiB of memory, more than {BOUND:g}.")


if __name__ == "__main__":
    main()
