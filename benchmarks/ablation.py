"""The ablations of two papers in our light presets: branches and scales (DUAL-INR-DIR), regularizers (cIDIR).

    python -m benchmarks.ablation [--tables branches,regularizers] [--data phantoms,liver] [--patients 0,1]
                                  [--pairs NAMES] [--seeds 0,1,2] [--points N] [--limit 180] [--threads N]
                                  [--output DIR]

Each row is one configuration: the mean and standard deviation, over cases and seeds, of each run's mean target
registration error (TRE, mm), of its mean Dice over labels (DSC; phantoms only) and of the share of the mask or body
where the field folds. Phantoms move by 30 mm and come with lung masks and lobes; the liver pairs (evaluation data)
with neither. The last column but one is processor time, the last the paper's own TRE, on DIR-Lab. No run optimizes
longer than `--limit` seconds of the clock, 0 for as long as it takes; fewer `--points` than the presets' own make a
quick look of it. Prints the tables, in Markdown, and whether each paper's order holds. Each run is one file in
DIR/ablation, which is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.data import liver_pairs
from benchmarks.ours import optimize
from benchmarks.phantoms import PAIR
from inrreg import protocol
from inrreg.metrics import label_overlap, target_registration_error
from inrreg.phantom import thorax
from inrreg.problem import Problem
from inrreg.transforms import DisplacementGrid
from inrreg.warping import warp

AMPLITUDE = 30.0
"""Largest displacement in a phantom's lungs, mm."""
SAMPLED = 5.0
"""mm: the grid on which labels are warped."""
FOLDING = 10_000
"""Voxels of the region at which the exact determinant is taken."""
NOTABLE = 1.1
"""Ratio of two of a paper's errors from which its order counts."""


@dataclass(frozen=True)
class Row:
    """One configuration, and the TRE in mm that its paper reports; whether it is given labels, as it is there."""

    name: str
    preset: str
    paper: float
    overrides: dict[str, Any] = field(default_factory=dict)
    labels: bool = False


_LIGHT = {"regularized": 0.1, "steps": 600, "rate": 5e-4, "final_rate": 1e-5}  # as `idir-light`
# At `dual-light`'s own rate a network of omega 30 alone learns nothing.
_SINGLE = {"fine_share": 0.0, "hidden": 3, "omega_coarse": 30.0, "scale": 1.0, "rate": _LIGHT["rate"]}
_ONE_SCALE = {"steps": (800,), "sigma": (0.0,)}

TABLES = {
    # Gebauer et al. 2026, table 2, COPDgene; the single branch is a SIREN of 3 x 256, omega 30
    "branches": (
        Row("single branch", "dual-light", 1.42, _SINGLE | _ONE_SCALE, labels=True),
        Row("single branch, multi-scale", "dual-light", 1.43, _SINGLE, labels=True),
        Row("dual branch", "dual-light", 2.64, _ONE_SCALE, labels=True),
        Row("dual branch, multi-scale", "dual-light", 1.21, labels=True),
    ),
    # El Hadramy et al. 2025, tables 1 and 2, 4DCT; weights as published for IDIR, cIDIR at alpha 0.5
    "regularizers": (
        Row("IDIR, bending energy", "idir-light", 1.47),
        Row("IDIR, hyperelastic", "idir-light", 6.45, {"bending": 0.0, "hyperelastic": 0.25}),
        Row("IDIR, Jacobian", "idir-light", 4.61, {"bending": 0.0, "jacobian": 0.05}),
        Row("cIDIR, bending energy", "cidir", 1.33, _LIGHT | {"regularizer": "bending"}),
        Row("cIDIR, hyperelastic", "cidir", 2.05, _LIGHT | {"regularizer": "hyperelastic"}),
        Row("cIDIR, Jacobian", "cidir", 4.92, _LIGHT | {"regularizer": "Jacobian"}),
    ),
}


@dataclass(frozen=True)
class Case:
    """A pair as the arguments of `Problem`, its landmarks (N, 3) LPS mm, and where folding counts, (k, j, i) bool."""

    name: str
    images: dict[str, sitk.Image]
    fixed_landmarks: np.ndarray
    moving_landmarks: np.ndarray
    region: np.ndarray


def phantoms(patients: list[int]) -> Iterator[Case]:
    """One thorax for each number."""
    for patient in patients:
        made = thorax(seed=patient, amplitude=AMPLITUDE)
        images = {name: getattr(made, name) for name in PAIR}
        region = sitk.GetArrayFromImage(made.fixed_mask) > 0
        yield Case(f"phantom {patient}", images, made.fixed_landmarks, made.moving_landmarks, region)


def livers(names: list[str]) -> Iterator[Case]:
    """Those pairs of the evaluation data, or all of them, without mask or labels."""
    for pair in liver_pairs():
        if names and pair.name not in names:
            continue
        images = {"fixed": pair.fixed, "moving": pair.moving}
        region = sitk.GetArrayFromImage(pair.mask) > 0
        yield Case(f"liver {pair.name}", images, pair.fixed_landmarks, pair.moving_landmarks, region)


