"""Figures on a registration: landmark errors, overlap of structures, regularity, similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg.deformation import Deformation
from inrreg.geometry import Grid
from inrreg.images import read_image, read_labels, read_mask
from inrreg.landmarks import read_points
from inrreg.metrics import jacobian_summary, label_overlap, summary, target_registration_error
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError
from inrreg.regularization import determinant
from inrreg.transforms import Affine, DisplacementGrid, PointMap, numerical_jacobian
from inrreg.warping import warp

_MOST = 100_000
"""Points at which the Jacobian is taken; a larger grid is thinned evenly."""

FOLDING = 0.001
"""Share of folding points in the mask from which a user is warned."""


def of_result(deformation: Deformation, problem: Problem, job: Job, judging: slice = slice(None)) -> dict[str, Any]:
    """All figures on a finished job: similarity and regularity always, the others where the job has the data.

    `judging` are the landmarks that had no part in the result.
    """
    metrics: dict[str, Any] = {
        "similarity": _similarity(deformation, problem),
        "jacobian": jacobian(deformation, problem.grid, problem.mask if job.fixed_mask else None),
        "largest_displacement": _largest(deformation, problem.grid),
        "interpolation_error": deformation.interpolation_error,
        "fade": deformation.fade,
    }
    if job.fixed_landmarks:
        metrics["landmarks"] = landmarks(
            deformation, job.fixed_landmarks, job.moving_landmarks, problem.fixed, problem.moving, judging
        )
    if problem.fixed_labels is not None:
        metrics["labels"] = overlap(deformation, problem.fixed_labels, problem.moving_labels)
    return metrics


def of_transform(
    transform: PointMap, job: Job | None, files: dict[str, str], judging: slice = slice(None)
) -> dict[str, Any]:
    """The figures that a transform and some files allow; `files` has the names of `Job.FILES`.

    `job` is the one that made the transform, if known: it tells the images; `judging` as in `of_result`. Raises
    `UserError` (code `evaluate`) when there is nothing to evaluate with.
    """
    image = {
        name: read_image(path, name)
        for name in ("fixed", "moving")
        if (path := files.get(name) or (getattr(job, name) if job and Path(getattr(job, name)).is_file() else ""))
    }
    metrics: dict[str, Any] = {}
    if files.get("fixed_landmarks"):
        paths = files["fixed_landmarks"], files["moving_landmarks"]
        metrics["landmarks"] = landmarks(transform, *paths, image.get("fixed"), image.get("moving"), judging)
    fixed_labels = None
    if files.get("fixed_labels"):
        fixed_labels, moving_labels = (
            read_labels(files[f"{name}_labels"], f"{name} labels") for name in ("fixed", "moving")
        )
        metrics["labels"] = overlap(transform, fixed_labels, moving_labels)
    grid, mask = _evaluation_grid(transform), None
    if files.get("fixed_mask"):
        mask_image = read_mask(files["fixed_mask"], "fixed mask")
        grid, mask = Grid.of(mask_image), sitk.GetArrayFromImage(mask_image) > 0
    elif "fixed" in image:
        grid = Grid.of(image["fixed"])
    elif grid is None and fixed_labels is not None:
        grid = Grid.of(fixed_labels)
    if grid is not None:
        metrics["jacobian"] = jacobian(transform, grid, mask)
    if not metrics:
        raise UserError("evaluate", "There is nothing to evaluate with.", "Give landmarks, labels or a mask.")
    return metrics


def landmarks(
    transform: PointMap,
    fixed: str,
    moving: str,
    fixed_image: sitk.Image | None,
    moving_image: sitk.Image | None,
    judging: slice = slice(None),
) -> dict[str, Any]:
    """Target registration error in mm before and after, continuous; with the moving image also voxel-snapped.

    Only the `judging` landmarks count. Raises `UserError` (code `points`) when the two files do not correspond.
    """
    start, end = read_points(fixed, fixed_image).positions, read_points(moving, moving_image).positions
    start, end = start[judging], end[judging]
    before, mapped = target_registration_error(start, end), transform.map(start)
    after = target_registration_error(mapped, end)
    result = {"before": summary(before), "after": summary(after), "errors": after.tolist()}
    if moving_image is not None:
        result["after_snapped"] = summary(target_registration_error(mapped, end, snap_to=moving_image))
    return result


def overlap(transform: PointMap, fixed: sitk.Image, moving: sitk.Image) -> dict[str, Any]:
    """Dice and HD95 of each label before and after, on the fixed labels' grid."""
    rows = {}
    for name, part in (("before", Affine()), ("after", transform)):
        figures = label_overlap(fixed, warp(moving, part, Grid.of(fixed), labels=True))
        rows[name] = {str(label): each for label, each in figures.items()}  # as JSON will have it
    return rows


