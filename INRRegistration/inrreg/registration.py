"""One registration from a job to a result folder: the path that command line and worker share."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg import evaluation, protocol
from inrreg.deformation import Deformation, load_transform
from inrreg.devices import choose_device, device_name
from inrreg.geometry import Grid
from inrreg.images import read_image, read_labels, read_mask
from inrreg.optimization import Emit, Run
from inrreg.prealignment import prealign
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError
from inrreg.torch_maps import differentiable
from inrreg.transforms import Affine, DisplacementGrid, PointMap, sample_on


def register(
    job: Job,
    output: Path,
    *,
    emit: Emit = lambda kind, data: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run a job, write its result folder, return its metrics.

    The folder appears complete or not at all, and replaces an earlier result only when complete. Events go to
    `emit`; `cancelled` is asked between steps. Raises `UserError` for what the user can mend,
    `inrreg.optimization.Cancelled` after a cancel.
    """
    output = Path(output)
    log: list[str] = []

    def logged(kind: str, data: dict[str, Any]) -> None:
        if kind in ("warning", "log"):
            log.append(f"{kind}: {data.get('message') or data.get('text')}")
        emit(kind, data)

    with _partial(output) as folder:
        run = Run(logged, cancelled, seed=job.seed, time_budget=job.time_budget)
        deformation, problem = solve(job, run)
        seconds = run.seconds()
        metrics = evaluation.of_result(deformation, problem, job)
        settings = {"preset": job.preset, "settings": job.settings().to_dict(), "seed": job.seed}
        metrics = {"seconds": seconds, "device": device_name(problem.device), **settings, **metrics}
        for code, message in evaluation.doubts(metrics):
            logged("warning", {"code": code, "message": message})
        deformation.save(folder)
        job.save(folder)
        protocol.write_json(folder / "metrics.json", metrics)
        (folder / "log.txt").write_text("\n".join([*log, f"finished after {seconds:.1f} s", ""]), encoding="utf-8")
        run.check_cancelled()
    return metrics


def solve(job: Job, run: Run) -> tuple[Deformation, Problem]:
    """Read the job's files, align, optimize: the deformation and the problem it solves. Writes nothing."""
    settings, preset = job.settings(), protocol.preset(job.preset)
    device = choose_device(job.device)
    if job.threads:
        torch.set_num_threads(job.threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(job.threads)
    fixed, moving = read_image(job.fixed, "fixed"), read_image(job.moving, "moving")
    masks = [
        read_mask(path, f"{name} mask", image) if path else None
        for path, name, image in ((job.fixed_mask, "fixed", fixed), (job.moving_mask, "moving", moving))
    ]
    labels = [
        read_labels(path, f"{name} labels", image) if path else None
        for path, name, image in ((job.fixed_labels, "fixed", fixed), (job.moving_labels, "moving", moving))
    ]
    before: tuple[PointMap, ...] = ()
    if job.initial_transform:
        before = (storable(load_transform(job.initial_transform), Grid.of(fixed)),)
    if job.prealign != "none":
        initial = before[0] if before else Affine()
        before = (prealign(job.prealign, fixed, moving, *masks, initial, run), *before)
    problem = Problem(fixed, moving, *masks, *labels, device=device, seed=job.seed)
    problem.before = differentiable(before, problem.frame, device)
    problem.check_overlap()
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    try:
        field = method.fit(problem, settings, run)
    except torch.OutOfMemoryError:
        raise UserError(
            "memory", "The device has too little free memory for this registration.", "Choose the CPU, or fewer points."
        ) from None
    return Deformation(field.eval().requires_grad_(False), problem.frame, problem.grid, before), problem


def storable(transform: PointMap, grid: Grid) -> PointMap:
    """A map that a result folder can hold: itself, or sampled finely over the fixed image and its surroundings."""
    if isinstance(transform, (Affine, DisplacementGrid)):
        return transform
    margin = 0.25
    wide = Grid(grid.size, grid.to_world(-margin * (np.array(grid.size) - 1)), grid.matrix * (1 + 2 * margin))
    wide = wide.resampled(max(2.0, float(grid.spacing.min())))
    return DisplacementGrid(sample_on(transform, wide), wide)


@contextlib.contextmanager
def _partial(output: Path):
    """A folder beside `output` that takes its place at the end, or goes away on any error."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        os.chmod(folder, 0o755)
    except OSError as error:
        raise UserError(
            "output", f"The folder {output} cannot be written ({error.strerror}).", "Choose another output folder."
        ) from None
    if output.exists() and not (output / "job.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        folder.rmdir()
        raise UserError(
            "output", f"{output} exists and is no earlier result of ours.", "Choose a new or an empty output folder."
        )
    try:
        yield folder
        old = output.with_name(f".{output.name}.{time.time_ns()}.old")
        if output.exists():
            output.rename(old)
        folder.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            "output", f"The result cannot be written to {output} ({error.strerror}).", "Check space and permissions."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
