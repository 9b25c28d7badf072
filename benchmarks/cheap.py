"""Whether what makes a step of the paper methods cheaper moves their final error.

    python -m benchmarks.cheap [--preset dual] [--ways regularized=0.1,regularized=1] [--seeds 0,1,2]
                               [--points 1500] [--steps 50,50,100]

A way is a setting and its value, or a number format: `float32`, or `tf32` or `bf16` in the hidden layers' products and
their gradients, as a GPU's tensor cores round them, imitated here by rounding the operands.

The liver pairs of the evaluation data, registered in each way with all else equal: a seed gives the same network and
the same points to compare. Fewer points and steps than the preset's make it affordable, and the test harder: of fewer
points a mean is noisier. Errors are `overall` ones, in mm, as in `benchmarks.run`. The spread is the standard deviation
over seeds of the mean over pairs, of all ways pooled, and the standard error that of the paired differences from the
last way. Prints a table, writes cheap.json as it goes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import Pair, liver_pairs
from benchmarks.measure import by_region
from inrreg import protocol
from inrreg.fields import siren
from inrreg.optimization import Run
from inrreg.problem import Problem

KEPT = {"float32": 24, "tf32": 11, "bf16": 8}
"""Bits of a number's significand."""


class RoundedProduct(torch.autograd.Function):
    """x (..., n) times the transpose of weight (m, n), and its gradients, of operands rounded to some bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bits = bits
        return rounded(x, bits) @ rounded(weight, bits).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = (rounded(each, ctx.bits) for each in ctx.saved_tensors)
        grad = rounded(grad, ctx.bits)
        return grad @ weight, grad.flatten(0, -2).T @ x.flatten(0, -2), None


def rounded(x: Tensor, bits: int) -> Tensor:
    """float32 numbers rounded to that many bits of their significand."""
    dropped = 24 - bits
    return ((x.contiguous().view(torch.int32) + (1 << dropped >> 1)) >> dropped << dropped).view(torch.float32)


def in_format(bits: int) -> Any:
    """While this is entered, hidden layers multiply in that format wherever gradients are taken."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return exact(x, weight, bias)
        product = RoundedProduct.apply(x, weight, bits)
        return product if bias is None else product + bias

    exact = siren.hidden_linear
    return patch.object(siren, "hidden_linear", linear)


def error(pair: Pair, preset_name: str, way: str, overrides: dict[str, Any], seed: int) -> dict[str, float]:
    """Errors in mm and seconds of one registration."""
    name, given, value = way.partition("=")
    if given:
        overrides = overrides | {name: value}
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    problem = Problem(pair.fixed, pair.moving, seed=seed)
    start = time.perf_counter()
    with in_format(24 if given else KEPT[name]):
        field = method.fit(problem, preset.settings.override(overrides), Run(seed=seed))
    seconds = time.perf_counter() - start
    x = torch.as_tensor(problem.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    mapped = pair.fixed_landmarks + field.dense(x).numpy() * problem.frame.scale
    return {**by_region(pair, mapped), "seconds": seconds}


def summarize(rows: list[dict[str, Any]], ways: list[str]) -> dict[str, Any]:
    """Means over pairs and seeds, their spread over seeds, and how far each way is from the last."""
    pairs, seeds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("pair", "seed"))
    of = {(row["way"], row["seed"], row["pair"]): row["overall"] for row in rows}
    errors = np.array([[[of[way, seed, pair] for pair in pairs] for seed in seeds] for way in ways])
    by_seed = errors.mean(2)
    spread = float(np.sqrt(by_seed.var(1, ddof=1).mean())) if len(seeds) > 1 else None
    differences = (errors - errors[-1]).reshape(len(ways), -1)
    standard = differences.std(1, ddof=1) / np.sqrt(differences.shape[1])
    table = [
        {
            "way": way,
            "overall": float(mean.mean()),
            "by_seed": mean.tolist(),
            "difference": float(d),
            "se": float(s),
        }
        for way, mean, d, s in zip(ways, by_seed, differences.mean(1), standard, strict=True)
    ]
    return {"spread": spread, "ways": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dual")
    parser.add_argument("--ways", default="regularized=0.1,regularized=1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--steps", default="50,50,100")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ways = options.ways.split(",")
    seeds, pairs = [int(text) for text in options.seeds.split(",")], list(liver_pairs())
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for pair in pairs:
            for way in ways:
                overrides = {"points": options.points, "steps": options.steps}
                row = {"pair": pair.name, "seed": seed, "way": way}
                rows.append(row | error(pair, options.preset, way, overrides, seed))
                print(
                    f"{pair.name:8}seed {seed} {way:16}{rows[-1]['overall']:6.2f} mm in {rows[-1]['seconds']:6.1f} s",
                    flush=True,
                )
                protocol.write_json(options.output / "cheap.json", {"preset": options.preset, "rows": rows})
    summary = summarize(rows, ways)
    for row in summary["ways"]:
        print(
            f"{row['way']:16}{row['overall']:6.3f} mm, by seed"
            + "".join(f"{value:7.3f}" for value in row["by_seed"])
            + f"; {row['difference']:+.3f} mm from {ways[-1]}, standard error {row['se']:.3f}"
        )
    if summary["spread"] is not None:
        print(f"spread of the seeds: {summary['spread']:.3f} mm")
    protocol.write_json(options.output / "cheap.json", {"preset": options.preset, **summary, "rows": rows})


if __name__ == "__main__":
    main()