def measure(case: Case, row: Row, seed: int, limit: float, points: int) -> dict[str, Any]:
    """One run: its mean error in mm and Dice (None without labels), its share of folding in per cent, its seconds."""
    given = {name: image for name, image in case.images.items() if row.labels or not name.endswith("labels")}
    overrides = row.overrides | ({"points": points} if points else {})
    begun, problem = time.process_time(), Problem(**given, seed=seed)
    made = optimize(problem, row.preset, overrides, time_budget=limit)
    seconds = time.process_time() - begun
    error = target_registration_error(made.map(case.fixed_landmarks), case.moving_landmarks)
    places = np.random.default_rng(0).choice(np.stack(np.nonzero(case.region)[::-1], -1), FOLDING)
    folding = 100 * float(np.mean(np.linalg.det(np.eye(3) + made.jacobian(problem.grid.to_world(places))) <= 0))
    dice = None
    if (labels := case.images.get("fixed_labels")) is not None:
        coarse = problem.grid.resampled(SAMPLED)
        transform = DisplacementGrid(made.on_grid(coarse), coarse)
        warped = warp(case.images["moving_labels"], transform, problem.grid, labels=True)
        dice = float(np.mean([each["dice"] for each in label_overlap(labels, warped).values()]))
    return {"tre": float(error.mean()), "dice": dice, "folding": folding, "seconds": seconds}


def kept(folder: Path, case: Case, row: Row, seed: int, limit: float, points: int) -> dict[str, Any]:
    """The run in its file in that folder, or a new one, where there is none of the same settings."""
    made = {"case": case.name, "seed": seed, "limit": limit, "points": points}
    made |= json.loads(json.dumps({"row": row.name, "preset": row.preset, "overrides": row.overrides}))  # lists, then
    path = folder / (re.sub(r"\W+", "-", f"{case.name} {row.name} {seed} {limit:g} {points}") + ".json")
    if path.is_file():
        run = protocol.read_json(path)
        if made.items() <= run.items():
            return run
    run = made | measure(case, row, seed, limit, points)
    protocol.write_json(path, run)
    print(f"{case.name}  {row.name:28} seed {seed}  {run['tre']:.2f} mm, {run['seconds']:.0f} s", flush=True)
    return run


def spread(values: list[float | None], digits: int) -> str:
    """Mean and standard deviation as the papers print them."""
    if None in values:
        return "-"
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def table(rows: tuple[Row, ...], runs: list[dict[str, Any]]) -> str:
    """One table for one kind of data."""
    lines = ["| | TRE (mm) | DSC | det <= 0 (%) | seconds | paper (mm) |", "|---|---|---|---|---|---|"]
    for row in rows:
        own = [run for run in runs if run["row"] == row.name]
        cells = [spread([run[key] for run in own], digits) for key, digits in (("tre", 2), ("dice", 3), ("folding", 3))]
        cells += [f"{np.mean([run['seconds'] for run in own]):.0f}", f"{row.paper:.2f}"]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(rows: tuple[Row, ...], runs: list[dict[str, Any]]) -> str:
    """One sentence on whether the rows come in the paper's order, where its own figures differ notably."""
    mean = {row.name: np.mean([run["tre"] for run in runs if run["row"] == row.name]) for row in rows}
    pairs = [
        (one, other) for one, other in itertools.permutations(rows, 2) if other.paper > NOTABLE * one.paper
    ]  # the first is the better one in the paper
    broken = [(one.name, other.name) for one, other in pairs if mean[one.name] >= mean[other.name]]
    if not broken:
        return f"The paper's order holds in all {len(pairs)} of its notable differences."
    told = "; ".join(
        f"{one} ({mean[one]:.2f} mm) is not better than {other} ({mean[other]:.2f})" for one, other in broken
    )
    return f"The paper's order does not hold in {len(broken)} of its {len(pairs)} notable differences: {told}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--data", default="phantoms,liver")
    parser.add_argument("--patients", default="0,1", help="phantoms, by the number that draws each")
    parser.add_argument("--pairs", default="", help="names of the liver pairs, all without")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--points", type=int, default=0, help="random points a step, 0 for each preset's own")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that one optimization may take")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds, patients = ([int(part) for part in text.split(",")] for text in (options.seeds, options.patients))
    folder = options.output / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = options.pairs.split(",") if options.pairs else []
    for data in options.data.split(","):
        cases = list(phantoms(patients) if data == "phantoms" else livers(pairs))
        for name in options.tables.split(","):
            rows = TABLES[name]
            runs = [
                kept(folder, case, row, seed, options.limit, options.points)
                for seed, case, row in itertools.product(seeds, cases, rows)
            ]
            print(f"\n{name}, {data}\n\n{table(rows, runs)}\n\n{verdict(rows, runs)}\n", flush=True)


if __name__ == "__main__":
    main()
