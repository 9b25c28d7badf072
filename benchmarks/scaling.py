"""Time and peak memory of `inrreg register` against voxels, random points, lattice nodes and threads.

    python -m benchmarks.scaling [--sweeps voxels,points,nodes,threads] [--threads 2] [--output DIR]

A generated thorax, resampled to each size, is registered by the command itself in a process of its own: memory is the
most that this process held, libraries, reading and writing included; seconds are its whole run, wall clock, and within
it those of the registration, as its own metrics tell them. Prints a table, writes scaling.json and scaling.png.
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
from inrreg.phantom import thorax

SIZES = ((128, 128, 100), (256, 256, 200), (512, 512, 400))
"""Voxels of the images; the middle one is what the other sweeps register."""
POINTS = (3_000, 10_000, 30_000)
NODES = (0.7, 1.0, 1.5, 2.0)
"""Factors on the preset's node spacing."""
SHORT = "steps=10,10,10"
"""So few steps show the cost of points as well as all would."""


def write_pair(folder: Path, size: tuple[int, int, int]) -> tuple[Path, Path]:
    """A thorax of that many voxels (x, y, z) and its other respiratory state, int16 with noise, as files."""
    paths = folder / "fixed.nrrd", folder / "moving.nrrd"
    if folder.is_dir():
        return paths
    folder.mkdir()
    phantom, random = thorax(seed=0), np.random.default_rng(0)
    for path, image in zip(paths, (phantom.fixed, phantom.moving), strict=True):
        extent = np.multiply(image.GetSize(), image.GetSpacing())
        spacing = (extent / size).tolist()
        like = image.GetOrigin(), spacing, image.GetDirection()
        fine = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, *like, -1000, sitk.sitkInt16)
        array = sitk.GetArrayFromImage(fine)
        for part in array:  # slice by slice
            part += random.normal(0, 20, part.shape).astype(np.int16)
        sitk.WriteImage(_like(array, fine), str(path))
    return paths


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


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


def sweep(name: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """The runs of one sweep: its variable `x`, seconds and GiB."""
    middle = SIZES[1]
    if name == "voxels":
        runs = [(float(np.prod(size)), size, "fast", threads, ()) for size in SIZES]
    elif name == "points":
        runs = [(float(n), middle, "dual-light", threads, (SHORT, f"points={n}")) for n in POINTS]
    elif name == "nodes":
        spacing = protocol.preset("fast").settings.node_spacing
        scaled = [",".join(f"{factor * value:.3g}" for value in spacing) for factor in NODES]
        runs = [
            (1 / factor**3, middle, "fast", threads, (f"node_spacing={text}",))
            for factor, text in zip(NODES, scaled, strict=True)
        ]
    elif name == "threads":
        counts = sorted({1 << n for n in range((os.cpu_count() or 1).bit_length())} | {os.cpu_count() or 1})
        runs = [(float(n), middle, "fast", n, ()) for n in counts if n <= (os.cpu_count() or 1)]
    else:
        raise SystemExit(f"There is no sweep '{name}'. Choose of: voxels, points, nodes, threads.")
    rows = []
    for x, size, preset, count, assignments in runs:
        pair = write_pair(folder / "x".join(map(str, size)), size)
        rows.append(row := {"x": x, "preset": preset, **register(pair, preset, count, *assignments)})
        print(
            f"{name:8} {x:13,.6g}  {preset:12}{row['seconds']:8.1f} s of {row['wall']:8.1f} s {row['memory']:7.2f} GiB",
            flush=True,
        )
    return rows


def plot(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
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
    with tempfile.TemporaryDirectory() as scratch:
        sweeps = {name: sweep(name, Path(scratch), options.threads) for name in options.sweeps.split(",")}
    protocol.write_json(options.output / "scaling.json", {"threads": options.threads, "sweeps": sweeps})
    plot(sweeps, options.output / "scaling.png")


if __name__ == "__main__":
    main()
