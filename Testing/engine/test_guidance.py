"""Pairs that the user places pull the field where the images tell nothing, and leave the rest as it was."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import guidance
from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.fusion import fit_guided
from inrreg.geometry import Grid
from inrreg.guidance import REACH, WORTH, guidance_loss
from inrreg.landmarks import Pairs, Points, write_points
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.protocol import Job, Settings, UserError, preset, presets
from inrreg.registration import register
from inrreg.torch_maps import Linear, Maps

SHIFT, BUMP, RADIUS = np.array([4.0, -3.0, 2.0]), np.array([0.0, 0.0, 9.0]), 28.0
GRID = Grid((36, 36, 36), np.full(3, -87.5), 5.0 * np.eye(3))


def motion(points: np.ndarray) -> np.ndarray:
    """A shift, and in a ball a bump on it that the images cannot tell, because the ball is featureless in both."""
    depth = 1 - (np.linalg.norm(points, axis=-1, keepdims=True) / RADIUS) ** 2
    return SHIFT + BUMP * np.clip(depth, 0, 1) ** 2


def texture(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Smooth random intensities at points (..., 3)."""
    waves = [(rng.normal(size=3) / 12, rng.uniform(0, 2 * np.pi)) for _ in range(40)]
    return lambda points: 16 * sum(np.sin(points @ wave + phase) for wave, phase in waves) + 500


def pair_of_images() -> list[sitk.Image]:
    waves = texture(np.random.default_rng(0))

    def image(points: np.ndarray) -> sitk.Image:
        values = waves(points)
        values[np.linalg.norm(points, axis=-1) < RADIUS] = 500
        return GRID.image(values.astype(np.float32))

    return [image(GRID.points()), image(GRID.points() - SHIFT)]


def pairs_at(points: np.ndarray) -> Pairs:
    return Pairs(points, points + motion(points), ("",) * len(points), "order", {"fixed": (), "moving": ()})


def fit_fast(problem: Problem, settings: Settings) -> Field:
    method = importlib.import_module("inrreg.methods.fast")
    return fit_guided(problem, lambda problem, run: method.fit(problem, settings, run), Run())


def test_guides_mend_what_the_images_cannot_tell_and_bend_nothing_else() -> None:
    images, rng = pair_of_images(), np.random.default_rng(1)
    guides = pairs_at(9.0 * np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))]))
    near = rng.uniform(-14, 14, (200, 3))
    near = near[np.linalg.norm(near[:, None] - guides.fixed, axis=-1).min(1) > 3]  # not among the guides
    far = rng.uniform(-75, 75, (300, 3))
    far = far[np.linalg.norm(far, axis=1) > RADIUS + 14]
    small = {"steps": (50, 25), "image_spacing": (11, 8), "node_spacing": (16, 12)}
    settings = preset("fast").settings.override({**small, "width": 64, "rate": 2e-3})
    errors = {}
    for name, pairs in (("unguided", None), ("guided", guides)):
        problem = Problem(*images, guidance=pairs)
        field = fit_fast(problem, settings)
        found = Deformation(field.freeze(), problem.frame, problem.grid)
        errors[name] = [np.linalg.norm(found.map(at) - at - motion(at), axis=1) for at in (near, far)]
        assert np.linalg.det(found.jacobian(GRID.points().reshape(-1, 3)[::7]) + np.eye(3)).min() > 0
    assert errors["unguided"][0].mean() > 4.0
    assert errors["guided"][0].mean() < 0.25 * errors["unguided"][0].mean()
    assert errors["guided"][1].mean() < errors["unguided"][1].mean() + 0.3
    assert np.percentile(errors["guided"][1], 95) < 1.0


