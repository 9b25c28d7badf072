"""Figures on a registration: landmark errors, overlap of structures, regularity, similarity."""

from __future__ import annotations

import glob
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg import protocol
from inrreg.automask import mask as read_mask
from inrreg.deformation import Deformation
from inrreg.fields.rigid import nearest_motion
from inrreg.geometry import Grid
from inrreg.guidance import independent
from inrreg.images import read_header, read_image, read_labels
from inrreg.landmarks import Pairs, pair, read_points
from inrreg.metrics import jacobian_summary, summary, target_registration_error
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError
from inrreg.regularization import determinant
from inrreg.structure_overlap import overlap
from inrreg.transforms import DisplacementGrid, PointMap, invert, numerical_jacobian
from inrreg.tuning import judging_part
from inrreg.verdict import Tolerances, judge

MOST = 50_000
"""Points at which the Jacobian is taken; a larger grid is thinned evenly."""

_FEW = 5_000
"""Points at which the inverse, which costs some ten maps each, and the uncertainty are taken; thinned likewise."""

_MAPPED = 150_000
"""Voxels of a map of the determinant, at most."""

_WORST = 10
"""Landmarks that are listed as the worst."""

RIGID = 0.1
"""mm from a rigid motion from which a user is warned."""

FOLDING = 0.001
"""Share of folding points in the mask from which a user is warned."""
MOTION, MOTION_SHARE = 100.0, 0.3
"""mm, and share of the fixed image's longest side: where one in a hundred points is displaced by more than the lesser,
no anatomy explains it."""
VOLUME_CHANGE = 0.7
"""SD of the logarithm of the Jacobian determinant from which a user is warned: a factor of two, up and down."""
WORSE = 0.005
"""Correlation that is lost at least where images are said to match less: of equal ones interpolation takes a little."""
SAMPLED = 1.0
"""mm between model and displacement field from which a user is warned."""
ALIKE = 0.2
"""Correlation below which two registered images have nothing in common that a registration could go by."""


def of_result(deformation: Deformation, problem: Problem, job: Job, judging: slice = slice(None)) -> dict[str, Any]:
    """All figures on a finished job: similarity and regularity always, the others where the job has the data.

    `judging` are the landmarks that had no part in the result.
    """
    metrics: dict[str, Any] = {
        "similarity": _similarity(deformation, problem),
        "jacobian": jacobian(deformation, problem.grid, problem.mask if job.fixed_mask else None),
        "inverse": inverse_consistency(deformation, problem.grid, problem.mask),
        "largest_displacement": _largest(deformation, problem.grid),
        "motion": motion(deformation, problem.grid, problem.mask),
        "interpolation_error": deformation.interpolation_error,
        "fade": deformation.fade,
        "fixed_spacing": problem.grid.spacing.tolist(),
        "inputs": {name: sha256(path) for name, path in job.files().items()},
    }
    if swapped_masks(job, problem):
        metrics["swapped_masks"] = True
    if (doubt := uncertainty(deformation, problem.grid, problem.mask)) is not None:
        metrics["uncertainty"] = doubt
    if problem.rigid is not None:
        metrics["rigid"] = rigidity(deformation, problem)
    if problem.guidance is not None:
        metrics["guidance"] = guidance(deformation, problem.guidance)
    if job.fixed_landmarks:
        paths = job.fixed_landmarks, job.moving_landmarks
        metrics["landmarks"] = landmarks(deformation, *paths, problem.fixed, problem.moving, problem.guidance, judging)
    if problem.fixed_labels is not None:
        metrics["labels"] = overlap(deformation, problem.fixed_labels, problem.moving_labels, problem.grid)
    tolerances = job.tolerances_for(metrics["fixed_spacing"])
    metrics["verdict"] = judge(metrics, tolerances, job.label_names).to_dict()
    return metrics


