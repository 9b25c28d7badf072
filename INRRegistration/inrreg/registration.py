"""One registration from a job to a result folder: the path that command line and worker share."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg import evaluation, protocol, sequence
from inrreg.abandoned import beside, remove_abandoned
from inrreg.automask import mask as read_mask
from inrreg.deformation import Deformation, load_transform
from inrreg.devices import choose_device, device_name
from inrreg.fields import Ensemble, Field, Flow
from inrreg.fusion import fit_guided
from inrreg.geometry import Grid
from inrreg.images import read_image, read_labels, write_image
from inrreg.landmarks import Pairs, pair, read_points
from inrreg.memory import exhausted, is_exhausted
from inrreg.optimization import Emit, Run, diverged
from inrreg.prealignment import prealign
from inrreg.previewing import Preview
from inrreg.prior import Prior
from inrreg.problem import Problem
from inrreg.protocol import Job, Settings, UserError
from inrreg.structures import fit_sides, hold_rigid
from inrreg.torch_maps import differentiable
from inrreg.transforms import Affine, DisplacementGrid, PointMap, SitkTransform, sample_on
from inrreg.tuning import Tuning, tune
from inrreg.versions import versions


def register(
    job: Job,
    output: Path,
    *,
    emit: Emit = lambda kind, data: None,
    cancelled: Callable[[], bool] = lambda: False,
    preview: Path | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """Run a job, write its result folder, return its metrics.

    The folder appears complete or not at all, and replaces an earlier result only when complete. Events go to
    `emit`; `cancelled` is asked between steps; coarse fields on the way go to the file `preview`. `start` is the result
    folder of a neighbouring image on the same fixed one, where the optimization may begin. Raises `UserError`
    for what the user can mend, `inrreg.optimization.Cancelled` after a cancel.
    """
    log: list[str] = []

    def logged(kind: str, data: dict[str, Any]) -> None:
        if kind in ("warning", "log"):
            log.append(f"{kind}: {data.get('message') or data.get('text')}")
        emit(kind, data)

    with _partial(Path(output), lambda text: logged("log", {"text": text})) as folder:
        run = Run(logged, cancelled, seed=job.seed, time_budget=job.time_budget)
        deformation, problem, tuning = solve(job, run, preview, start)
        seconds = run.seconds()
        judging = tuning.judging if tuning else slice(None)
        metrics = evaluation.of_result(deformation, problem, job, judging)
        if tuning:
            metrics["alpha"] = {"chosen": tuning.chosen, "criterion": tuning.criterion}
        settings = {"preset": job.preset, "settings": job.settings().to_dict()}
        settings |= {"seed": job.seed, "ensemble": job.ensemble}
        settings |= {"versions": versions(), "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        metrics = {"seconds": seconds, "device": device_name(problem.device), **settings, **metrics}
        if start is not None:
            metrics["start"] = model_hash(start)
        if run.restarts:
            metrics["restarts"] = run.restarts
        for code, message in evaluation.doubts(metrics):
            if code != "restarted":  # told when it happened
                logged("warning", {"code": code, "message": message})
        deformation.save(folder)
        if tuning:
            tuning.save(folder, deformation)
        if isinstance(deformation.field, Flow):
            sequence.save(folder, deformation)
        _save_masks(job, problem, folder)
        _absolute(job).save(folder)
        protocol.write_json(folder / "metrics.json", metrics)
        (folder / "log.txt").write_text("\n".join([*log, f"finished after {seconds:.1f} s", ""]), encoding="utf-8")
        run.check_cancelled()
    return metrics


def model_hash(folder: Path) -> str:
    """What tells the model of a result folder from any other."""
    return evaluation.sha256(folder / "model.safetensors")


def solve(
    job: Job, run: Run, preview: Path | None = None, start: Path | None = None
) -> tuple[Deformation, Problem, Tuning | None]:
    """Read the job's files, align, optimize: the deformation and the problem it solves. Writes only previews.

    Of a conditioned field also the choice of alpha, and what led to it.
    """
    problem, before = prepare(job, run, start)
    settings, preset = job.settings(), protocol.preset(job.preset)
    sliding = read_mask(job.sliding, "mask that slides", problem.fixed) if job.sliding else None
    if preset.prior and problem.prior is None:
        text = f"'{job.preset}' has no prior: it starts from random networks, and takes as long as 'ccidir'."
        run.emit("warning", {"code": "no-prior", "message": text})
    shown = None
    if preview is not None:
        shown = Preview(preview, problem, before, run.emit)
        run.look = shown.look
    method = importlib.import_module(f"inrreg.methods.{preset.method}")

    def fit(problem: Problem, run: Run) -> Field:
        return fit_safely(method.fit, problem, settings, run)

    def fit_parts(problem: Problem, run: Run) -> Field:
        return fit(problem, run) if sliding is None else fit_sides(problem, sliding, fit, run)

    def fit_all(problem: Problem, run: Run) -> Field:
        return (fit_parts(problem, run) if preset.flow else fit_guided(problem, fit_parts, run)).freeze()

    if job.ensemble == 1:
        field = fit_all(problem, run)
    else:
        members = run.members(job.ensemble)
        field = Ensemble([fit_all(dataclasses.replace(problem, seed=each.seed), each) for each in members])
    if problem.rigid is not None:
        field = hold_rigid(field.freeze(), problem, run)
    if shown is not None:
        run.emit("log", {"text": str(shown)})
    tuning = None if field.alpha is None else tune(field, problem, job, run)
    return Deformation(field.freeze(), problem.frame, problem.grid, before), problem, tuning


def prepare(job: Job, run: Run, start: Path | None = None) -> tuple[Problem, tuple[PointMap, ...]]:
    """Read the job's files and align: the problem that a method is given, and what comes after its field.

    `start` is the result folder whose field it begins with.
    """
    settings, prior = job.settings(), None
    if job.prior:
        if not protocol.preset(job.preset).prior:
            raise UserError("prior", f"The preset '{job.preset}' takes no prior.", "Leave it out.")
        prior = Prior.load(job.prior)
    device = choose_device(job.device)
    _use_threads(job.threads)
    fixed, moving = read_image(job.fixed, "fixed"), read_image(job.moving, "moving")
    masks = [
        read_mask(path, f"{name} mask", image) if path else None
        for path, name, image in ((job.fixed_mask, "fixed", fixed), (job.moving_mask, "moving", moving))
    ]
    labels = [
        read_labels(path, f"{name} labels", image) if path else None
        for path, name, image in ((job.fixed_labels, "fixed", fixed), (job.moving_labels, "moving", moving))
    ]
    _check_landmarks(job, fixed, moving)
    guides = _guides(job, fixed, moving)
    exclude = read_mask(job.exclude, "mask to exclude", fixed) if job.exclude else None
    if exclude is not None:
        masks[0] = _without(exclude, masks[0])
    problem = Problem(
        fixed,
        moving,
        *masks,
        *labels,
        device=device,
        seed=job.seed,
        guidance=guides,
        similarity=settings.similarity,
        exclude=exclude,
        rigid=read_labels(job.rigid, "rigid structures", fixed) if job.rigid else None,
        prior=prior and prior.to(device),
        start=Deformation.load(start).field.to(device) if start else None,
    )
    if prior:
        prior.family.check(problem)
    before = _before(job, problem, run)
    problem.before = differentiable(before, problem.frame, device)
    problem.check_overlap()
    if problem.rigid is not None and problem.before.matrix(torch.zeros(3)) is None:
        hint = "Take a rigid or affine one, or leave the rigid structures out."
        raise UserError("rigid", "Structures cannot be kept rigid after an initial transform that is not linear.", hint)
    if settings.similarity == "auto":
        similarity = "multimodal" if problem.multimodal else "ncc"
        run.emit("log", {"text": f"similarity: {similarity}, by the images' intensities"})
    problem.similarity = "multimodal" if problem.multimodal else "ncc"  # for its sides and members, too
    return problem, before


SLOWER = 0.1
"""What learning rates, and the size of the first displacement, are multiplied by after an optimization diverged."""
RESTARTS = 2
"""How often."""
FARTHEST = 2.0
"""Normalized displacement, the image's longest side, beyond which a field has diverged, whatever its loss says."""


