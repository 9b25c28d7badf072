"""One training for all alphas beside trainings at one alpha each, and the choice of alpha.

    python -m benchmarks.alpha [--on liver|phantoms] [--preset cidir-light] [--alphas 0,0.25,0.5,0.75,1] [--output DIR]

At each of `--alphas` the conditioned field is compared with the same network that saw only this alpha, with the same
steps. Then alpha is chosen without labels and landmarks, and by every second landmark; the other half judges. Errors
are target registration errors, continuous, in mm; on the liver the mean of inside and outside.
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
from inrreg.fields import Field
from inrreg.landmarks import Points, write_points
from inrreg.optimization import Run
from inrreg.phantom import thorax
from inrreg.problem import Problem
from inrreg.protocol import Job
from inrreg.tuning import ALPHAS, JUDGING, tune

PHANTOM = ("fixed", "moving", "fixed_mask", "moving_mask")


@dataclass(frozen=True)
class Case:
    """A pair with landmarks (N, 3) LPS mm, in regions whose means count alike; `problem()` gives a fresh one."""

    name: str
    problem: Callable[[], Problem]
    fixed: np.ndarray
    moving: np.ndarray
    region: np.ndarray

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
            yield Case(pair.name, problem, pair.fixed_landmarks, pair.moving_landmarks, pair.region)
        return
    for seed in seeds:
        made = thorax((96, 80, 96), (3.0,) * 3, seed=seed, amplitude=25.0)
        images = {name: getattr(made, name) for name in PHANTOM}
        problem = lambda images=images: Problem(**images)  # noqa: E731
        ends = made.fixed_landmarks, made.moving_landmarks
        yield Case(f"phantom {seed}", problem, *ends, np.array(["lung"] * len(ends[0])))


def train(case: Case, preset: protocol.Preset, seed: int, alpha: float | None = None) -> tuple[Field, Problem, float]:
    """The field, its problem and the seconds of one training; with `alpha` it sees no other."""
    problem, method = case.problem(), importlib.import_module(f"inrreg.methods.{preset.method}")
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
        for name, marked in (("similarity", job), ("landmarks", Job("fixed", "moving", **files))):
            start = time.perf_counter()
            found = tune(field, problem, marked, Run(seed=seed))
            row[name] = {"alpha": found.chosen, "error": case.error(field, problem, JUDGING)}
            row[name] |= {"seconds": time.perf_counter() - start, "ratio": row[name]["error"] / min(curve)}
            row["curves"], row["fields"] = found.curves, found.fields
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=("liver", "phantoms"), default="liver")
    parser.add_argument("--preset", default="cidir-light")
    parser.add_argument("--alphas", default="0,0.25,0.5,0.75,1", help="compared with trainings of their own")
    parser.add_argument("--seeds", default="0", help="of the phantoms, and of the trainings on the liver")
    parser.add_argument("--cases", default="", help="names of the pairs, all without")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="key=value, a setting of the preset")
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    preset, rows = protocol.preset(options.preset), []
    assignments = dict(text.split("=", 1) for text in options.set)
    preset = dataclasses.replace(preset, settings=preset.settings.override(assignments))
    seeds = [int(text) for text in options.seeds.split(",")]
    wanted = options.cases.split(",") if options.cases else []
    for case in cases(options.on, seeds):
        if wanted and case.name not in wanted:
            continue
        for seed in seeds if options.on == "liver" else seeds[:1]:
            field, problem, seconds = train(case, preset, seed)
            row = {"case": case.name, "seed": seed, "seconds": seconds, **searched(case, field, problem, seed)}
            curves = row["curves"]
            rows.append(row)
            print(f"{case.name}, seed {seed}: {seconds:.1f} s, fields at {row['fields']}")
            for name in ("similarity", "landmarks"):
                one = row[name]
                print(
                    f"  alpha by {name:10}{one['alpha']:5.2f}: {one['error']:.2f} mm, {one['ratio']:.3f} of the best"
                    f" {row['best']:.2f}; search {one['seconds']:.1f} s"
                )
            for name in ("bending", "sd_log"):
                print(f"  {name:8} falls with alpha: {bool(np.all(np.diff(curves[name]) <= 0))}")
            row["compared"] = []
            print(
                f"  {'alpha':>6}{'conditioned':>13}{'alone':>8}{'ratio':>8}{'bending':>10}{'SD log':>8}{'folding':>9}"
            )
            for alpha in (float(text) for text in options.alphas.split(",") if text):
                together = case.error(field.at(alpha), problem)
                alone = case.error(train(case, preset, seed, alpha)[0].at(alpha), problem)
                row["compared"].append({"alpha": alpha, "conditioned": together, "alone": alone})
                n = ALPHAS.index(alpha)
                print(
                    f"  {alpha:6.2f}{together:13.2f}{alone:8.2f}{together / alone:8.3f}{curves['bending'][n]:10.3f}"
                    f"{curves['sd_log'][n]:8.3f}{curves['folding'][n]:9.3%}",
                    flush=True,
                )
    options.output.mkdir(parents=True, exist_ok=True)
    protocol.write_json(options.output / f"alpha-{options.on}.json", {"preset": preset.name, "rows": rows})


if __name__ == "__main__":
    main()
