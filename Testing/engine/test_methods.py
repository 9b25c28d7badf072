"""Every method at work: it registers, tells its progress, keeps to a time budget. `test_contract` has the rest."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.geometry import Volume
from inrreg.optimization import Run
from inrreg.phantom import Phantom, thorax
from inrreg.problem import Problem
from inrreg.torch_maps import Maps

QUICK: dict[str, dict[str, Any]] = {
    "fast": {"steps": (40, 30, 20), "image_spacing": (12, 8, 6), "node_spacing": (24, 16, 12)},
    "ccidir": {"width": 64, "points": 2000, "regularized": 0.1, "steps": 200, "rate": 1e-3, "final_rate": 1e-5},
    "idir": {"width": 64, "points": 2000, "regularized": 0.1, "steps": 200, "rate": 1e-3, "final_rate": 1e-5},
    "cidir": {"width": 64, "points": 2000, "regularized": 0.1, "steps": 200, "rate": 1e-3, "final_rate": 1e-5},
    "reindir": {"width": 64, "points": 2000, "regularized": 0.1, "steps": 200, "rate": 1e-3, "final_rate": 1e-5},
    "ccidir_light": {"steps": (40, 30, 20), "image_spacing": (12, 8, 6), "node_spacing": (24, 16, 12)},
    "cidir_light": {"alphas": 2, "steps": (40, 30, 20), "image_spacing": (12, 8, 6), "node_spacing": (24, 16, 12)},
    "lddmm": {
        "width": 32,
        "omega": 15,
        "time_steps": 3,
        "points": 1000,
        "regularized": 0.1,
        "steps": (100, 60),
        "fit_steps": 3,
        "node_spacing": (40, 30),
        "rate": 1e-3,
    },
    "lddmm_light": {
        "time_steps": 4,
        "steps": (45, 30),
        "fit_steps": 5,
        "image_spacing": (12, 8),
        "node_spacing": (24, 16),
        "path_spacing": (16, 12),
    },
    "dual": {"width": 64, "points": 2000, "regularized": 0.1, "steps": (70, 60, 60)},
}
"""Settings with which each method takes a few seconds; a new method adds a line."""


@cache
def phantom() -> Phantom:
    return thorax((64, 54, 64), (4.5, 4.5, 4.5), seed=3, amplitude=15.0, landmarks=150)


def problem(**changes: Any) -> Problem:
    pair = phantom()
    images = {"fixed": pair.fixed, "moving": pair.moving}
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    labels = {"fixed_labels": pair.fixed_labels, "moving_labels": pair.moving_labels}
    return Problem(**(images | masks | labels | changes))


def methods() -> list[str]:
    return sorted({preset.method for preset in protocol.presets().values()})


def fit(method: str, run: Run, given: Problem | None = None, **overrides: Any) -> Field:
    settings = protocol.preset(method.replace("_", "-")).settings.override(QUICK[method] | overrides)
    return importlib.import_module(f"inrreg.methods.{method}").fit(given or problem(), settings, run)


def few(method: str, count: int = 6) -> Any:
    """So few steps, of each stage."""
    steps = QUICK[method]["steps"]
    return tuple(count for _ in steps) if isinstance(steps, tuple) else count


@cache
def fitted(method: str) -> Field:
    torch.set_num_threads(1)
    return fit(method, Run(seed=5)).eval()


def mean_error(field: Field, given: Problem) -> float:
    pair = phantom()
    deformation = Deformation(field, given.frame, given.grid)
    return float(np.linalg.norm(deformation.map(pair.fixed_landmarks) - pair.moving_landmarks, axis=1).mean())


def test_every_method_is_tested_here() -> None:
    assert set(methods()) <= set(QUICK)


@pytest.mark.parametrize("method", methods())
def test_it_registers_a_phantom(method: str) -> None:
    pair = phantom()
    before = np.linalg.norm(pair.fixed_landmarks - pair.moving_landmarks, axis=1).mean()
    assert mean_error(fitted(method), problem()) < 0.35 * before


@pytest.mark.parametrize("method", methods())
def test_it_tells_its_progress_to_the_end(method: str) -> None:
    seen: list[dict[str, Any]] = []
    run = Run(lambda kind, data: seen.append(data))
    assert run.field is None
    field = fit(method, run, steps=few(method))
    steps = [data["step"] for data in seen]
    assert steps == sorted(set(steps))
    assert steps[-1] == seen[-1]["steps"]
    assert seen[-1]["eta"] == pytest.approx(0, abs=1e-6)
    assert all(data["loss"] == pytest.approx(sum(data["terms"].values())) for data in seen)
    assert run.field is field


@pytest.mark.parametrize("method", methods())
def test_a_time_budget_ends_it_early(method: str) -> None:
    run = Run(time_budget=3.0)
    fit(method, run, steps=few(method, 10_000))
    assert run.seconds() < 20  # generous for a loaded machine; without the budget it would take many minutes


@pytest.mark.parametrize("method", methods())
def test_a_loss_that_is_no_number_ends_in_words(method: str) -> None:
    given = problem()
    given.before = Maps((lambda x: x * float("nan"),))
    given.valid = lambda points, moving: torch.ones(points.shape[:-1])
    with pytest.raises(protocol.UserError, match="diverged"):
        fit(method, Run(), given)


def test_what_leaves_the_moving_image_does_not_drag_the_rest() -> None:
    """A moving image that ends in the middle of the lung: the half that is there still registers."""
    pair = phantom()
    cut = pair.moving[:, :, 28:]
    given = problem(moving=cut, moving_mask=None, fixed_labels=None, moving_labels=None)
    field = fit("fast", Run(seed=5), given)
    deformation = Deformation(field, given.frame, given.grid)
    there = pair.moving_landmarks[:, 2] > cut.GetOrigin()[2] + 10
    error = np.linalg.norm(deformation.map(pair.fixed_landmarks) - pair.moving_landmarks, axis=1)
    before = np.linalg.norm(pair.fixed_landmarks - pair.moving_landmarks, axis=1)
    assert error[there].mean() < 0.4 * before[there].mean()


@pytest.mark.parametrize(("slope", "taken"), [(0.0, 20), (0.05, 60)], ids=["flat", "falling"])
def test_a_stage_ends_when_nothing_is_left_to_gain(slope: float, taken: int) -> None:
    run, steps = Run(), 0
    run.plan([60, 5])
    for _ in run.stage("first", 60):
        steps += 1
        run.settle({"loss": torch.tensor(10.0 - slope * steps + 0.01 * (steps % 2))}, 0.01)
    assert steps == taken
    assert len(list(run.stage("second", 5))) == 5


def test_the_other_way_round_is_the_moving_image_as_it_is_brought_to_the_fixed_grid() -> None:
    pair, given = phantom(), problem()
    shift = torch.tensor([3 * 4.5 / given.frame.scale, 0, 0], dtype=torch.float32)  # three voxels
    given.before = Maps((lambda x: x + shift,))
    back = given.reversed()
    moving, labels = (sitk.GetArrayFromImage(image) for image in (pair.moving, pair.moving_labels))
    inside = sitk.GetArrayFromImage(pair.moving_mask)
    assert np.abs(sitk.GetArrayFromImage(back.fixed)[:, :, :-3] - moving[:, :, 3:]).max() < 0.1
    assert np.array_equal(back.mask[:, :, :-3], inside[:, :, 3:] > 0)
    assert not back.mask[:, :, -3:].any()
    assert (back.moving, back.moving_mask) == (pair.fixed, pair.fixed_mask)
    assert np.array_equal(back.labels[0].sum(0)[:, :, :-3], labels[:, :, 3:] > 0)
    there = torch.as_tensor(given.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    assert torch.equal(back.labels[1].sample(there) > 0.5, given_rows(given, there))
    assert back.before(there) is there
    assert (back.frame.scale, back.frame.centre.tolist()) == (given.frame.scale, given.frame.centre.tolist())


def test_structures_that_do_not_reach_the_fixed_box_guide_the_way_there_alone() -> None:
    given = problem()
    given.before = Maps((lambda x: x + 3.0,))
    assert given.labels is not None
    assert given.reversed().labels is None


def given_rows(given: Problem, points: torch.Tensor) -> torch.Tensor:
    """Membership of each common label at fixed-space points, by the fixed labels."""
    return Volume.of(given.labels[0], given.grid, given.frame).sample(points) > 0.5
