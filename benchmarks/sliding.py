"""What a border that may slide gains on both of its sides, on generated thoraxes whose lungs slide along the ribs.

    python -m benchmarks.sliding [--methods fast] [--seeds 0,1,2] [--amplitude 25]

Each method registers the images alone, without and with the lungs as the region along whose border organs slide; beside
them without, but optimized on from where it ended, as it is where the region is given. Errors
in mm are at random points within 15 mm of the pleura, inside and outside the lungs: of all of them, and of those beside
which the true motion jumps by more than 3 mm. The determinant is exact, at the same points.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.flow import determinants
from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.optimization import Run
from inrreg.phantom import Phantom, thorax
from inrreg.phantom.shape import body
from inrreg.problem import Problem
from inrreg.structures import fit_sides

NEAR, BESIDE = 15.0, 2.0
"""mm from the pleura within which points are taken, and from which on: nearer, a voxel holds both sides."""
JUMP = 3.0
"""mm from which on the true motion slides."""
POINTS = 3000
WAYS = ("whole", "longer", "sliding")


def beside(phantom: Phantom) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random points (N, 3) inside the lungs and outside, and whether the motion jumps at the pleura next to each."""
    shape, found = phantom.motion.shape, []
    voxels = Problem(phantom.fixed, phantom.moving).grid.points().reshape(-1, 3)
    away = shape.pleura(*voxels.T)
    for side in (-away, np.where(body(*voxels.T) < -5, away, 0)):
        near = np.flatnonzero((side > BESIDE) & (side < NEAR))
        points = voxels[np.random.default_rng(0).permutation(near)[:POINTS]]
        slopes = [shape.pleura(*(points + h).T) - shape.pleura(*(points - h).T) for h in 0.5 * np.eye(3)]
        normals = np.stack(slopes, -1) / np.linalg.norm(slopes, axis=0)[:, None].clip(1e-6)
        foot = points - shape.pleura(*points.T)[:, None] * normals
        jump = phantom.displacement(foot + 2 * normals) - phantom.displacement(foot - 2 * normals)
        found.append((points, np.linalg.norm(jump, axis=1) > JUMP))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="fast")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--amplitude", type=float, default=25.0, help="largest displacement in the lungs, mm")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in (int(text) for text in options.seeds.split(",")):
        phantom = thorax(seed=seed, amplitude=options.amplitude, sliding=True)
        sides = beside(phantom)
        for name in options.methods.split(","):
            preset = protocol.preset(name)
            method = importlib.import_module(f"inrreg.methods.{preset.method}")

            def fit(problem: Problem, run: Run, method=method, preset=preset):
                return method.fit(problem, preset.settings, run)

            field = None
            for way in WAYS:
                problem, start = Problem(phantom.fixed, phantom.moving, seed=seed), time.perf_counter()
                run = Run(seed=seed)
                if way == "longer":
                    problem.start, problem.goes_on = field, True
                field = fit_sides(problem, phantom.fixed_mask, fit, run) if way == "sliding" else fit(problem, run)
                row = {"seed": seed, "method": name, "way": way, "seconds": time.perf_counter() - start}
                made = Deformation(
                    field.freeze(), problem.frame, problem.grid, (), np.ones((2, 3)), problem.grid.spacing
                )
                for side, (points, jumps) in zip(("inside", "outside"), sides, strict=True):
                    error = np.linalg.norm(made.map(points) - points - phantom.displacement(points), axis=1)
                    row[side], row[f"{side}, jumping"] = float(error.mean()), float(error[jumps].mean())
                row["smallest"] = float(min(determinants(made, points).min() for points, _ in sides))
                rows.append(row)
                print(
                    f"seed {seed}  {name:12} {way:7}"
                    f"  inside {row['inside']:.2f} mm (where it slides {row['inside, jumping']:.2f})"
                    f"  outside {row['outside']:.2f} mm (where it slides {row['outside, jumping']:.2f})"
                    f"  smallest det {row['smallest']:.2f}  {row['seconds']:.1f} s",
                    flush=True,
                )
    for name in options.methods.split(","):
        for key in ("inside", "inside, jumping", "outside", "outside, jumping"):
            values = {way: np.array([r[key] for r in rows if r["method"] == name and r["way"] == way]) for way in WAYS}
            means = ", ".join(f"{way} {found.mean():.2f} mm" for way, found in values.items())
            for way in WAYS[:2]:
                better = values[way] - values["sliding"]
                means += f"; better than {way} by {better.min():.3f} to {better.max():.3f} mm"
            print(f"{name}: {key}: {means}")
    options.output.mkdir(parents=True, exist_ok=True)
    protocol.write_json(options.output / "sliding.json", {"amplitude": options.amplitude, "rows": rows})


if __name__ == "__main__":
    main()
