"""What regularization costs a step of the paper methods, and what a random subset of the points does to its gradient.

    python -m benchmarks.step [--presets dual,idir] [--threads 2] [--draws 24] [--output step.json]

On a generated thorax with masks and lobes, so that every term of the loss is there; after a short optimization, since
a fresh network has little to regularize. Steps (draw, forward, backward, update) are interleaved and the median taken:
not regularized at all, as the preset has it, and at every point. Variances are of the whole loss's gradient over
independent draws, summed over the weights; the bias is the distance of the two mean gradients in units of what chance
alone would make it, so that 1 means none.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inrreg import protocol
from inrreg.fields import Field
from inrreg.optimization import Run, descend
from inrreg.phantom import thorax
from inrreg.pointwise import PointLoss
from inrreg.problem import Problem

WARM_UP = 60
"""Optimizer steps a stage before anything is measured."""
VARIANTS = ("none", "preset", "all")


def gradients(field: Field, draw: Callable[[], dict[str, Tensor]], count: int) -> Tensor:
    """The loss's gradient at `count` independent draws, (count, weights)."""
    weights = [parameter for parameter in field.parameters() if parameter.requires_grad]
    rows = (torch.autograd.grad(sum(draw().values()), weights, materialize_grads=True) for _ in range(count))
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def variance(rows: Tensor) -> float:
    """The sum over weights of the variance between draws."""
    return float(rows.var(0).sum())


def bias(one: Tensor, other: Tensor) -> float:
    """Squared distance of two sets' mean gradients over its expectation when both estimate the same."""
    return float((one.mean(0) - other.mean(0)).square().sum()) / (
        variance(one) / len(one) + variance(other) / len(other)
    )


def step_time(field: Field, draw: Callable[[], dict[str, Tensor]]) -> Callable[[], float]:
    """Seconds of one optimizer step that leaves the weights where they are."""
    optimizer = torch.optim.AdamW([p for p in field.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0)

    def timed() -> float:
        start = time.perf_counter()
        descend(optimizer, 0.0, draw())
        return time.perf_counter() - start

    return timed


def measure(preset_name: str, problem: Problem, draws: int, repeats: int) -> dict[str, Any]:
    """Costs, variances and bias of one preset's step."""
    preset = protocol.preset(preset_name)
    method, settings = importlib.import_module(f"inrreg.methods.{preset.method}"), preset.settings
    steps = (WARM_UP,) * len(settings.steps) if isinstance(settings.steps, tuple) else 3 * WARM_UP
    field = method.fit(problem, dataclasses.replace(settings, steps=steps, points=5000, regularized=0.2), Run())
    field.requires_grad_(True)
    shares = {"none": 0.0, "preset": settings.regularized, "all": 1.0}
    losses = {name: PointLoss(problem, settings.points, round(s * settings.points)) for name, s in shares.items()}

    def draw(name: str) -> dict[str, Tensor]:
        return method.terms(losses[name], field, settings)

    steps_of = {name: step_time(field, lambda n=name: draw(n)) for name in VARIANTS}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for repeat in range(repeats + 1):
        for name in VARIANTS:
            taken = steps_of[name]()
            if repeat:
                seconds[name].append(taken)
    rows = {name: gradients(field, lambda n=name: draw(n), draws) for name in ("preset", "all")}
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "preset": preset_name,
        "share": settings.regularized,
        "points": settings.points,
        "seconds": median,
        "cost": median["preset"] / median["none"],
        "cost_all": median["all"] / median["none"],
        "variance": variance(rows["preset"]) / variance(rows["all"]),
        "bias": bias(rows["preset"], rows["all"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="dual,idir")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    phantom = thorax(seed=0)
    names = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels")
    problem = Problem(**{name: getattr(phantom, name) for name in names})
    rows = []
    for name in options.presets.split(","):
        rows.append(row := measure(name, problem, options.draws, options.repeats))
        print(
            f"{name}: {row['points']} points, {row['share']:.0%} of them regularized: {row['seconds']['preset']:.2f} s"
            f" a step, {row['cost']:.2f} of the unregularized step ({row['seconds']['none']:.2f} s; regularized"
            f" everywhere {row['cost_all']:.2f}); variance {row['variance']:.3f} of the full gradient's, bias"
            f" {row['bias']:.2f} (1: none)",
            flush=True,
        )
    if options.output:
        protocol.write_json(options.output, {"threads": options.threads, "rows": rows})


if __name__ == "__main__":
    main()
