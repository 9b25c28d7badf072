"""The error in the course of one run of ours."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import torch

from benchmarks.data import Pair
from benchmarks.measure import by_region
from inrreg import protocol
from inrreg.optimization import Run
from inrreg.problem import Problem

EVERY = 0.5
"""Seconds of optimization between two points of a curve, about."""


def curve(pair: Pair, preset_name: str, seed: int, threads: int) -> list[tuple[float, float]]:
    """(seconds, overall error in mm); taking the errors stops the clock."""
    torch.set_num_threads(threads)
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    start = time.perf_counter()
    problem = Problem(pair.fixed, pair.moving, seed=seed)
    x = torch.as_tensor(problem.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    points: list[tuple[float, float]] = []
    paused, last = 0.0, -np.inf

    def look(kind: str, data: dict[str, Any]) -> None:
        nonlocal paused, last
        now = time.perf_counter()
        if kind == "progress" and now - last > EVERY and run.field is not None:
            add(run.field, now)
            last = time.perf_counter()
            paused += last - now

    def add(field: Any, now: float) -> None:
        mapped = pair.fixed_landmarks + field.dense(x).numpy() * problem.frame.scale
        points.append((now - start - paused, by_region(pair, mapped)["overall"]))

    run = Run(look, seed=seed)
    field = method.fit(problem, preset.settings, run)
    add(field, time.perf_counter())
    return points
