"""Whether regularizing at a random subset of the points moves the final error of the paper methods.

    python -m benchmarks.subset [--preset dual] [--shares 0.1,1] [--seeds 0,1,2] [--points 1500] [--steps 50,50,100]

The liver pairs of the evaluation data, registered with each share of the points regularized and all else equal: a seed
gives the same network and the same points to compare. Fewer points and steps than the preset's make it affordable, and
the test harder: of fewer points a subset is a noisier mean. Errors are `overall` ones, in mm, as in `benchmarks.run`.
The spread is the standard deviation over seeds of the mean over pairs, of all shares pooled, and the standard error
that of the paired differences from the last share. Prints a table, writes subset.json as it goes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import Pair, liver_pairs
from benchmarks.measure import by_region
from inrreg import protocol
from inrreg.optimization import Run
from inrreg.problem import Problem


def error(pair: Pair, preset_name: str, overrides: dict[str, Any], seed: int) -> dict[str, float]:
    """Errors in mm and seconds of one registration."""
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    problem = Problem(pair.fixed, pair.moving, seed=seed)
    start = time.perf_counter()
    field = method.fit(problem, preset.settings.override(overrides), Run(seed=seed))
    seconds = time.perf_counter() - start
    x = torch.as_tensor(problem.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    mapped = pair.fixed_landmarks + field.dense(x).numpy() * problem.frame.scale
    return {**by_region(pair, mapped), "seconds": seconds}


def summarize(rows: list[dict[str, Any]], shares: list[float]) -> dict[str, Any]:
    """Means over pairs and seeds, their spread over seeds, and how far each share is from the last."""
    pairs, seeds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("pair", "seed"))
    of = {(row["share"], row["seed"], row["pair"]): row["overall"] for row in rows}
    errors = np.array([[[of[share, seed, pair] for pair in pairs] for seed in seeds] for share in shares])
    by_seed = errors.mean(2)
    spread = float(np.sqrt(by_seed.var(1, ddof=1).mean())) if len(seeds) > 1 else float("nan")
    differences = (errors - errors[-1]).reshape(len(shares), -1)
    standard = differences.std(1, ddof=1) / np.sqrt(differences.shape[1])
    table = [
        {
            "share": share,
            "overall": float(mean.mean()),
            "by_seed": mean.tolist(),
            "difference": float(d),
            "se": float(s),
        }
        for share, mean, d, s in zip(shares, by_seed, differences.mean(1), standard, strict=True)
    ]
    return {"spread": spread, "shares": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dual")
    parser.add_argument("--shares", default="0.1,1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--steps", default="50,50,100")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shares = [float(text) for text in options.shares.split(",")]
    seeds, pairs = [int(text) for text in options.seeds.split(",")], list(liver_pairs())
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for pair in pairs:
            for share in shares:
                overrides = {"regularized": share, "points": options.points, "steps": options.steps}
                row = {"pair": pair.name, "seed": seed, "share": share}
                rows.append(row | error(pair, options.preset, overrides, seed))
                print(
                    f"{pair.name:8}seed {seed} share {share:<6g}{rows[-1]['overall']:6.2f} mm in"
                    f" {rows[-1]['seconds']:6.1f} s",
                    flush=True,
                )
                protocol.write_json(options.output / "subset.json", {"preset": options.preset, "rows": rows})
    summary = summarize(rows, shares)
    for row in summary["shares"]:
        print(
            f"share {row['share']:<6g}{row['overall']:6.3f} mm, by seed"
            + "".join(f"{value:7.3f}" for value in row["by_seed"])
            + f"; {row['difference']:+.3f} mm from share {shares[-1]:g}, standard error {row['se']:.3f}"
        )
    print(f"spread of the seeds: {summary['spread']:.3f} mm")
    protocol.write_json(options.output / "subset.json", {"preset": options.preset, **summary, "rows": rows})


if __name__ == "__main__":
    main()
