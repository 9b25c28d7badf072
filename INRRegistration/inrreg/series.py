"""A series, as the phases of a 4D CT, registered to one reference: each image begins where the one before it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inrreg import evaluation, protocol
from inrreg.cohort.work import settings_key
from inrreg.deformation import Deformation
from inrreg.images import read_header
from inrreg.landmarks import Points, read_points, write_points
from inrreg.optimization import Emit
from inrreg.protocol import Job, UserError
from inrreg.registration import model_hash, register

DESCRIPTION = "series.json"
TRAJECTORIES = "trajectories.csv"
SYSTEM = "LPS mm"
"""What the coordinates of `TRAJECTORIES` are."""


def register_series(
    job: Job,
    images: Sequence[str],
    output: Path,
    *,
    landmarks: str = "",
    emit: Emit = lambda kind, data: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Register images, in their order, to the fixed one of `job`, as it says; its moving image is of no account.

    `output` gets a result folder for each image, `phase_01` and on, `series.json` and, with `landmarks`, points of the
    fixed image, `trajectories.csv`. An image that is the fixed one's own file is the reference: no registration. What
    is there already, of the same job on the same files, is kept: so a series goes on where it was cancelled. Gives what
    `series.json` holds. Raises as `register` does, and `UserError` (code `series`) for no images, (`points`) for
    landmarks that cannot be read.
    """
    images = [os.path.abspath(path) for path in images]
    if not images:
        raise UserError("series", "There is no image to register.", "Name the images of the series.")
    for path in images:  # before minutes are spent
        read_header(path, "phase")
    points = read_points(landmarks, read_header(job.fixed, "fixed image")) if landmarks else None
    output.mkdir(parents=True, exist_ok=True)
    before, start, phases = time.perf_counter(), None, []
    for number, path in enumerate(images, 1):
        if os.path.samefile(path, job.fixed):
            phases.append({"image": path, "folder": "", "kept": False, "start": ""})
            continue
        folder = output / f"phase_{number:02}"
        own = dataclasses.replace(job, moving=path)
        metrics = finished(folder, own, start)
        if kept := metrics is not None:
            emit("log", {"text": f"{folder.name} is done and kept"})
        else:
            told = _told(emit, number, len(images), before)
            try:
                metrics = register(own, folder, emit=told, cancelled=cancelled, start=start)
            except UserError as error:
                message = f"Phase {number} ({Path(path).name}): {error.message}"
                raise UserError(error.code, message, error.hint) from None
        name = start.name if start else ""
        phases.append({"image": path, "folder": folder.name, "kept": kept, "start": name, **_figures(metrics)})
        start = folder
    if points is not None:
        write_points(output / TRAJECTORIES, trajectories(points, output, job.fixed, phases))
    done = {"version": protocol.VERSION, "fixed": os.path.abspath(job.fixed), "phases": phases}
    protocol.write_json(output / DESCRIPTION, done)
    return done


def finished(folder: Path, job: Job, start: Path | None) -> dict[str, Any] | None:
    """The figures of a result folder that this job made of these files' contents from that start; else None."""
    with contextlib.suppress(UserError, OSError, KeyError, TypeError):
        metrics = protocol.read_json(folder / "metrics.json")
        made = Job.from_dict(protocol.read_json(folder / "job.json"))
        inputs = {name: evaluation.sha256(path) for name, path in job.files().items()}
        same = settings_key(made) == settings_key(job) and metrics["inputs"] == inputs
        if same and metrics.get("start") == (model_hash(start) if start else None):
            Deformation.load(folder)
            return metrics
    return None


def trajectories(points: Points, output: Path, fixed: str, phases: Sequence[dict[str, Any]]) -> Points:
    """Where the fixed image's points are in it (phase 0) and in each image: rows by point, then by phase.

    As extra columns the point's `label`, the `phase`, from 1 in the order of the series, its `image` and `system`, that
    of the coordinates.
    """
    places = [points.positions]
    for phase in phases:
        folder = phase["folder"]
        places.append(Deformation.load(output / folder).map(points.positions) if folder else points.positions)
    count = len(points)
    labels = points.labels or tuple(str(number) for number in range(1, count + 1))
    names = [Path(each).name for each in (fixed, *(phase["image"] for phase in phases))]
    columns = {
        "label": [label for label in labels for _ in names],
        "phase": [str(number) for _ in labels for number in range(len(names))],
        "image": [name for _ in labels for name in names],
        "system": [SYSTEM] * (count * len(names)),
    }
    return Points(np.stack(places, 1).reshape(-1, 3), columns)


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Of a phase's figures, those that tell how it went."""
    return {"seconds": metrics["seconds"], "similarity": metrics["similarity"]["after"]}


def _told(emit: Emit, number: int, count: int, begun: float) -> Emit:
    """Events of one image among `count`, whose progress counts over all of them."""

    def tell(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            steps, seconds = data["steps"], time.perf_counter() - begun
            left = (count - number) * (seconds + data["eta"]) / number
            data = data | {
                "stage": f"phase {number} of {count}: {data['stage']}",
                "step": (number - 1) * steps + data["step"],
                "steps": count * steps,
                "seconds": seconds,
                "eta": data["eta"] + left,
            }
        emit(kind, data)

    return tell
