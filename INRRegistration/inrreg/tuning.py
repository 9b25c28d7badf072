"""After a training that is conditioned on alpha: what alpha does, which one is best, fields to interpolate between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from inrreg import protocol
from inrreg.conditioning import MIDDLE
from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.guidance import independent
from inrreg.landmarks import pair, read_points
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.protocol import Job
from inrreg.regularization import bending, determinant

ALPHAS = tuple(round(0.05 * n, 2) for n in range(21))
"""Where alpha is searched, and between which a slider interpolates."""
POINTS, CURVED, LABELLED = 20_000, 2_000, 40_000
"""Points at which similarity and volume change, second derivatives, and labels are measured."""
FLATTEST = 0.01
"""Determinant that those below it, folding ones too, count as in the SD of the logarithm: else a few rule the curve."""
CHOOSING, JUDGING = slice(0, None, 2), slice(1, None, 2)
"""Landmarks that choose alpha, where nothing better does, and those that judge it."""
KEPT = 0.99
"""Share of the gain in similarity that the strongest regularization must keep, where nothing else tells alpha."""
FEWEST = 4
"""Landmarks below which there are too few to halve."""
BETWEEN_ALPHAS, BETWEEN_NODES = 0.12, 0.15
"""Largest 99th percentile, in mm, of what interpolation over alpha and over the coarse grid changes."""
SPACINGS = (8.0, 5.5, 4.0, 3.0, 2.0)
"""Spacings of the coarse grid, in mm, of which the first that keeps to the bound, or the last, is taken."""


@dataclass(frozen=True)
class Tuning:
    """What alpha does to one result: `curves` by name, an entry for each of `ALPHAS`, and the `chosen` one."""

    chosen: float
    criterion: str
    curves: dict[str, list[float]]
    fields: tuple[float, ...]
    """As few of `ALPHAS` as give, interpolated linearly, the displacements at all the others."""

    @property
    def judging(self) -> slice:
        """The landmarks that had no part in the choice."""
        return JUDGING if self.criterion == "landmarks" else slice(None)

    def save(self, folder: Path, deformation: Deformation) -> None:
        """Write `alpha.json` and a coarse displacement field, all on one grid, for each of `fields`. Raises OSError."""
        files = []
        for number, each in enumerate(coarse(deformation, self.fields)):
            files.append(f"alpha_{number:02}.nrrd")
            try:
                sitk.WriteImage(each, str(folder / files[-1]))
            except RuntimeError:
                raise OSError(f"{folder} cannot be written") from None
        described = {"chosen": self.chosen, "criterion": self.criterion, "default": MIDDLE}
        curves = {"alpha": list(ALPHAS), **self.curves}
        fields = [{"alpha": alpha, "file": file} for alpha, file in zip(self.fields, files, strict=True)]
        data = {"version": protocol.VERSION, **described, "curves": curves, "fields": fields}
        protocol.write_json(folder / "alpha.json", data)


def tune(field: Field, problem: Problem, job: Job, run: Run) -> Tuning:
    """Measure a conditioned field over alpha, choose the best, and set the field to it."""
    probe = _Probe(problem, job)
    rows, moves = [], []
    for number, alpha in enumerate(ALPHAS):
        run.check_cancelled()
        row, moved = probe.look(field.at(alpha))
        rows.append(row)
        moves.append(moved)
        run.announce("choosing alpha", (number + 1) / len(ALPHAS), 1 - row["similarity"])
    curves = {name: [row[name] for row in rows] for name in rows[0]}
    chosen, criterion = choose(curves, probe.before)
    field.alpha = chosen
    return Tuning(chosen, criterion, curves, sparse(moves, BETWEEN_ALPHAS / problem.frame.scale))


def choose(curves: dict[str, list[float]], before: float) -> tuple[float, str]:
    """The best of `ALPHAS` and by what: the labels' Dice, else the landmarks that choose, else the similarity alone.

    Similarity prefers the weakest regularization, always. But it hardly falls at first: up to where it does, regularity
    costs nothing that the images would tell, and so the strongest alpha is taken that keeps `KEPT` of what similarity
    has gained over the one `before` the registration: the one-standard-error rule (Breiman et al. 1984) with a share
    of the gain for the error, which a single pair does not tell.
    """
    if "dice" in curves:
        return ALPHAS[int(np.argmax(curves["dice"]))], "Dice"
    if "choosing_error" in curves:
        return ALPHAS[int(np.argmin(curves["choosing_error"]))], "landmarks"
    similarity = np.array(curves["similarity"])
    least = similarity.max() - (1 - KEPT) * max(0.0, similarity.max() - before)
    return ALPHAS[int(np.flatnonzero(similarity >= least)[-1])], "similarity"


def sparse(moves: list[Tensor], tolerance: float) -> tuple[float, ...]:
    """As few of `ALPHAS` as reproduce all `moves`, (N, 3) of each, by linear interpolation between neighbours.

    The 99th percentile of the error is at most `tolerance`. The first and the last are always among them.
    """

    def bridges(low: int, high: int) -> bool:
        for n in range(low + 1, high):
            part = (ALPHAS[n] - ALPHAS[low]) / (ALPHAS[high] - ALPHAS[low])
            error = (torch.lerp(moves[low], moves[high], part) - moves[n]).norm(dim=1)
            if torch.quantile(error, 0.99) > tolerance:
                return False
        return True

    kept, last = [0], len(moves) - 1
    while kept[-1] < last:
        kept.append(max(n for n in range(kept[-1] + 1, last + 1) if bridges(kept[-1], n)))
    return tuple(ALPHAS[n] for n in kept)


def coarse(deformation: Deformation, alphas: tuple[float, ...]) -> list[sitk.Image]:
    """Displacement fields of a conditioned deformation at several alphas, all on one grid as coarse as it may be."""
    roughest = replace(deformation, field=deformation.field.at(ALPHAS[0]))
    for target in SPACINGS:
        spacing = deformation.fitting(target)
        if np.quantile(roughest.interpolation_errors(spacing), 0.99) <= BETWEEN_NODES:
            break
    return [each.displacement_field() for each in deformation.family(alphas, spacing)]


class _Probe:
    """Looks at fields at the same points each, so that what differs is alpha alone."""

    def __init__(self, problem: Problem, job: Job) -> None:
        self.problem, (fixed, self.moving) = problem, problem.compared()
        points, values = problem.voxels(seed=11).draw(POINTS)
        self.points, self.values = points, values[:1] if fixed is None else fixed.sample(points)
        self.before = self._correlation(torch.zeros_like(points))
        self.marks = self.labels = None
        if job.fixed_landmarks:
            images = problem.fixed, problem.moving
            paths = job.fixed_landmarks, job.moving_landmarks
            pairs = pair(*(read_points(path, image) for path, image in zip(paths, images, strict=True)))
            pairs = independent(pairs, problem.guidance)
            self.marks = [self._tensor(problem.frame.normalize(end)) for end in (pairs.fixed, pairs.moving)]
        if problem.labels is not None:
            self.labels = self._labelled()

    @torch.no_grad()
    def look(self, field: Field) -> tuple[dict[str, float], Tensor]:
        """What is known of one field, and its displacements at points of the fixed mask, (N, 3) normalized."""
        jets = [field.jet(part, 1) for part in self.points.split(1 << 14)]
        u, jacobian = torch.cat([jet.value for jet in jets]), torch.cat([jet.jacobian for jet in jets])
        det = determinant(jacobian)
        row = {
            "similarity": self._correlation(u),
            "bending": float(bending(field.jet(self.points[:CURVED], 2).hessian)),
            "sd_log": float(det.clamp(min=FLATTEST).log().std()),
            "folding": float((det <= 0).float().mean()),
        }
        if self.labels is not None:
            row["dice"] = self._dice(field)
        if self.marks is not None:
            errors = (self._map(self.marks[0], field) - self.marks[1]).norm(dim=1) * self.problem.frame.scale
            if self.labels is None and len(errors) >= FEWEST:
                row |= {"choosing_error": float(errors[CHOOSING].mean()), "error": float(errors[JUDGING].mean())}
            else:
                row["error"] = float(errors.mean())
        return row, u.cpu()

    def _map(self, points: Tensor, field: Field) -> Tensor:
        return self.problem.before(points + field.dense(points))

    def _correlation(self, u: Tensor) -> float:
        """Global NCC, of intensities or descriptors, at the points that are mapped into the moving image."""
        moved = self.problem.before(self.points + u)
        inside = self.problem.valid(moved, self.moving) > 0
        pair = torch.stack([self.values[:, inside].flatten(), self.moving.sample(moved[inside]).flatten()])
        return float(torch.corrcoef(pair)[0, 1]) if inside.sum() > 1 else 0.0

    def _labelled(self) -> tuple[Tensor, Tensor]:
        """Voxels in and around the fixed labels, (N, 3) normalized, evenly thinned, and their membership (L, N)."""
        labels, grid = self.problem.labels[0], self.problem.grid
        places = np.stack(np.nonzero(labels.any(0))[::-1], -1)
        reach = np.ceil(20 / grid.spacing).astype(int)
        first = np.maximum(places.min(0) - reach, 0)
        last = np.minimum(places.max(0) + reach + 1, grid.size)
        every = max(1, int(np.cbrt((last - first).prod() / LABELLED) + 1))
        i, j, k = (np.arange(a, b, every) for a, b in zip(first, last, strict=True))
        z, y, x = np.meshgrid(k, j, i, indexing="ij")
        points = self.problem.frame.normalize(grid.to_world(np.stack([x, y, z], -1).reshape(-1, 3)))
        members = labels[:, z, y, x].reshape(len(labels), -1)
        return self._tensor(points), self._tensor(members)

    def _dice(self, field: Field) -> float:
        """Mean Dice of the labels at the labelled points: of memberships, which see less change than voxels do."""
        points, fixed = self.labels
        warped = self.problem.labels[1].sample(self._map(points, field))
        both, sizes = (fixed * warped).sum(1), fixed.sum(1) + warped.square().sum(1)
        return float((2 * both / sizes.clamp(min=1e-6)).mean())

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.problem.device)


def judging_part(folder: Path, took_part: bool) -> slice:
    """Which landmarks had no part in a result folder's choice of alpha; all, where none `took_part` in the job."""
    described = folder / "alpha.json"
    if took_part and described.is_file() and protocol.read_json(described).get("criterion") == "landmarks":
        return JUDGING
    return slice(None)
