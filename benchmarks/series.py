"""A series against independent registrations of its images: error and time, in one run, on generated breaths.

    python -m benchmarks.series [--presets fast] [--seeds 0,1,2] [--phases 5] [--amplitude 25] [--quick]

Each breath has `--phases` images with hysteresis; the first is the reference, to which the others are registered, in
its lungs' mask: each begun where the one before it ended (`series`), and each on its own (`alone`). Errors are at 300
landmarks in the lungs, in mm, means over all images. Time is that of whole jobs, from files to result folders, the
wall's and this process's own on its processors, which a busy computer does not change much; beside it that of the
optimizations alone. Images alternate between the two ways, so that both see the same computer. At the end, each demand
with what was measured. `--quick` takes the middle of the chest alone, and 100 landmarks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.metrics import target_registration_error
from inrreg.optimization import Run
from inrreg.phantom import Cycle, cycle
from inrreg.protocol import Job
from inrreg.registration import register, solve

TIME, WAYS = 0.6, ("alone", "series")


def compare(breath: Cycle, job: Job, images: list[str], folder: Path) -> dict[str, Any]:
    """Of each way the errors and times of all images."""
    found = {way: {"error": [], "p95": [], "wall": [], "processor": [], "optimization": []} for way in WAYS}
    start = None
    for number, image in enumerate(images, 1):
        for way in WAYS:
            target = folder / f"{way}_{number}"
            own = Job.from_dict(job.to_dict() | {"moving": image})
            clocks = time.perf_counter(), time.process_time()
            made = register(own, target, start=start if way == "series" else None)
            row = found[way]
            row["wall"].append(time.perf_counter() - clocks[0])
            row["processor"].append(time.process_time() - clocks[1])
            row["optimization"].append(made["seconds"])
            mapped = Deformation.load(target).map(breath.landmarks[0])
            errors = target_registration_error(mapped, breath.landmarks[number])
            row["error"].append(float(errors.mean()))
            row["p95"].append(float(np.percentile(errors, 95)))
        start = folder / f"series_{number}"
    return found


def write(breath: Cycle, folder: Path) -> tuple[str, str, list[str]]:
    """The reference, its mask and the other images as files."""
    paths = [str(folder / f"{number}.nrrd") for number in range(len(breath.images))]
    for path, image in zip(paths, breath.images, strict=True):
        sitk.WriteImage(image, path)
    mask = str(folder / "mask.nrrd")
    sitk.WriteImage(breath.masks[0], mask)
    return paths[0], mask, paths[1:]


def warm_up(job: Job) -> None:
    """Load what the first registration would, so that it counts for nobody."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    solve(job, Run(time_budget=0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="fast")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--amplitude", type=float, default=25.0, help="largest displacement in the lungs, mm")
    parser.add_argument("--quick", action="store_true", help="the middle of the chest alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    size, landmarks = ((64, 56, 64), 100) if options.quick else ((96, 80, 96), 300)
    rows = []
    for seed in (int(text) for text in options.seeds.split(",")):
        breath = cycle(options.phases, size, seed=seed, amplitude=options.amplitude, landmarks=landmarks)
        moved = [float(np.linalg.norm(each - breath.landmarks[0], axis=1).mean()) for each in breath.landmarks[1:]]
        for preset in options.presets.split(","):
            with tempfile.TemporaryDirectory() as name:
                fixed, mask, images = write(breath, Path(name))
                job = Job(fixed, images[0], fixed_mask=mask, preset=preset, threads=options.threads, seed=seed)
                if not rows:
                    warm_up(job)
                found = compare(breath, job, images, Path(name))
            rows.append({"seed": seed, "preset": preset, "before": moved, **found})
            print(f"seed {seed}  {preset:12} before {np.mean(moved):.2f} mm ({told(moved)})", flush=True)
            for way in WAYS:
                row = found[way]
                print(
                    f"  {way:7} {np.mean(row['error']):.3f} mm ({told(row['error'])}), 95th percentile"
                    f" {np.mean(row['p95']):.2f}; {sum(row['wall']):.1f} s, of the processor"
                    f" {sum(row['processor']):.1f} ({told(row['processor'], 1)}), of the optimizations"
                    f" {sum(row['optimization']):.1f}",
                    flush=True,
                )
    for preset in options.presets.split(","):
        for demand in demands([row for row in rows if row["preset"] == preset]):
            print(f"{preset}: {demand}")
    options.output.mkdir(parents=True, exist_ok=True)
    shared = {"phases": options.phases, "amplitude": options.amplitude, "threads": options.threads}
    protocol.write_json(options.output / "series.json", shared | {"size": size, "rows": rows})


def demands(rows: list[dict[str, Any]]) -> list[str]:
    """What is asked of a series, over all breaths, with what was measured."""

    def ratio(name: str) -> float:
        series, alone = (sum(sum(row[way][name]) for row in rows) for way in reversed(WAYS))
        return series / alone

    said = [f"mean error {ratio('error'):.3f} of independent ones' ({'met' if ratio('error') <= 1 else 'not met'}: 1)"]
    for name in ("wall", "processor", "optimization"):
        met = "met" if ratio(name) <= TIME else "not met"
        said.append(f"{name} time {ratio(name):.2f} of independent ones' ({met}: {TIME})")
    return said


def told(values: list[float], digits: int = 2) -> str:
    """Numbers in a row."""
    return " ".join(f"{value:.{digits}f}" for value in values)


if __name__ == "__main__":
    main()