def jacobian(transform: PointMap, grid: Grid, mask: np.ndarray | None) -> dict[str, Any]:
    """Minimum, maximum, share <= 0 and SD of log of the Jacobian determinant: over the grid, and in the mask.

    Of a result of ours the deformable part alone counts, in closed form within the fixed image; any other map, and
    what lies beyond, is differentiated numerically.
    """
    parts = {"whole": np.ones(grid.size[::-1], bool)}
    if mask is not None:
        parts["mask"] = mask
    result = {}
    for name, where in parts.items():
        k, j, i = np.nonzero(where)
        every = -(-len(k) // _MOST)
        points = grid.to_world(np.stack([i, j, k], -1)[::every])
        result[name] = jacobian_summary(_determinant(transform, points))
    return result


def doubts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What a user should know before trusting a result: (code, sentence) of each doubt."""
    found = []
    regularity = metrics["jacobian"].get("mask", metrics["jacobian"]["whole"])
    if regularity["folding"] > FOLDING:
        found.append(("folding", f"The deformation folds at {regularity['folding']:.2%} of the points checked."))
    if metrics["fade"] <= 0:
        found.append(("fade", "The motion is too large to fade out beyond the fixed image without folding there."))
    if metrics["similarity"]["after"] < metrics["similarity"]["before"]:
        found.append(("worse", "The images match less after the registration than before it."))
    if metrics["similarity"]["overlap"] < 0.5:
        share = metrics["similarity"]["overlap"]
        found.append(("overlap", f"Only {share:.0%} of the fixed image or mask is mapped into the moving one."))
    return found


def _determinant(transform: PointMap, points: np.ndarray) -> np.ndarray:
    if not isinstance(transform, Deformation):
        return np.linalg.det(numerical_jacobian(transform, points))
    result, inside = np.empty(len(points)), transform.contains(points)
    result[inside] = determinant(torch.as_tensor(transform.jacobian(points[inside]))).numpy()
    result[~inside] = np.linalg.det(numerical_jacobian(transform.deformable(), points[~inside]))
    return result


def _similarity(deformation: Deformation, problem: Problem) -> dict[str, float]:
    """Global NCC over the fixed mask before and after, and the share of it that is mapped into the moving image."""
    points, values = problem.voxels(seed=11).draw(50_000)
    moving, result = problem.moving_volume(), {}
    mapped = points + deformation.field.dense(points)
    for name, at in (("before", points), ("after", mapped)):
        located = problem.before(at)
        inside = problem.valid(located, moving) > 0
        pair = torch.stack([values[0][inside], moving.sample(located[inside])[0]])
        ncc = float(torch.corrcoef(pair)[0, 1]) if inside.sum() > 1 else 0.0
        result[name] = ncc if np.isfinite(ncc) else 0.0
        result["overlap"] = float(inside.float().mean())
    return result


def _largest(deformation: Deformation, grid: Grid) -> float:
    points = grid.resampled(max(8.0, grid.spacing.min())).points().reshape(-1, 3)
    return float(np.linalg.norm(deformation.map(points) - points, axis=1).max())


def _evaluation_grid(transform: PointMap) -> Grid | None:
    return transform.grid if isinstance(transform, (Deformation, DisplacementGrid)) else None
