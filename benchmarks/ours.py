"""Our presets under the same clock as the peers: from images in memory to the field, without loading libraries."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.optimization import Run
from inrreg.problem import Problem


def register(problem: Problem, preset_name: str, overrides: dict[str, Any] | None = None) -> tuple[sitk.Image, float]:
    """One preset on a fresh problem: the float32 displacement field on the fixed grid, LPS mm, and its seconds.

    `overrides` are settings that differ from the preset's.
    """
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # loads a part of torch, as in a worker's first job
    start = time.perf_counter()
    deformation = optimize(problem, preset_name, overrides or {})
    displacement = problem.grid.image(deformation.on_grid(problem.grid).astype(np.float32))
    return displacement, time.perf_counter() - start


def optimize(problem: Problem, preset_name: str, overrides: dict[str, Any], *, time_budget: float = 0.0) -> Deformation:
    """The same as a deformation, of use in the fixed image's box alone; a `time_budget` in seconds, 0 for none."""
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    run, settings = Run(seed=problem.seed, time_budget=time_budget), preset.settings.override(overrides)
    problem.similarity = settings.similarity
    field = method.fit(problem, settings, run).freeze()
    margins = np.ones((2, 3))  # nothing beyond the image is asked for
    return Deformation(field, problem.frame, problem.grid, (), margins, problem.grid.spacing)
