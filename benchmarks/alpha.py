"""One training for all alphas beside trainings at one alpha each, the choice of alpha, and what is asked of both.

    python -m benchmarks.alpha [--on liver|phantoms] [--preset cidir-light] [--alphas 0,0.25,0.5,0.75,1]
                               [--beside fast] [--output DIR]

At each of `--alphas` the conditioned field is compared with the same network that saw only this alpha, with the same
steps. Then alpha is chosen without labels and landmarks, and by every second landmark; the other half judges. The
fields that a result holds for a slider are interpolated over alpha and compared with the exact ones in the mask. Errors
are target registration errors, continuous, in mm; on the liver the mean of inside and outside. At the end, over all
cases, each demand with what was measured. Without `--alphas ""` most of the time goes into the trainings at one alpha.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.data import liver_pairs
from inrreg import conditioning, protocol
from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.landmarks import Points, write_points
from inrreg.optimization import Run
from inrreg.phantom import thorax
from inrreg.problem import Problem
from inrreg.protocol import Job
from inrreg.transforms import DisplacementGrid
from inrreg.tuning import ALPHAS, JUDGING, coarse, tune

PHANTOM = ("fixed", "moving", "fixed_mask", "moving_mask")
SEARCHES = ("similarity", "landmarks")
OFF_GRID = (0.03, 0.17, 0.28, 0.42, 0.55, 0.68, 0.81, 0.93)
"""Alphas at which the slider's fields are judged, about midway between those that were looked at."""


@dataclass(frozen=True)
class Case:
    """A pair with landmarks (N, 3) LPS mm, in regions whose means count alike; `problem()` gives a fresh one.

    `mask`, (k, j, i) bool on the fixed grid, says where fields are looked at; `truth` gives the true displacement
    (N, 3) mm at points (N, 3) of the fixed image, where it is known.
    """

    name: str
    problem: Callable[[], Problem]
    fixed: np.ndarray
    moving: np.ndarray
    region: np.ndarray
    mask: np.ndarray
    truth: Callable[[np.ndarray], np.ndarray] | None = None

    def error(self, field: Field, problem: Problem, part: slice = slice(None)) -> float:
        """Mean over the regions of the mean error of those landmarks, mm."""
        x = torch.as_tensor(problem.frame.normalize(self.fixed), dtype=torch.float32)
        mapped = self.fixed + field.dense(x).numpy() * problem.frame.scale
        errors, region = np.linalg.norm(mapped - self.moving, axis=1)[part], self.region[part]
        return float(np.mean([errors[region == name].mean() for name in np.unique(region)]))


def cases(on: str, seeds: list[int]) -> Iterator[Case]:
    """The liver pairs, or a phantom for each seed with 25 mm of motion, quarter resolution."""
    if on == "liver":
        for pair in liver_pairs():
            problem = lambda pair=pair: Problem(pair.fixed, pair.moving)  # noqa: E731
            mask = sitk.GetArrayFromImage(pair.mask) > 0
            yield Case(pair.name, problem, pair.fixed_landmarks, pair.moving_landmarks, pair.region, mask)
        return
    for seed in seeds:
        made = thorax((96, 80, 96), (3.0,) * 3, seed=seed, amplitude=25.0)
        images = {name: getattr(made, name) for name in PHANTOM}
        problem = lambda images=images: Problem(**images)  # noqa: E731
        ends = made.fixed_landmarks, made.moving_landmarks
        mask = sitk.GetArrayFromImage(made.fixed_mask) > 0
        yield Case(f"phantom {seed}", problem, *ends, np.array(["lung"] * len(ends[0])), mask, made.displacement)


def train(case: Case, preset: protocol.Preset, seed: int, alpha: float | None = None) -> tuple[Field, Problem, float]:
    """The field, its problem and the seconds of one training; with `alpha` it sees no other.

    Where a step sees several alphas, it is then enough that it sees this one once: the loss is their mean.
    """
    problem, method = case.problem(), importlib.import_module(f"inrreg.methods.{preset.method}")
    if alpha is not None and hasattr(preset.settings, "alphas"):
        preset = dataclasses.replace(preset, settings=dataclasses.replace(preset.settings, alphas=1))
    only = mock.patch.object(conditioning.Strata, "draw", return_value=alpha)
    start = time.perf_counter()
    with contextlib.nullcontext() if alpha is None else only:
        field = method.fit(problem, preset.settings, Run(seed=seed))
    return field, problem, time.perf_counter() - start


