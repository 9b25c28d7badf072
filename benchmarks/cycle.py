"""Both directions at once: error, whether there and back is the identity, and what the uncertainty is worth.

    python -m benchmarks.cycle [--on liver,phantoms] [--preset ccidir-light] [--beside idir-light] [--seeds 0,1]
                               [--cases NAMES] [--output DIR]

Target registration errors are continuous, in mm, on the liver the mean of inside and outside; beside them those of
another preset. There and back is the exported field and then the exported inverse, at points of the body or the lungs.
Spearman's rank correlation of the uncertainty with the error: on phantoms (25 mm of motion, lung masks; one for each
seed) at points of the lungs, where the true error is known, and at all landmarks, which lie where there is structure.
At the end, over all cases, each demand with what was measured.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.stats import spearmanr

from benchmarks.alpha import Case, cases, chosen, told, train
from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.transforms import DisplacementGrid

POINTS = 5000
"""Points of the mask."""


def examine(case: Case, preset: protocol.Preset, beside: list[str], seed: int) -> dict[str, Any]:
    """All that is measured of one case; `agreement` in mm."""
    field, problem, seconds = train(case, preset, seed)
    made = Deformation(field.freeze(), problem.frame, problem.grid)
    places = np.stack(np.nonzero(case.mask)[::-1], -1)
    points = problem.grid.to_world(places[np.random.default_rng(0).integers(len(places), size=POINTS)])
    there, back = (DisplacementGrid.of(image) for image in (made.displacement_field(), made.inverse_field()))
    agreement = np.linalg.norm(back.map(there.map(points)) - points, axis=1)
    row = {"case": case.name, "seed": seed, "seconds": seconds, "error": case.error(field, problem)}
    row["agreement"] = float(np.percentile(agreement, 95))
    uncertainty = made.uncertainty(points)
    row["uncertainty"] = float(uncertainty.mean())
    missed = np.linalg.norm(made.map(case.fixed) - case.moving, axis=1)
    row["at_landmarks"] = float(spearmanr(made.uncertainty(case.fixed), missed).statistic)
    if case.truth is not None:
        wrong = np.linalg.norm(made.map(points) - points - case.truth(points), axis=1)
        row["correlation"] = float(spearmanr(uncertainty, wrong).statistic)
    row["beside"] = {}
    for name in beside:
        other, own, _ = train(case, protocol.preset(name), seed)
        row["beside"][name] = case.error(other.freeze(), own)
    return row


def demands(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """What is asked over all cases: in words, what was measured, and its bound from above."""
    found = [("mm, 95th percentile of there and back", max(row["agreement"] for row in rows), 0.5)]
    for name in rows[0]["beside"]:
        ratio = np.mean([row["error"] for row in rows]) / np.mean([row["beside"][name] for row in rows])
        found.append((f"mean error, of {name}'s", ratio, 1.05))
    if "correlation" in rows[0]:
        found.append(("1 - Spearman's correlation", 1 - min(row["correlation"] for row in rows), 0.5))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", default="liver,phantoms")
    parser.add_argument("--preset", default="ccidir-light")
    parser.add_argument("--beside", default="idir-light", help="presets whose errors are compared on the liver")
    parser.add_argument("--seeds", default="0,1", help="of the phantoms; the liver is registered with the first")
    parser.add_argument("--cases", default="", help="names of the pairs, all without")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="key=value, a setting of the preset")
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    preset = chosen(options.preset, options.set)
    seeds = [int(text) for text in options.seeds.split(",")]
    wanted = options.cases.split(",") if options.cases else []
    written: dict[str, Any] = {"preset": preset.name, "threads": options.threads}
    for on in options.on.split(","):
        beside = [name for name in options.beside.split(",") if name and on == "liver"]
        rows = []
        for case in cases(on, seeds):
            if wanted and case.name not in wanted:
                continue
            rows.append(row := examine(case, preset, beside, seeds[0]))
            others = "".join(f", {name} {error:.2f} mm" for name, error in row["beside"].items())
            correlation = f", correlation {row['correlation']:.2f}" if "correlation" in row else ""
            print(
                f"{case.name}: {row['error']:.2f} mm in {row['seconds']:.1f} s{others}; there and back"
                f" {row['agreement']:.2f} mm; uncertainty {row['uncertainty']:.2f} mm{correlation}, at landmarks"
                f" {row['at_landmarks']:.2f}",
                flush=True,
            )
        print(told(demands(rows)))
        written[on] = {"rows": rows, "demands": demands(rows)}
    options.output.mkdir(parents=True, exist_ok=True)
    protocol.write_json(options.output / "cycle.json", written)


if __name__ == "__main__":
    main()