def test_a_wrong_pair_bends_little_where_the_images_tell() -> None:
    waves, rng = texture(np.random.default_rng(0)), np.random.default_rng(1)
    images = [GRID.image(waves(GRID.points() - shift).astype(np.float32)) for shift in (0, SHIFT)]
    wrong = dataclasses.replace(pairs_at(np.zeros((1, 3))), moving=SHIFT[None] + [0, 0, 15.0])
    small = {"steps": (50, 25), "image_spacing": (11, 8), "node_spacing": (16, 12), "width": 64, "rate": 2e-3}
    problem = Problem(*images, guidance=wrong)
    field = fit_fast(problem, preset("fast").settings.override(small))
    at = rng.uniform(-60, 60, (400, 3))
    found = Deformation(field.freeze(), problem.frame, problem.grid).map(at)
    errors, distance = np.linalg.norm(found - at - SHIFT, axis=1), np.linalg.norm(at, axis=1)
    assert errors[(distance > 3) & (distance < 15)].mean() < 3.0
    assert errors[(distance > 15) & (distance < 30)].mean() < 1.0
    assert errors[distance > 30].mean() < 0.4


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Small images and two guiding pairs; the initial transform halves distances along x."""
    values = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    grid = Grid((12, 12, 12), np.zeros(3), 4.0 * np.eye(3))
    images = [grid.image(values)] * 2
    halved = torch.tensor([0.5, 1.0, 1.0])
    guides = Pairs(np.array([[10.0, 10, 10], [30, 20, 10]]), np.array([[15.0, 10, 10], [20, 20, 10]]), (), "order", {})
    return Problem(*images, guidance=guides, before=Maps((Linear(torch.diag(halved), torch.zeros(3)),)))


def test_loss_is_of_millimetres_behind_the_initial_transform(problem: Problem) -> None:
    start, end = (problem.frame.to_world(points.numpy()) for points in problem.guides)
    centre = problem.frame.centre
    residual = np.linalg.norm((start - centre) * [0.5, 1, 1] + centre - end, axis=1)
    expected = WORTH * REACH / 44**3 * (np.sqrt(1 + (residual / REACH) ** 2) - 1).sum()
    assert residual.max() > 1
    assert guidance_loss(torch.zeros(2, 3), problem).item() == pytest.approx(expected, rel=1e-4)


def test_a_pair_pulls_no_harder_than_reach_allows_and_as_hard_among_many(problem: Problem) -> None:
    limit = WORTH / 44**3 * problem.frame.scale
    for times in (1, 20):
        names = ("",) * 2 * times
        ends = (np.tile(points, (times, 1)) for points in (problem.guidance.fixed, problem.guidance.moving))
        many = dataclasses.replace(problem, guidance=Pairs(*ends, names, "order", {}))
        displacement = torch.full((2 * times, 3), 50.0, requires_grad=True)
        (pull,) = torch.autograd.grad(guidance_loss(displacement, many), displacement)
        assert (pull.norm(dim=1) <= limit * (1 + 1e-4)).all()
        assert (pull.norm(dim=1) >= limit / 2 * (1 - 1e-2)).all()  # x is halved on the way


@pytest.mark.parametrize("name", sorted({each.method: name for name, each in presets().items()}.values()))
def test_every_method_is_pulled_and_released(name: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "RELEASED", 1e-6)  # by far more than a few steps can bring the points nearer
    chosen = preset(name)
    known = chosen.settings.to_dict()
    small = {"width": 16, "points": 200, "image_spacing": 12, "node_spacing": 20, "steps": 2, "window": 1}
    changes = {
        key: (value,) * len(known[key]) if isinstance(known[key], tuple) else value
        for key, value in small.items()
        if key in known
    }
    pulls = []

    class Watched(Run):
        def report(self, terms: dict) -> None:
            pulls.append(float(terms["guidance"].detach()) if "guidance" in terms else 0.0)

    module = importlib.import_module(f"inrreg.methods.{chosen.method}")
    module.fit(dataclasses.replace(problem), chosen.settings.override(changes), Watched())
    pulls = [each for each in pulls if each]  # where a flow is fitted to a coarser one nothing pulls
    assert 0 < pulls[-1] < 0.05 * pulls[0]


def test_a_job_takes_guides_from_files_and_tells_of_them(tmp_path: Path) -> None:
    files = {"fixed": "fixed.nrrd", "moving": "moving.nrrd"}
    for name, image in zip(files, pair_of_images(), strict=True):
        sitk.WriteImage(image, str(tmp_path / files[name]))
    places = np.array([[0.0, 0, 0], [0, 10, 0], [60, 0, 0]])
    for name, points, labels in (
        ("f", places, ("a", "b", "c")),
        ("m", (places + motion(places))[::-1], ("c", "b", "a")),
        ("odd", places, ("a", "b", "x")),
    ):
        write_points(tmp_path / f"{name}.csv", Points(points, labels=labels))
    at = {name: str(tmp_path / path) for name, path in files.items()}
    small = {"steps": (5,), "image_spacing": (15,), "node_spacing": (40,), "width": 32}
    marks = {"fixed_landmarks": str(tmp_path / "f.csv"), "moving_landmarks": str(tmp_path / "m.csv")}
    guides = {"guide_fixed": str(tmp_path / "f.csv"), "guide_moving": str(tmp_path / "m.csv")}
    job, told = Job(**at, **guides, **marks, overrides=small, threads=1), []
    metrics = register(job, tmp_path / "result", emit=lambda kind, data: told.append(data.get("code")))
    assert metrics["guidance"]["before"]["mean"] == pytest.approx(np.linalg.norm(motion(places), axis=1).mean())
    assert metrics["guidance"]["after"]["count"] == 3
    assert metrics["landmarks"] == {"matched_by": "label", "missing": {"fixed": (), "moving": ()}, "guided": 3}
    assert "guided" in told
    with pytest.raises(UserError, match="no partner: c, x"):
        register(dataclasses.replace(job, guide_moving=str(tmp_path / "odd.csv")), tmp_path / "other")
    with pytest.raises(UserError, match="needed together"):
        Job(**at, guide_fixed="f.csv")