def fit_safely(fit: Callable[..., Field], problem: Problem, settings: Settings, run: Run) -> Field:
    """The method's field; one that diverges is restarted from a safer start, with a warning, and counted in `run`.

    Raises `UserError`: code `diverged` once that does not help either, `memory` or `gpu-memory` without enough of it.
    """
    for attempt in range(RESTARTS + 1):
        try:
            field = fit(problem, settings, run)
            _check_range(field, problem)
            return field
        except UserError as error:
            if error.code != "diverged" or attempt == RESTARTS:
                raise
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            raise exhausted(error) from None
        settings, problem = safer(settings), dataclasses.replace(problem, start=None)
        run.restarts += 1
        message = "The optimization diverged and was restarted with a tenth of the learning rate. Check the result."
        run.emit("warning", {"code": "restarted", "message": message})
    raise AssertionError


def safer(settings: Settings) -> Settings:
    """The settings with smaller steps, from a smaller first displacement, as far as their ranges go."""
    changes = {}
    for item in dataclasses.fields(settings):
        if item.name.endswith("rate") or item.name == "start":
            changes[item.name] = max(item.metadata["low"], SLOWER * getattr(settings, item.name))
    return dataclasses.replace(settings, **changes)


def _check_range(field: Field, problem: Problem) -> None:
    """Raise `UserError` (code `diverged`) for a field that is not finite, or throws points out of all proportion."""
    with torch.no_grad():
        farthest = float(field.dense(problem.box(seed=13).draw(2000)).abs().max())
    if not farthest <= FARTHEST:  # also of NaN
        raise diverged()