def searched(case: Case, field: Field, problem: Problem, seed: int) -> dict[str, Any]:
    """alpha found without landmarks and by half of them, the error of both and of the best alpha on the other half."""
    curve = [case.error(field.at(alpha), problem, JUDGING) for alpha in ALPHAS]
    job, row = Job("fixed", "moving"), {"errors": curve, "best": min(curve)}
    with tempfile.TemporaryDirectory() as folder:
        files = {"fixed_landmarks": f"{folder}/f.csv", "moving_landmarks": f"{folder}/m.csv"}
        write_points(files["fixed_landmarks"], Points(case.fixed))
        write_points(files["moving_landmarks"], Points(case.moving))
        for name, marked in zip(SEARCHES, (job, Job("fixed", "moving", **files)), strict=True):
            start = time.perf_counter()
            found = tune(field, problem, marked, Run(seed=seed))
            row[name] = {"alpha": found.chosen, "error": case.error(field, problem, JUDGING)}
            row[name] |= {"seconds": time.perf_counter() - start, "ratio": row[name]["error"] / min(curve)}
            row["curves"], row["fields"] = found.curves, found.fields
    return row


def sliding(case: Case, field: Field, problem: Problem, alphas: tuple[float, ...]) -> float:
    """The largest 99th percentile, mm, of what a slider shows wrong in the mask: fields at `alphas`, interpolated."""
    places = np.stack(np.nonzero(case.mask)[::-1], -1)
    points = problem.grid.to_world(places[np.random.default_rng(0).integers(len(places), size=20_000)])
    made = Deformation(field, problem.frame, problem.grid)
    shown = np.stack([DisplacementGrid.of(image).map(points) for image in coarse(made, alphas)])
    worst = 0.0
    for alpha in OFF_GRID:
        n = int(np.searchsorted(alphas, alpha))
        part = (alpha - alphas[n - 1]) / (alphas[n] - alphas[n - 1])
        between = (1 - part) * shown[n - 1] + part * shown[n]
        x = torch.as_tensor(problem.frame.normalize(points), dtype=torch.float32)
        exact = points + field.at(alpha).dense(x).numpy() * problem.frame.scale
        worst = max(worst, float(np.percentile(np.linalg.norm(between - exact, axis=1), 99)))
    return worst


def examine(case: Case, preset: protocol.Preset, seed: int, alphas: list[float], beside: list[str]) -> dict[str, Any]:
    """All that is measured of one case with one seed."""
    field, problem, seconds = train(case, preset, seed)
    row = {"case": case.name, "seed": seed, "seconds": seconds, **searched(case, field, problem, seed)}
    row["slider"] = sliding(case, field, problem, row["fields"])
    row["error"] = case.error(field.at(row["similarity"]["alpha"]), problem)
    row["beside"] = {}
    for name in beside:
        made, own, spent = train(case, protocol.preset(name), seed)
        row["beside"][name] = {"error": case.error(made.eval(), own), "seconds": spent}
    row["compared"] = []
    for alpha in alphas:
        together = case.error(field.at(alpha), problem)
        alone = case.error(train(case, preset, seed, alpha)[0].at(alpha), problem)
        row["compared"].append({"alpha": alpha, "conditioned": together, "alone": alone})
    return row


def described(row: dict[str, Any]) -> str:
    """One case in some lines."""
    curves, slider = row["curves"], row["slider"]
    lines = [f"{row['case']}, seed {row['seed']}: {row['seconds']:.1f} s, {len(row['fields'])} fields {slider:.2f} mm"]
    for name in SEARCHES:
        one = row[name]
        lines.append(
            f"  alpha by {name:10}{one['alpha']:5.2f}: {one['error']:.2f} mm, {one['ratio']:.3f} of the best"
            f" {row['best']:.2f}; search {one['seconds']:.1f} s"
        )
    lines += [
        f"  {name:12} {one['error']:.2f} mm in {one['seconds']:.1f} s, conditioned {row['error']:.2f} mm"
        for name, one in row["beside"].items()
    ]
    lines.append(f"  {'alpha':>6}{'conditioned':>13}{'alone':>8}{'ratio':>8}{'bending':>10}{'SD log':>8}{'folding':>9}")
    for one in row["compared"]:
        n, ratio = ALPHAS.index(one["alpha"]), one["conditioned"] / one["alone"]
        lines.append(
            f"  {one['alpha']:6.2f}{one['conditioned']:13.2f}{one['alone']:8.2f}{ratio:8.3f}"
            f"{curves['bending'][n]:10.3f}{curves['sd_log'][n]:8.3f}{curves['folding'][n]:9.3%}"
        )
    return "\n".join(lines)


