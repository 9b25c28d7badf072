"""Two fields put together where each matches better: the choice, its seams, and what becomes of guided runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from inrreg import fusion
from inrreg.fields import Field, Jet
from inrreg.fusion import SEAM, STEEPEST, choose, fit_guided, fuse
from inrreg.geometry import Grid
from inrreg.guidance import weights
from inrreg.landmarks import Pairs
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.regularization import determinant

SPACING = np.array([4.0, 5.0, 3.0])
GRID = Grid((40, 30, 24), np.array([-60.0, 20, 5]), np.array([[0.0, 4, 0], [3, 0, 0], [0, 0, 4]]))
SHIFT = np.array([8.0, -4.0, 0.0])


class Constant(Field):
    """One displacement everywhere."""

    kind = "constant-for-fusion"

    def __init__(self, vector: np.ndarray) -> None:
        super().__init__()
        self.vector = torch.nn.Parameter(torch.as_tensor(vector, dtype=torch.float32))

    def value(self, x: Tensor) -> Tensor:
        return self.vector.expand_as(x)

    def jet(self, x: Tensor, order: int, *, trace: bool = False) -> Jet:
        return Jet(self.value(x), x.new_zeros(len(x), 3, 3))

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


def texture(points: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    waves = [(rng.normal(size=3) / 9, rng.uniform(0, 2 * np.pi)) for _ in range(40)]
    return sum(np.sin(points @ wave + phase) for wave, phase in waves)


def shifted_where(inside: np.ndarray) -> list[sitk.Image]:
    """Two images of which the second has moved by `SHIFT` where `inside` (k, j, i) is true of the fixed one."""
    points = GRID.points()
    moved = points + SHIFT  # the fixed point x shows what lies at x + SHIFT of the moving image
    fixed = np.where(inside, texture(moved), texture(points))
    return [GRID.image(values.astype(np.float32)) for values in (fixed, texture(points))]


def both(problem: Problem) -> tuple[Constant, Constant]:
    return Constant(np.zeros(3)), Constant(SHIFT / problem.frame.scale)


def taken(problem: Problem, field: Field, points: np.ndarray) -> np.ndarray:
    """How much of `SHIFT` a field has at points in mm."""
    x = torch.as_tensor(problem.frame.normalize(points), dtype=torch.float32)
    return (field.dense(x).numpy() * problem.frame.scale) @ SHIFT / (SHIFT @ SHIFT)


# --------------------------------------------------------------------------------------- the choice


def test_adjoint_is_that_of_the_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, 7, generator=random, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(3, 5, 6, 7, generator=random, dtype=torch.float64)
    (expected,) = torch.autograd.grad((fusion._gradient(weight, SPACING) * slope).sum(), weight)
    torch.testing.assert_close(fusion._adjoint(slope, SPACING), expected)


def test_where_fields_agree_the_choice_is_sample_by_sample() -> None:
    gain = torch.randn(8, 9, 10, generator=torch.Generator().manual_seed(0))
    weight = choose(gain, torch.zeros(8, 9, 10, 3), SPACING)
    assert (weight == (gain > 0)).float().mean() > 0.99


@pytest.mark.parametrize(("worth", "kept"), [(0.7, 0.0), (1.4, 1.0)])
def test_a_region_is_taken_once_it_gains_more_than_its_seam_costs(worth: float, kept: float) -> None:
    """A slab of 4 samples, taken whole or not at all: its two faces cost `SEAM` times the difference, which shears."""
    difference = torch.zeros(12, 12, 24, 3)
    difference[..., 1] = 6.0
    gain = torch.full((12, 12, 24), -1.0)
    gain[..., 10:14] = worth * 2 * SEAM * 6.0 / (4 * SPACING[0])
    weight = choose(gain, difference, SPACING)
    assert weight[..., 10:14].numpy() == pytest.approx(kept, abs=0.03)
    assert weight[..., :9].max() < 0.03


@pytest.mark.parametrize(("apart", "gain"), [(12.0, 0.1), (25.0, 0.8), (40.0, 0.1)])
def test_a_seam_does_not_fold_and_a_shear_jumps(apart: float, gain: float) -> None:
    gained = torch.full((12, 20, 60), gain)
    gained[..., :30] = -gain
    difference = torch.zeros(12, 20, 60, 3)
    difference[..., 0] = -apart  # towards the other half
    weight = choose(gained, difference, SPACING)
    added = (torch.diff(weight, dim=2) / SPACING[0]) * -apart
    assert -2.5 * STEEPEST < added.min() < -0.8 * STEEPEST  # as steep as it may be
    weight = choose(gained, difference.roll(1, dims=3), SPACING)
    assert (weight - (gained > 0).float()).abs().max() < 0.02


# ---------------------------------------------------------------------------------------- the fields


@pytest.mark.parametrize("masked", [False, True])
def test_each_field_is_taken_where_it_matches(masked: bool) -> None:
    index = np.indices(GRID.size[::-1])
    inside = index[2] < 20
    mask = None
    if masked:  # the seam lies within it, and the samples are of its box alone
        mask = GRID.image(((index[2] > 5) & (index[2] < 34) & (index[1] > 6)).astype(np.uint8))
    problem = Problem(*shifted_where(inside), fixed_mask=mask)
    fused = fuse(*both(problem), problem)
    i = GRID.to_index(GRID.points())[..., 0]
    looked = np.ones(inside.shape, bool) if mask is None else sitk.GetArrayFromImage(mask) > 0
    looked &= (index[1] > 8) & (index[1] < 20) & (index[2] > 6)  # the shift leaves the image at its ends
    share = taken(problem, fused, GRID.points().reshape(-1, 3)).reshape(inside.shape)
    assert share[looked & (i < 17)].min() > 0.95
    assert share[looked & (i > 23)].max() < 0.05


def test_thick_slices_are_told_apart() -> None:
    grid = Grid((30, 24, 8), np.zeros(3), np.diag([4.0, 4.0, 12.0]))
    points, upper = grid.points(), np.indices((8, 24, 30))[0] > 3
    fixed = np.where(upper, texture(points + 8 * np.eye(3)[0]), texture(points))
    problem = Problem(*(grid.image(values.astype(np.float32)) for values in (fixed, texture(points))))
    fused = fuse(Constant(np.zeros(3)), Constant(np.array([8.0, 0, 0]) / problem.frame.scale), problem)
    moved = fused.dense(torch.as_tensor(problem.frame.normalize(points.reshape(-1, 3)), dtype=torch.float32))
    share = moved.numpy()[:, 0].reshape(upper.shape) * problem.frame.scale / 8
    assert share[:3].max() < 0.05
    assert share[5:, :, :18].min() > 0.95  # at its end the shift leaves the image


def test_equal_fields_keep_the_first_exactly() -> None:
    problem = Problem(*shifted_where(np.zeros(GRID.size[::-1], bool)))
    first = Constant(np.array([0.1, 0, 0]))
    fused = fuse(first, Constant(np.array([0.1, 0, 0])), problem)
    assert float(fused.weight.abs().max()) == 0.0


def test_a_fused_field_does_not_fold() -> None:
    index = np.indices(GRID.size[::-1])
    ball = np.linalg.norm((index - np.array([12, 15, 20])[:, None, None, None]) * [[[[4]]], [[[4]]], [[[3]]]], axis=0)
    problem = Problem(*shifted_where(ball < 24))
    field, other = Constant(np.zeros(3)), Constant(SHIFT / problem.frame.scale)
    fused = fuse(field, other, problem)
    assert taken(problem, fused, GRID.to_world(np.array([[20.0, 15, 12]])))[0] > 0.9
    determinants = determinant(fused.jet(problem.box(seed=0).draw(20_000), 1).jacobian)
    assert determinants.min() > 0.3


def test_a_guide_takes_its_neighbourhood_where_the_images_say_nothing_and_no_more() -> None:
    empty = np.linalg.norm(GRID.points() - GRID.to_world(np.array([20.0, 15, 12])), axis=-1) < 30
    flat = [GRID.image(np.where(empty, 0, texture(GRID.points())).astype(np.float32))] * 2
    at = GRID.to_world(np.array([[20.0, 15, 12]]))
    guidance = Pairs(at, at + SHIFT, ("",), "order", {"fixed": (), "moving": ()})
    problem = Problem(*flat, guidance=guidance)
    fused = fuse(*both(problem), problem)
    assert taken(problem, fused, at)[0] > 0.7
    far = at + 25 * np.eye(3)
    assert np.abs(taken(problem, fused, far)).max() < 1e-3


# ------------------------------------------------------------------------------------------- guided


def test_a_guided_fit_runs_without_the_pairs_and_with_them_of_one_seed() -> None:
    at = GRID.to_world(np.array([[20.0, 15, 12]]))
    guidance = Pairs(at, at + SHIFT, ("",), "order", {"fixed": (), "moving": ()})
    problem = Problem(*shifted_where(np.ones(GRID.size[::-1], bool)), guidance=guidance)
    asked, told = [], []

    def fit(given: Problem, run: Run) -> Field:
        asked.append((given.guidance, run.seed))
        run.plan([3])
        for _ in run.stage("stage", 3):
            run.report({"loss": torch.tensor(1.0)})
        return both(problem)[given.guidance is not None]

    found = fit_guided(problem, fit, Run(lambda kind, data: told.append((kind, data)), seed=5))
    assert asked == [(None, 5), (guidance, 5)]
    assert taken(problem, found, at)[0] > 0.95
    progress = [data for kind, data in told if kind == "progress"]
    assert (progress[-1]["step"], progress[-1]["steps"]) == (6, 6)


def test_a_guide_that_is_met_better_without_the_pairs_takes_nothing() -> None:
    at = GRID.to_world(np.array([[20.0, 15, 12]]))
    guidance = Pairs(at, at, ("",), "order", {"fixed": (), "moving": ()})
    problem = Problem(*shifted_where(np.zeros(GRID.size[::-1], bool)), guidance=guidance)
    assert float(fuse(*both(problem), problem).weight.max()) < 0.01


def test_what_a_guide_gains_is_shared_among_thick_slices_around_it() -> None:
    grid = Grid((12, 12, 8), np.zeros(3), np.diag([4.0, 4.0, 40.0]))
    values = np.random.default_rng(0).normal(size=(8, 12, 12)).astype(np.float32)
    at = grid.to_world(np.array([[6.0, 6, 3.5]]))  # between two slices
    guidance = Pairs(at, at + SHIFT, ("",), "order", {"fixed": (), "moving": ()})
    problem = Problem(grid.image(values), grid.image(values), guidance=guidance)
    field, other = both(problem)
    points = torch.as_tensor(problem.frame.normalize(grid.points()), dtype=torch.float32)
    gained = fusion._guided(field, other, problem, grid, points) * 4 * 4 * 40
    expected = (
        weights(field.dense(problem.guides[0]), problem) - weights(other.dense(problem.guides[0]), problem)
    ).sum()
    assert expected > 1000
    assert float(gained.sum()) == pytest.approx(float(expected), rel=1e-3)
    assert float(gained[3:5].sum()) == pytest.approx(float(expected), rel=0.05)


def test_a_mask_thinner_than_the_samples_leaves_the_choice_to_the_pairs() -> None:
    grid = Grid((30, 30, 30), np.zeros(3), np.eye(3))
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[14, 3:27, 3:27] = 1
    at = np.array([[14.0, 14, 14]])
    guidance = Pairs(at, at + np.eye(3)[:1] * 3, ("",), "order", {"fixed": (), "moving": ()})
    images = [grid.image(texture(grid.points()).astype(np.float32))] * 2
    problem = Problem(*images, fixed_mask=grid.image(mask), guidance=guidance)
    fused = fuse(Constant(np.zeros(3)), Constant(np.array([3.0, 0, 0]) / problem.frame.scale), problem)
    assert float(fused.dense(problem.guides[0])[0, 0]) * problem.frame.scale > 1.5


def test_without_pairs_there_is_one_run() -> None:
    problem = Problem(*shifted_where(np.zeros(GRID.size[::-1], bool)))
    field = Constant(np.zeros(3))
    assert fit_guided(problem, lambda given, run: field, Run()) is field