@cache
def _automatic_threads() -> tuple[int, int]:
    """What torch and ITK took for themselves when this process began."""
    return torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()


def _use_threads(count: int) -> None:
    """Let torch and ITK use that many threads, 0 for as many as they like: also after a job that wanted few."""
    for_torch, for_itk = _automatic_threads()
    torch.set_num_threads(count or for_torch)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count or for_itk)


def _without(exclude: sitk.Image, mask: sitk.Image | None) -> sitk.Image:
    """The fixed mask, or the whole image, without what is excluded. Raises `UserError` (code `mask`) if that is all."""
    left = exclude == 0 if mask is None else sitk.And(sitk.Cast(mask, sitk.sitkUInt8), exclude == 0)
    if not sitk.GetArrayViewFromImage(left).any():
        raise UserError("mask", "All that could be compared is excluded.", "Exclude less.")
    return left


def _check_landmarks(job: Job, fixed: sitk.Image, moving: sitk.Image) -> None:
    """Raise `UserError` for landmarks that could not be evaluated, before minutes are spent."""
    if job.fixed_landmarks:
        pair(read_points(job.fixed_landmarks, fixed), read_points(job.moving_landmarks, moving))


def _guides(job: Job, fixed: sitk.Image, moving: sitk.Image) -> Pairs | None:
    """The pairs that guide. Raises `UserError` (code `points`) where one list has points that the other has not."""
    if not job.guide_fixed:
        return None
    pairs = pair(read_points(job.guide_fixed, fixed), read_points(job.guide_moving, moving))
    if missing := [name for names in pairs.missing.values() for name in names]:
        raise UserError("points", f"These guiding points have no partner: {', '.join(missing)}.", "Complete the pairs.")
    return pairs


def _save_masks(job: Job, problem: Problem, folder: Path) -> None:
    """Keep the masks that were made, for whoever looks at the result."""
    for name, mask in (("fixed_mask", problem.fixed_mask), ("moving_mask", problem.moving_mask)):
        if getattr(job, name) in protocol.AUTOMATIC_MASKS:
            write_image(mask, folder / f"{name}.nrrd")


def _before(job: Job, problem: Problem, run: Run) -> tuple[PointMap, ...]:
    """The prealignment and then the initial transform, in the order in which they are applied."""
    initial, aligned = Affine(), Affine()
    if job.initial_transform:
        initial = load_transform(job.initial_transform)
        if not isinstance(initial, SitkTransform):
            initial = storable(initial, problem.grid)
    if job.prealign != "none":
        masks = problem.fixed_mask, problem.moving_mask
        aligned = prealign(job.prealign, *problem.images, *masks, initial, run)
    parts = (job.prealign != "none", aligned), (job.initial_transform, storable(initial, problem.grid, aligned))
    return tuple(part for wanted, part in parts if wanted)


