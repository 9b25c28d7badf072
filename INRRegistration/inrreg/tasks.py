"""What the worker does in a job folder, one function a command.

Each takes the folder, the command's entries, `emit(kind, data)` for events on the way and `cancelled()`, and returns
the data of its closing event: `result` of a registration, `done` of everything else. Each raises
`inrreg.optimization.Cancelled` where it was cancelled, having removed what it had begun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inrreg import transform_tasks
from inrreg.protocol import Job, UserError, read_json

RESULT_FILES = ("displacement.nrrd", "model.safetensors", "model.json", "metrics.json", "job.json")
"""What a result folder holds at least, before it is announced."""


def register(
    folder: Path, data: dict[str, Any], emit: Callable[[str, dict[str, Any]], None], cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """Register the job in `folder`; with `resample`, also write the moving image on the fixed grid.

    With `preview`, coarse fields appear as `preview.nrrd` on the way.
    """
    job = Job.load(folder)
    # Before the working directory changes: they are found from there.
    from inrreg.optimization import Cancelled
    from inrreg.registration import register as run

    refuse_detached(job)
    with working_in(folder):
        job = dataclasses.replace(job, **{name: os.path.relpath(path) for name, path in job.files().items()})
        output = Path("result")

        def stop_if_cancelled() -> None:
            if cancelled():
                shutil.rmtree(output, ignore_errors=True)
                raise Cancelled

        stop_if_cancelled()
        preview = Path("preview.nrrd") if data.get("preview") else None
        metrics = run(job, output, emit=emit, cancelled=cancelled, preview=preview)
        check_result(output)
        done = {"folder": str(folder / output), "metrics": metrics}
        stop_if_cancelled()
        if data.get("resample"):
            done["resampled"] = str(folder / resample(job, output, Path("resampled.nrrd"), cancelled))
            stop_if_cancelled()
    return done


def evaluate(
    folder: Path, data: dict[str, Any], emit: Callable[[str, dict[str, Any]], None], cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """Judge the result folder `result`, at `alpha` where it is conditioned, by the files of the job in `folder`.

    With `report` the report is written to that file.

    Gives `metrics`, as `inrreg.evaluation` has them, and the files `jacobian`, a map of the determinant, and
    `uncertainty`, "" where the method gives none.
    """
    job, start = Job.load(folder), time.monotonic()
    refuse_detached(job)
    from inrreg.deformation import load_transform
    from inrreg.evaluation import determinant_map, of_transform, recorded
    from inrreg.images import write_image
    from inrreg.optimization import Cancelled

    stages = ("figures", "volume change", *(["report"] if data.get("report") else []))

    def tell(stage: str, done: int, of: int) -> None:
        if cancelled():
            raise Cancelled
        steps = {"stage": stage, "step": 100 * stages.index(stage) + 100 * done // of, "steps": 100 * len(stages)}
        seconds = {"seconds": time.monotonic() - start, "eta": None}
        emit("progress", {**steps, **seconds, "loss": None, "terms": {}})

    tell("figures", 0, 1)
    with working_in(folder):
        files = {name: os.path.relpath(path) for name, path in job.files().items()}
        result = Path(os.path.relpath(data["result"]))
        made = Job.from_dict(read_json(result / "job.json")) if (result / "job.json").is_file() else job
        made = dataclasses.replace(made, label_names=job.label_names, tolerances=job.tolerances)
        alpha, chosen = data.get("alpha"), recorded(result).get("alpha", {}).get("chosen")
        transform = load_transform(result, None if alpha == chosen else alpha)
        metrics = of_transform(transform, made, files, result=result)
        tell("volume change", 0, 1)
        path = Path("jacobian.nrrd")
        write_image(determinant_map(transform, lambda done, of: tell("volume change", done, of)), path)
        if data.get("report"):
            from inrreg.report import write_report

            tell("report", 0, 1)
            write_report(data["report"], metrics, transform, made, files)
        maps = {"jacobian": str(folder / path), "uncertainty": ""}
        if (result / "uncertainty.nrrd").is_file():
            maps["uncertainty"] = str(Path(data["result"]) / "uncertainty.nrrd")
    return {"metrics": metrics, **maps}


def series(
    folder: Path, data: dict[str, Any], emit: Callable[[str, dict[str, Any]], None], cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """Register the `images` in `folder`, in their order, to the fixed one of its job; follow `landmarks` if given.

    Gives `series`, the folder with what `inrreg.series` writes.
    """
    job, images, points = Job.load(folder), data["images"], data.get("landmarks", "")
    for name in (*images, *([points] if points else [])):
        if not (folder / name).resolve().is_relative_to(folder):
            raise UserError("job", f"'{name}' lies outside the job folder.")
    from inrreg.optimization import Cancelled
    from inrreg.series import register_series

    for name in images:
        refuse_detached(dataclasses.replace(job, moving=str(folder / name)))
    with working_in(folder):
        job = dataclasses.replace(job, **{name: os.path.relpath(path) for name, path in job.files().items()})
        output = Path("series")
        try:
            register_series(job, images, output, landmarks=points, emit=emit, cancelled=cancelled)
            if cancelled():
                raise Cancelled
        except Cancelled:
            shutil.rmtree(output, ignore_errors=True)
            raise
    return {"series": str(folder / output)}


TASKS = {
    "register": register,
    "evaluate": evaluate,
    "series": series,
    "export": transform_tasks.export,
    "load": transform_tasks.load,
    "apply": transform_tasks.apply,
    "jacobian": transform_tasks.jacobian,
    "mask": transform_tasks.mask,
}
"""By command."""

_ELSEWHERE = re.compile(
    rb"^[ \t]*(data ?file[ \t]*:|ElementDataFile[ \t]*=(?![ \t]*LOCAL[ \t]*$))", re.IGNORECASE | re.MULTILINE
)
"""Header lines of NRRD and MetaImage that name a file of voxels."""


def refuse_detached(job: Job) -> None:
    """Raise `UserError` (code `job`) for a header that names another file: it could lie outside the job folder."""
    for name, path in job.files().items():
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                header = file.read(1 << 16).replace(b"\r", b"\n")
            if _ELSEWHERE.search(header):
                raise UserError("job", f"Job entry '{name}' is a header whose voxels lie in another file.")


def check_result(folder: Path) -> None:
    """Read a result folder back. Raises `UserError` (code `result`) where it is incomplete or damaged."""
    import numpy as np
    import SimpleITK as sitk

    hint = "Is the disk full? The log holds the details."
    missing = [name for name in RESULT_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError("result", f"The result lacks {', '.join(missing)}.", hint)
    try:
        field = sitk.ReadImage(str(folder / "displacement.nrrd"))
    except RuntimeError as error:
        raise UserError("result", f"The result cannot be read back ({error}).", hint) from None
    if field.GetNumberOfComponentsPerPixel() != 3 or not np.isfinite(sitk.GetArrayViewFromImage(field)).all():
        raise UserError("result", "The resulting displacement field holds values that are no numbers.", hint)


def resample(job: Job, result: Path, path: Path, cancelled: Callable[[], bool] = lambda: False) -> Path:
    """Write the moving image resampled onto the fixed grid with the result's displacement; returns `path`.

    Cancelled on the way it writes nothing.
    """
    import SimpleITK as sitk

    from inrreg.geometry import Grid
    from inrreg.images import read_header
    from inrreg.optimization import Cancelled
    from inrreg.warping import resample as through

    # ITK's own transform, the whole grid at once: it may hold a hundred million voxels.
    field = sitk.ReadImage(str(result / "displacement.nrrd"), sitk.sitkVectorFloat64)
    grid, transform = Grid.of(read_header(job.fixed, "fixed image")), sitk.DisplacementFieldTransform(field)
    try:
        warped = through(sitk.ReadImage(job.moving), grid, transform, threads=job.threads, cancelled=cancelled)
    except Cancelled:
        return path
    partial = path.with_name("partial-" + path.name)
    sitk.WriteImage(warped, str(partial), False)
    partial.replace(path)
    return path


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The folder as working directory, so that relative names will do.

    On Windows SimpleITK's readers fail on absolute names with letters beyond the code page. Left again at the end,
    since Windows removes no folder that a process works in.
    """
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        hint = "Choose another temporary folder in Slicer's settings, with a shorter name."
        raise UserError("file", f"The folder {folder} cannot be used ({error.strerror}).", hint) from None
    try:
        yield
    finally:
        os.chdir(before)
