"""Whether INR-LDDMM cannot fold where IDIR does, and whether its inverse is one: each demand with what was measured.

    python -m benchmarks.flow [--on liver,phantoms] [--preset lddmm-light] [--free idir-light] [--set points=2000]
                              [--seeds 0] [--cases NAMES] [--spacing 3] [--output DIR]

Of each pair (phantoms as in `benchmarks.alpha`) `--free` without its bending energy tells whether the pair tempts to
fold: the share of random points of the image with a determinant of at most 0. `--set` changes its settings: with a
fifth of its points it takes a fifth of its time. The preset's determinant is then exact at
every node of a grid over the whole image, `--spacing` mm apart. There and back is the exported field and then the
exported inverse, at points of the body or the lungs, and beside it the model's own inverse. Errors in mm.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.alpha import Case, cases, train
from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.transforms import DisplacementGrid

POINTS = 50_000
"""Random points of the image, where one of many folds tells enough."""
RETURNING = 5000
"""Points that go there and back."""


def determinants(made: Deformation, points: np.ndarray) -> np.ndarray:
    """Exact Jacobian determinants of the map at points (N, 3) LPS mm."""
    return np.linalg.det(made.jacobian(points) + np.eye(3))


def folding(case: Case, free: protocol.Preset, seed: int) -> dict[str, float]:
    """The share of the image's points at which the method folds, left without its bending energy, and its error."""
    field, problem, seconds = train(
        case, dataclasses.replace(free, settings=free.settings.override({"bending": 0})), seed
    )
    index = np.random.default_rng(1).uniform(0, np.array(problem.grid.size) - 1, (POINTS, 3))
    made = Deformation(field.freeze(), problem.frame, problem.grid, (), np.ones((2, 3)), problem.grid.spacing)
    share = float((determinants(made, problem.grid.to_world(index)) <= 0).mean())
    return {"folding": share, "error": case.error(field, problem), "seconds": seconds}


def examine(case: Case, preset: protocol.Preset, seed: int, spacing: float) -> dict[str, Any]:
    """All that is measured of one pair."""
    field, problem, seconds = train(case, preset, seed)
    made = Deformation(field.freeze(), problem.frame, problem.grid)
    nodes = problem.grid.resampled(np.full(3, spacing)).points().reshape(-1, 3)
    nodes = nodes[made.contains(nodes)]
    found = np.concatenate([determinants(made, part) for part in np.array_split(nodes, 1 + len(nodes) // 200_000)])
    places = np.stack(np.nonzero(case.mask)[::-1], -1)
    points = problem.grid.to_world(places[np.random.default_rng(0).integers(len(places), size=RETURNING)])
    there, back = (DisplacementGrid.of(image) for image in (made.displacement_field(), made.inverse_field()))
    x = torch.as_tensor(problem.frame.normalize(points), dtype=torch.float32)
    own = (field.inverse(x + field.dense(x)) - x).norm(dim=1).numpy() * problem.frame.scale
    return {
        "seconds": seconds,
        "error": case.error(field, problem),
        "time_steps": field.steps,
        "nodes": len(nodes),
        "smallest": float(found.min()),
        "there and back": float(np.percentile(np.linalg.norm(back.map(there.map(points)) - points, axis=1), 99)),
        "own inverse": float(np.percentile(own, 99)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="liver,phantoms")
    parser.add_argument("--preset", default="lddmm-light")
    parser.add_argument("--free", default="idir-light", help="compared without its bending energy; '' for none")
    parser.add_argument("--set", action="append", default=[], help="key=value, of that one's settings")
    parser.add_argument("--seeds", default="0", help="the first is the networks', each is a phantom")
    parser.add_argument("--cases", default="", help="only these, by name")
    parser.add_argument("--spacing", type=float, default=3.0, help="mm between the nodes looked at")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds = [int(text) for text in options.seeds.split(",")]
    free, rows = protocol.preset(options.free) if options.free else None, []
    if free:
        changed = free.settings.override(protocol.assignments(options.set))
        free = dataclasses.replace(free, settings=changed)
    for case in (case for on in options.on.split(",") for case in cases(on, seeds)):
        if options.cases and case.name not in options.cases.split(","):
            continue
        row = {
            "case": case.name,
            "free": None,
            **examine(case, protocol.preset(options.preset), seeds[0], options.spacing),
        }
        print(
            f"{case.name}: {row['error']:.2f} mm, smallest determinant {row['smallest']:.3f} of {row['nodes']} nodes in"
            f" {row['time_steps']} steps, there and back {row['there and back']:.3f} mm (99 %),"
            f" by the model {row['own inverse']:.1e} mm, {row['seconds']:.0f} s",
            flush=True,
        )
        if free:
            row["free"] = folding(case, free, seeds[0])
            print(
                f"{case.name}: {free.name} without regularization folds at {row['free']['folding']:.3%},"
                f" {row['free']['error']:.2f} mm, {row['free']['seconds']:.0f} s",
                flush=True,
            )
        rows.append(row)
    tempting = [row["smallest"] for row in rows if not row["free"] or row["free"]["folding"] > 0]
    print(f"smallest determinant where the other folds: {min(tempting, default=np.nan):.3f} (more than 0)")
    for name, what in (("own inverse", "by the model's own inverse"), ("there and back", "by the exported fields")):
        print(f"there and back {what}, 99 %: {max(row[name] for row in rows):.1e} mm (less than 0.3)")
    options.output.mkdir(parents=True, exist_ok=True)
    written = {"preset": options.preset, "free": options.free, "set": options.set, "rows": rows}
    protocol.write_json(options.output / "flow.json", written)


if __name__ == "__main__":
    main()