def storable(transform: PointMap, grid: Grid, after: Affine | None = None) -> PointMap:
    """A map that a result folder can hold: itself, or sampled finely where the fixed image and its surroundings go.

    `after` is the map that comes first and takes them there.
    """
    if isinstance(transform, (Affine, DisplacementGrid)):
        return transform
    if isinstance(transform, Deformation):
        return DisplacementGrid.of(transform.displacement_field())
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.size) - 1)
    local = (after or Affine()).map(grid.to_world(corners)) @ grid.direction
    low, high = local.min(0), local.max(0)
    margin, spacing = (high - low) / 4, float(np.clip(grid.spacing.min(), 2.0, 3.0))
    cells = np.ceil((high - low + 2 * margin) / spacing).astype(int)
    origin = grid.direction @ (low - margin)
    wide = Grid(tuple(int(n) + 1 for n in cells), origin, grid.direction * spacing)
    if isinstance(transform, SitkTransform):  # faster than point by point
        onto = wide.origin.tolist(), [spacing] * 3, wide.direction.ravel().tolist()
        field = sitk.TransformToDisplacementField(transform.transform, sitk.sitkVectorFloat64, wide.size, *onto)
        return DisplacementGrid.of(field)
    return DisplacementGrid(sample_on(transform, wide), wide)


def _absolute(job: Job) -> Job:
    """The job with absolute file names, which its copy in the result needs."""
    return dataclasses.replace(job, **{name: os.path.abspath(path) for name, path in job.files().items()})


_OURS = (
    "job.json",
    "model.json",
    "model.safetensors",
    "metrics.json",
    "log.txt",
    "displacement.nrrd",
    "deformable.nrrd",
    "fixed_mask.nrrd",
    "moving_mask.nrrd",
    "inverse_displacement.nrrd",
    "uncertainty.nrrd",
    "alpha.json",
    "time.json",
)


def _is_result(folder: Path) -> bool:
    """Whether a folder is empty or holds a result of ours and nothing else, so that it may be replaced."""
    names = [path.name for path in folder.iterdir()]
    ours = all(name in _OURS or name.startswith(("before_", "alpha_", "time_")) for name in names)
    return not names or (ours and {"job.json", "model.json"} <= set(names))


@contextlib.contextmanager
def _partial(output: Path, tell: Callable[[str], None]):
    """A folder beside `output` that takes its place at the end, or goes away on any error.

    What a killed process left of an earlier attempt is cleaned up first, and told.
    """
    missing: list[Path] = []
    with contextlib.ExitStack() as ends:
        ends.callback(lambda: _remove(missing))
        try:
            target = output.resolve()
            missing += [parent for parent in target.parents if not parent.exists()]
            _recover(target, tell)
            free = not target.exists() or (target.is_dir() and _is_result(target))
            if free:
                target.parent.mkdir(parents=True, exist_ok=True)
                folder = ends.enter_context(beside(target))
                os.chmod(folder, 0o755)
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                "output", f"The folder {output} cannot be written ({reason}).", "Choose another output folder."
            ) from None
        if not free:
            raise UserError(
                "output",
                f"{output} exists and holds something other than an earlier result.",
                "Choose a new or an empty output folder.",
            )
        try:
            # A relative name where a relative one was asked for: some readers of files know ASCII only.
            yield folder if output.is_absolute() else Path(os.path.relpath(folder))
            _replace(target, folder)
        except OSError as error:
            raise UserError(
                "output",
                f"The result cannot be written to {output} ({error.strerror or error}).",
                "Check space and permissions.",
            ) from None


def _recover(target: Path, tell: Callable[[str], None]) -> None:
    """Bring back a result that a killed process had moved aside, and remove what else one left beside the target."""
    for name in remove_abandoned(target):
        tell(f"Removed {name}, which an interrupted registration left.")
    if not target.parent.is_dir():
        return
    aside = re.compile(rf"\.{re.escape(target.name)}\.\d+\.old")
    for old in sorted((path for path in target.parent.iterdir() if aside.fullmatch(path.name)), reverse=True):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            tell(f"Removed {old.name}, which an interrupted registration left.")
        else:
            old.rename(target)
            tell(f"Brought back the result that an interrupted registration had moved to {old.name}.")


def _replace(target: Path, folder: Path) -> None:
    """Move a folder to where another may lie, which goes only when the move has succeeded."""
    old = target.with_name(f".{target.name}.{time.time_ns()}.old")
    try:
        if target.exists():
            target.rename(old)
        folder.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(folders: list[Path]) -> None:
    """Remove those of the folders, innermost first, that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
