"""Our methods beside elastix and ANTs on the liver pairs, all in one run with equal threads.

    python -m benchmarks.liver [--methods fast,idir-light,dual-light,elastix,syn] [--seeds 0,1,2] [--output DIR]

The clock runs from the images in memory to the displacement field on the fixed image's grid, for everybody;
reading files and importing libraries do not count. Target registration errors are continuous, in mm, at the
expert landmarks: no method sees them. Prints a table, writes liver.json and liver.png (error over time).
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks import peers
from benchmarks.data import Pair, liver_pairs
from benchmarks.ours import register
from inrreg import protocol
from inrreg.metrics import jacobian_determinant, jacobian_summary
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.transforms import DisplacementGrid

PEERS = {"elastix": peers.elastix, "syn": peers.syn}
CURVE_EVERY = 1.0
"""Seconds of optimization between two points of a curve."""


def curve(pair: Pair, preset_name: str, seed: int) -> list[tuple[float, float]]:
    """(seconds, overall error in mm) in the course of one run; taking the errors stops the clock."""
    preset = protocol.preset(preset_name)
    problem = Problem(pair.fixed, pair.moving, seed=seed)
    x = torch.as_tensor(problem.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    points, paused, last = [], 0.0, -np.inf

    def look(kind: str, data: dict[str, Any]) -> None:
        nonlocal paused, last
        now = time.perf_counter()
        if kind == "progress" and now - last > CURVE_EVERY:
            u = run.field.dense(x).numpy() * problem.frame.scale
            elapsed = data["seconds"] - paused
            points.append((elapsed, overall(errors(pair, pair.fixed_landmarks + u), pair)))
            last = time.perf_counter()
            paused += last - now

    run = Run(look, seed=seed)
    importlib.import_module(f"inrreg.methods.{preset.method}").fit(problem, preset.settings, run)
    return points


def errors(pair: Pair, mapped: np.ndarray) -> np.ndarray:
    """Distance of each mapped landmark from where it belongs, (N,) mm."""
    return np.linalg.norm(mapped - pair.moving_landmarks, axis=1)


def overall(error: np.ndarray, pair: Pair) -> float:
    """Mean of the means inside and outside the liver, mm."""
    return float(np.mean([error[pair.region == region].mean() for region in ("inside", "outside")]))


def measure(pair: Pair, method: str, seed: int, threads: int) -> dict[str, Any]:
    """One run of one method on one pair."""
    if method in PEERS:
        displacement, seconds = PEERS[method](pair.fixed, pair.moving, threads)
    else:
        problem = Problem(pair.fixed, pair.moving, seed=seed)
        displacement, seconds = register(problem, method)
    field = DisplacementGrid.of(displacement)
    error = errors(pair, field.map(pair.fixed_landmarks))
    regularity = jacobian_summary(jacobian_determinant(field.vectors, pair.fixed), sitk.GetArrayFromImage(pair.mask))
    return {
        "pair": pair.name,
        "method": method,
        "seed": seed,
        "inside": float(error[pair.region == "inside"].mean()),
        "outside": float(error[pair.region == "outside"].mean()),
        "overall": overall(error, pair),
        "seconds": seconds,
        "folding": regularity["folding"],
        "sd_log": regularity["sd_log"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over pairs of each method, over seeds the mean and the worst."""
    heads = ("inside", "outside", "overall", "worst seed", "seconds", "of elastix", "det <= 0", "SD log det")
    lines = [f"{'method':14}" + "".join(f"{head:>12}" for head in heads)]
    elastix = [row["seconds"] for row in rows if row["method"] == "elastix"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        mean = {key: np.mean([row[key] for row in own]) for key in own[0] if isinstance(own[0][key], float)}
        seeds = {row["seed"] for row in own}
        worst = max(np.mean([row["overall"] for row in own if row["seed"] == seed]) for seed in seeds)
        ratio = f"{mean['seconds'] / np.mean(elastix):.2f}" if elastix else "-"
        cells = [f"{mean[key]:.2f}" for key in ("inside", "outside", "overall")]
        cells += [f"{worst:.2f}", f"{mean['seconds']:.1f}", ratio, f"{mean['folding']:.3%}", f"{mean['sd_log']:.3f}"]
        lines.append(f"{method:14}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    """Overall error over time, mean over pairs, with the peers' end points."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).add_subplot()
    for method, pairs in curves.items():
        ends = [points[-1][0] for points in pairs]
        times = np.linspace(max(points[0][0] for points in pairs), min(ends), 100)
        axes.plot(times, np.mean([np.interp(times, *zip(*points, strict=True)) for points in pairs], 0), label=method)
    for method in PEERS:
        if own := [row for row in rows if row["method"] == method]:
            x, y = np.mean([row["seconds"] for row in own]), np.mean([row["overall"] for row in own])
            axes.plot(x, y, "o", label=method)
    axes.set(xlabel="seconds", ylabel="overall target registration error (mm)", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="fast,idir-light,dual-light,elastix,syn")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    parser.add_argument("--no-curves", action="store_true", help="leave out the runs behind the plot")
    options = parser.parse_args()
    if os.environ.get(peers.THREADS_VARIABLE) != str(options.threads):
        # ITK reads it once, before anything of ours runs
        environment = os.environ | {peers.THREADS_VARIABLE: str(options.threads)}
        sys.exit(subprocess.call([sys.executable, "-m", "benchmarks.liver", *sys.argv[1:]], env=environment))
    torch.set_num_threads(options.threads)
    methods, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    pairs, rows = list(liver_pairs()), []
    options.output.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        for method in methods:
            for seed in seeds[:1] if method in PEERS else seeds:
                rows.append(row := measure(pair, method, seed, options.threads))
                print(
                    f"{pair.name}  {method:12} seed {seed}  inside {row['inside']:.2f}  outside {row['outside']:.2f}"
                    f"  {row['seconds']:.1f} s  det <= 0 {row['folding']:.3%}",
                    flush=True,
                )
    print(table(rows))
    curves = {}
    if not options.no_curves:
        curves = {m: [curve(pair, m, seeds[0]) for pair in pairs] for m in methods if m not in PEERS}
        plot(rows, curves, options.output / "liver.png")
    protocol.write_json(options.output / "liver.json", {"threads": options.threads, "rows": rows, "curves": curves})


if __name__ == "__main__":
    main()