def of_transform(
    transform: PointMap,
    job: Job | None,
    files: dict[str, str],
    *,
    result: Path | None = None,
    tolerances: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The figures that a transform and some files allow; `files` has the names of `Job.FILES`.

    `job` is the one that made the transform, if known: it tells the images, the mask and the tolerances, to which
    `tolerances` are changes. `result` is the folder it left: what it says of the run, and of its guiding points,
    which judge nothing, is kept. Raises `UserError` (code `evaluate`) when there is nothing to evaluate with.
    """
    made = recorded(result)
    if "alpha" in made and isinstance(transform, Deformation) and transform.field.alpha is None:  # at another alpha
        made = {name: value for name, value in made.items() if name not in _OF_THE_FIELD}
    files = located(job, files, result)
    image = {name: read_image(files[name], name) for name in ("fixed", "moving") if name in files}
    metrics: dict[str, Any] = {}
    if "fixed_landmarks" in files:
        paths = files["fixed_landmarks"], files["moving_landmarks"]
        part = judging_part(result, sha256(paths[0]) == _input(result, "fixed_landmarks")) if result else slice(None)
        images = image.get("fixed"), image.get("moving")
        metrics["landmarks"] = landmarks(transform, *paths, *images, _guides(made), part)
    fixed_labels = None
    if "fixed_labels" in files:
        fixed_labels, moving_labels = (
            read_labels(files[f"{name}_labels"], f"{name} labels") for name in ("fixed", "moving")
        )
        within = Grid.of(image["fixed"]) if "fixed" in image else _evaluation_grid(transform)
        metrics["labels"] = overlap(transform, fixed_labels, moving_labels, within)
    grid, mask = _evaluation_grid(transform), None
    if "fixed_mask" in files:
        mask_image = read_mask(files["fixed_mask"], "fixed mask", image.get("fixed"))
        grid, mask = Grid.of(mask_image), sitk.GetArrayFromImage(mask_image) > 0
    elif "fixed" in image:
        grid = Grid.of(image["fixed"])
    elif grid is None and fixed_labels is not None:
        grid = Grid.of(fixed_labels)
    if grid is not None:
        metrics["jacobian"] = jacobian(transform, grid, mask)
        inside = np.ones(grid.size[::-1], bool) if mask is None else mask
        metrics["inverse"] = inverse_consistency(transform, grid, inside)
        if (doubt := uncertainty(transform, grid, inside)) is not None:
            metrics["uncertainty"] = doubt
    if not metrics:
        raise UserError("evaluate", "There is nothing to evaluate with.", "Give landmarks, labels or a mask.")
    spacing = Grid.of(image["fixed"]).spacing.tolist() if "fixed" in image else made.get("fixed_spacing")
    changes = {**(job.tolerances if job else {}), **(tolerances or {})}
    names = job.label_names if job else {}
    hashes = {name: sha256(path) for name, path in files.items() if path not in protocol.AUTOMATIC_MASKS}
    metrics = {**made, **metrics, "fixed_spacing": spacing, "inputs": hashes}
    return {**metrics, "verdict": judge(metrics, Tolerances.of(spacing, changes), names).to_dict()}


def recorded(result: Path | None) -> dict[str, Any]:
    """What a result folder's `metrics.json` says of its run; the figures that files decide are left out."""
    path = (result or Path()) / "metrics.json"
    if result is None or not path.is_file():
        return {}
    metrics = _written(path)
    return {name: metrics[name] for name in _OF_THE_RUN if name in metrics}


def _written(path: Path) -> dict[str, Any]:
    metrics = protocol.read_json(path)
    if not isinstance(metrics, dict):
        raise UserError("file", f"The file {path} holds no figures of a registration.")
    return metrics


def _input(result: Path, name: str) -> str | None:
    """The hash of an input of the run that left a result folder, if known: files may have moved since."""
    path = result / "metrics.json"
    inputs = _written(path).get("inputs") if path.is_file() else None
    return inputs.get(name) if isinstance(inputs, dict) else None


_OF_THE_RUN = (
    "finished",
    "seconds",
    "device",
    "preset",
    "settings",
    "seed",
    "versions",
    "similarity",
    "largest_displacement",
    "motion",
    "interpolation_error",
    "fade",
    "fixed_spacing",
    "guidance",
    "rigid",
    "alpha",
    "restarts",
    "swapped_masks",
)
_OF_THE_FIELD = ("similarity", "largest_displacement", "motion", "interpolation_error", "fade", "rigid", "alpha")
"""Those that hold at the alpha that was chosen alone."""


def landmarks(
    transform: PointMap,
    fixed: str,
    moving: str,
    fixed_image: sitk.Image | None,
    moving_image: sitk.Image | None,
    guides: Pairs | None = None,
    judging: slice = slice(None),
) -> dict[str, Any]:
    """Target registration error in mm before and after, continuous; with the moving image also voxel-snapped.

    Pairs that guided the registration do not count, and of the others only the `judging` ones; where all guided, there
    is no summary. `errors` belong to `names`, in that order; `worst` are the largest, with their positions in LPS mm.
    Raises `UserError` (code `points`) when the two files do not correspond.
    """
    pairs = pair(read_points(fixed, fixed_image), read_points(moving, moving_image))
    kept = independent(pairs, guides)
    result = {"matched_by": pairs.matched_by, "missing": pairs.missing, "guided": len(pairs) - len(kept)}
    if not len(kept):
        return result
    kept = kept.only(np.isin(np.arange(len(kept)), np.arange(len(kept))[judging]))
    before, mapped = target_registration_error(kept.fixed, kept.moving), transform.map(kept.fixed)
    after = target_registration_error(mapped, kept.moving)
    result |= {"before": summary(before), "after": summary(after)}
    result |= {"errors": after.tolist(), "errors_before": before.tolist(), "names": list(kept.names)}
    if moving_image is not None:
        result["after_snapped"] = summary(target_registration_error(mapped, kept.moving, snap_to=moving_image))
    result["worst"] = [
        {
            "name": kept.names[n],
            "before": float(before[n]),
            "after": float(after[n]),
            "fixed": kept.fixed[n].tolist(),
            "moving": kept.moving[n].tolist(),
        }
        for n in np.argsort(-after)[:_WORST].tolist()
    ]
    return result


def guidance(transform: PointMap, pairs: Pairs) -> dict[str, Any]:
    """How far, in mm, the guiding pairs are apart before and after; and where they are, to know them later."""
    ends = pairs.fixed, transform.map(pairs.fixed)
    before, after = (summary(target_registration_error(points, pairs.moving)) for points in ends)
    return {"before": before, "after": after, "fixed": pairs.fixed.tolist(), "moving": pairs.moving.tolist()}


def _guides(made: dict[str, Any]) -> Pairs | None:
    if "guidance" not in made:
        return None
    ends = (np.asarray(made["guidance"][name], dtype=np.float64).reshape(-1, 3) for name in ("fixed", "moving"))
    fixed, moving = ends
    return Pairs(fixed, moving, ("",) * len(fixed), "order", {})


def located(job: Job | None, files: dict[str, str], result: Path | None) -> dict[str, str]:
    """The files that are given, and for those that are not the job's, if they are still there.

    Of the job's labels and landmarks both sides are taken, or neither.
    """
    given = {name: path for name, path in files.items() if path}
    found = dict(job.files()) if job else {}
    if job and job.fixed_mask in protocol.AUTOMATIC_MASKS:
        found["fixed_mask"] = str(result / "fixed_mask.nrrd")
    found = {name: path for name, path in found.items() if path and Path(path).is_file()}
    names = ["fixed", "moving", "fixed_mask"]
    for kind in ("labels", "landmarks"):
        sides = [f"fixed_{kind}", f"moving_{kind}"]
        if not given.keys() & set(sides) and found.keys() >= set(sides):
            names += sides
    return {**{name: found[name] for name in names if name in found}, **given}


def sha256(path: str | Path) -> str:
    """The SHA-256, in hexadecimal digits, of a file and the voxels beside its header, or of a result folder."""
    path = Path(path)
    parts = [path / "model.safetensors" if path.is_dir() else path]
    if path.suffix.lower() in (".mhd", ".nhdr", ".hdr"):
        parts += sorted(other for other in path.parent.glob(f"{glob.escape(path.stem)}.*") if other != path)
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def jacobian(transform: PointMap, grid: Grid, mask: np.ndarray | None) -> dict[str, Any]:
    """Minimum, maximum, share <= 0 and SD of log of the Jacobian determinant: over the grid, and in the mask.

    Of a result of ours the deformable part alone counts, in closed form within the fixed image; any other map, and
    what lies beyond, is differentiated numerically.
    """
    shape = grid.size[::-1]
    parts = {"whole": range(math.prod(shape))}
    if mask is not None:
        parts["mask"] = np.flatnonzero(mask)
    found = {
        name: jacobian_summary(_determinant(transform, _thinned(grid, voxels, MOST))) for name, voxels in parts.items()
    }
    # the mask's points lie closer, and are points of the whole, too
    for name, extreme in (("min", min), ("max", max)):
        found["whole"][name] = extreme(row[name] for row in found.values())
    return found


def determinant_map(deformation: Deformation, done: Callable[[int, int], None]) -> sitk.Image:
    """The determinant that `jacobian` summarizes, float32, over the fixed image: as fine as `_MAPPED` voxels allow.

    `done(count, of)` is told of each slice.
    """
    grid = next(grid for n in range(-4, 40) if math.prod((grid := _spaced(deformation, 2 ** (n / 2))).size) <= _MAPPED)
    result = np.empty(grid.size[::-1], np.float32)
    for n in range(grid.size[2]):
        slab = Grid((*grid.size[:2], 1), grid.to_world(np.array([0, 0, n])), grid.matrix)
        result[n] = _determinant(deformation, slab.points().reshape(-1, 3)).reshape(result.shape[1:])
        done(n + 1, grid.size[2])
    return grid.image(result)


def _spaced(deformation: Deformation, target: float) -> Grid:
    """A grid over the fixed image, no finer than that, with a spacing of at most about `target` mm."""
    own, spacing = deformation.grid, deformation.fitting(target)
    size = np.round(own.extent / spacing).astype(int) + 1
    return Grid(tuple(int(n) for n in size), own.origin, own.direction * spacing)


def inverse_consistency(transform: PointMap, grid: Grid, mask: np.ndarray) -> dict[str, float | int]:
    """How far points of the mask end from where they began, mapped there and back by the numerical inverse, in mm.

    Not zero where the map folds or leaves what it can come back from. Mean, 99th percentile and largest value.
    """
    points = _thinned(grid, np.flatnonzero(mask), _FEW)
    mapped = transform.map(points)
    error = np.linalg.norm(invert(transform, mapped) - points, axis=1)
    largest, p99 = float(error.max()), float(np.percentile(error, 99))
    return {"mean": float(error.mean()), "p99": p99, "max": largest, "count": len(points)}


def uncertainty(transform: PointMap, grid: Grid, mask: np.ndarray) -> dict[str, float | int] | None:
    """Mean, median, 95th percentile and largest of a result's uncertainty in mm over the mask of a grid, or None."""
    if not isinstance(transform, Deformation):
        return None
    found = transform.uncertainty(_thinned(grid, np.flatnonzero(mask), _FEW))
    return None if found is None else summary(found)


def motion(deformation: Deformation, grid: Grid, mask: np.ndarray) -> dict[str, float]:
    """How far the deformable part moves points of the mask, 99th percentile, and the most that anatomy explains; mm."""
    points = _thinned(grid, np.flatnonzero(mask), _FEW)
    moved = np.linalg.norm(deformation.deform(points) - points, axis=1)
    return {"p99": float(np.percentile(moved, 99)), "most": float(min(MOTION, MOTION_SHARE * grid.extent.max()))}


def swapped_masks(job: Job, problem: Problem) -> bool:
    """Whether each mask's file has the other image's grid and not its own image's."""
    paths = job.files()
    if not {"fixed_mask", "moving_mask"} <= set(paths):
        return False
    fixed, moving = (Grid.of(read_header(paths[name], name)) for name in ("fixed_mask", "moving_mask"))
    own, other = problem.grid, Grid.of(problem.moving)
    return not own.equals(other) and fixed.equals(other) and moving.equals(own)


def doubts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What a user should know before trusting a result: (code, sentences) of each doubt, the likely cause and what to
    try included."""
    found = []
    masked = {"fixed_mask", "moving_mask"} <= set(metrics.get("inputs") or {})
    causes = f"Likely a wrong pair{', swapped masks' if masked else ''} or different contrast: check the input."
    jacobian = metrics.get("jacobian", {})
    regularity, match = jacobian.get("mask", jacobian.get("whole", {})), metrics.get("similarity", {})
    if metrics.get("restarts"):
        found.append(("restarted", f"The optimization diverged and was restarted {metrics['restarts']} times."))
    if metrics.get("swapped_masks"):
        found.append(("masks", "Each mask has the grid of the other image: the masks look swapped. Exchange them."))
    if regularity.get("folding", 0) > FOLDING:
        share = f"The deformation folds at {regularity['folding']:.2%} of the points checked."
        found.append(("folding", f"{share} Try more regularization, or a mask of what moves alike."))
    if regularity.get("sd_log", 0) > VOLUME_CHANGE:
        factor = f"Tissue shrinks or grows by a factor of {math.exp(regularity['sd_log']):.1f} and more."
        found.append(("volume", f"{factor} {causes}"))
    moved = metrics.get("motion") or {}
    if moved and moved["p99"] > moved["most"]:
        size = f"The deformation moves points by {moved['p99']:.0f} mm, which no anatomy explains."
        found.append(
            ("motion", f"{size} Try a prealignment or an initial transform, and check that the pair is right.")
        )
    if any(each["max"] > RIGID for each in metrics.get("rigid", {}).values()):
        name, worst = max(metrics["rigid"].items(), key=lambda item: item[1]["max"])
        found.append(("rigid", f"Structure {name} is up to {worst['max']:.2f} mm from rigid: another touches it."))
    if metrics.get("interpolation_error", 0) > SAMPLED:
        size = (
            f"On the voxels of the fixed image the displacement field is up to {metrics['interpolation_error']:.1f} mm"
        )
        found.append(("sampling", f"{size} from the model, which the figures judge: export it at a finer spacing."))
    if metrics.get("fade", 1) <= 0:
        found.append(("fade", "The motion is too large to fade out beyond the fixed image without folding there."))
    if match and match["after"] < match["before"] - WORSE:
        found.append(("worse", f"The images match less after the registration than before it. {causes}"))
    elif match and match["after"] < ALIKE:
        value = f"The images hardly correlate after the registration either ({match['after']:.2f})."
        found.append(("unlike", f"{value} {causes}"))
    marks = metrics.get("landmarks") or {}
    if missing := [name for names in marks.get("missing", {}).values() for name in names]:
        found.append(("landmarks", f"These landmarks have no partner and do not count: {', '.join(missing)}."))
    if marks and "after" not in marks:
        found.append(("guided", "All landmarks guided the registration; none is left to judge it."))
    if match and (share := match["overlap"]) < 0.5:
        size = f"Only {share:.0%} of the fixed image or mask is mapped into the moving one."
        cause = "Likely the volumes lie apart" + (", or the masks are swapped" if masked else "")
        found.append(("overlap", f"{size} {cause}: try a prealignment or an initial transform."))
    return found


def _thinned(grid: Grid, voxels: Sequence[int], most: int) -> np.ndarray:
    """The points (N, 3) of a grid's voxels, named by their number in memory, thinned evenly to at most `most`."""
    k, j, i = np.unravel_index(np.array(voxels[:: -(-len(voxels) // most)]), grid.size[::-1])
    return grid.to_world(np.stack([i, j, k], -1))


def _determinant(transform: PointMap, points: np.ndarray) -> np.ndarray:
    if not isinstance(transform, Deformation):
        return np.linalg.det(numerical_jacobian(transform, points))
    result, inside = np.empty(len(points)), transform.contains(points)
    result[inside] = determinant(torch.as_tensor(transform.jacobian(points[inside]))).numpy()
    result[~inside] = np.linalg.det(numerical_jacobian(transform.deformable(), points[~inside]))
    return result


def _similarity(deformation: Deformation, problem: Problem) -> dict[str, float | str]:
    """The correlation of what is compared over the fixed mask, before and after, and by which similarity: intensities
    in pairs of one contrast (global NCC), else self-similarity descriptors. Also the share of the mask that is mapped
    into the moving image.
    """
    points, values = problem.voxels(seed=11).draw(50_000)
    fixed, moving = problem.compared()
    values = values[:1] if fixed is None else fixed.sample(points)
    result: dict[str, float | str] = {"used": "multimodal" if problem.multimodal else "ncc"}
    mapped = points + deformation.field.dense(points)
    for name, at in (("before", points), ("after", mapped)):
        located = problem.before(at)
        inside = problem.valid(located, moving) > 0
        pair = torch.stack([values[:, inside].flatten(), moving.sample(located[inside]).flatten()])
        ncc = float(torch.corrcoef(pair)[0, 1]) if inside.sum() > 1 else 0.0
        result[name] = ncc if np.isfinite(ncc) else 0.0
        result["overlap"] = float(inside.float().mean())
    return result


def rigidity(deformation: Deformation, problem: Problem) -> dict[str, dict[str, float]]:
    """How far, in mm, each structure that is kept rigid is from the rigid motion nearest to it: RMS and largest."""
    labels, found = sitk.GetArrayViewFromImage(problem.rigid), {}
    for value in np.unique(labels[labels != 0]).tolist():
        points = _thinned(problem.grid, np.flatnonzero(labels == value), MOST)
        start, end = (torch.as_tensor(each)[None] for each in (points, deformation.map(points)))
        rotation, shift = nearest_motion(start, end)
        apart = (end - start @ rotation.mT - shift[:, None]).norm(dim=-1)
        found[str(value)] = {"rms": float(apart.square().mean().sqrt()), "max": float(apart.max())}
    return found


def _largest(deformation: Deformation, grid: Grid) -> float:
    points = grid.resampled(max(8.0, grid.spacing.min())).points().reshape(-1, 3)
    return float(np.linalg.norm(deformation.map(points) - points, axis=1).max())


def _evaluation_grid(transform: PointMap) -> Grid | None:
    return transform.grid if isinstance(transform, (Deformation, DisplacementGrid)) else None