def demands(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """What is asked over all cases: in words, what was measured, and its bound from above."""
    found = []
    for name, words in (("bending", "bending energy"), ("sd_log", "SD of log det")):
        rises = sum(int(np.sum(np.diff(row["curves"][name]) >= 0)) for row in rows)
        found.append((f"steps of alpha at which the {words} does not fall", rises, 0))
    for alpha in dict.fromkeys(one["alpha"] for row in rows for one in row["compared"]):
        both = [one for row in rows for one in row["compared"] if one["alpha"] == alpha]
        ratio = np.mean([one["conditioned"] for one in both]) / np.mean([one["alone"] for one in both])
        found.append((f"mean error at alpha {alpha:g}, of trainings at it alone", ratio, 1.1))
    for name in SEARCHES:
        ratio = np.mean([row[name]["error"] for row in rows]) / np.mean([row["best"] for row in rows])
        found.append((f"mean error of alpha by {name}, of the best alpha's", ratio, 1.05))
    for name in rows[0]["beside"]:
        ratio = np.mean([row["error"] for row in rows]) / np.mean([row["beside"][name]["error"] for row in rows])
        found.append((f"mean error, of {name}'s", ratio, 1.15))
    found.append(("seconds of the longest training", max(row["seconds"] for row in rows), 180))
    found.append(("seconds of the longest search", max(row[n]["seconds"] for row in rows for n in SEARCHES), 10))
    found.append(("mm, 99th percentile between the slider's fields", max(row["slider"] for row in rows), 0.3))
    return found


def told(demands: list[tuple[str, float, float]]) -> str:
    """A line for each demand, and whether it holds."""
    return "\n".join(
        f"{'holds' if measured <= bound else 'MISSED':8}{measured:8.3f}  at most {bound:<6g}{words}"
        for words, measured, bound in demands
    )


def chosen(name: str, assignments: list[str]) -> protocol.Preset:
    """A preset with some settings replaced, each as key=value."""
    preset = protocol.preset(name)
    return dataclasses.replace(
        preset, settings=preset.settings.override(dict(text.split("=", 1) for text in assignments))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=("liver", "phantoms"), default="liver")
    parser.add_argument("--preset", default="cidir-light")
    parser.add_argument("--alphas", default="0,0.25,0.5,0.75,1", help="compared with trainings of their own")
    parser.add_argument("--beside", default="fast", help="presets whose errors are compared with the chosen alpha's")
    parser.add_argument("--seeds", default="0", help="of the phantoms, and of the trainings on the liver")
    parser.add_argument("--cases", default="", help="names of the pairs, all without")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="key=value, a setting of the preset")
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    preset = chosen(options.preset, options.set)
    seeds = [int(text) for text in options.seeds.split(",")]
    wanted, beside = ([name for name in text.split(",") if name] for text in (options.cases, options.beside))
    alphas = [float(text) for text in options.alphas.split(",") if text]
    rows: list[dict[str, Any]] = []
    for case in cases(options.on, seeds):
        if wanted and case.name not in wanted:
            continue
        for seed in seeds if options.on == "liver" else seeds[:1]:
            rows.append(examine(case, preset, seed, alphas, beside))
            print(described(rows[-1]), flush=True)
    print(told(demands(rows)))
    options.output.mkdir(parents=True, exist_ok=True)
    written = {"preset": preset.name, "threads": options.threads, "rows": rows, "demands": demands(rows)}
    protocol.write_json(options.output / f"alpha-{options.on}.json", written)


if __name__ == "__main__":
    main()
