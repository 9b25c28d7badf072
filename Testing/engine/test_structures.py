"""Rigid structures, a border that slides and regions that are not compared: in any method's result."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg.constraints import Border, constraints, way_back
from inrreg.deformation import Deformation
from inrreg.evaluation import rigidity
from inrreg.fields import Conditioned, Field, Siren
from inrreg.fields.base import Jet
from inrreg.fields.rigid import nearest_motion
from inrreg.geometry import Grid
from inrreg.landmarks import Pairs
from inrreg.methods import fast
from inrreg.optimization import Run
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError, preset
from inrreg.registration import register
from inrreg.structures import fit_sides, hold_rigid
from inrreg.torch_maps import differentiable
from inrreg.transforms import Affine

GRID = Grid((36, 36, 36), np.full(3, -87.5), 5.0 * np.eye(3))
POINTS = GRID.points()
BALLS = {1: np.array([-30.0, 0, 0]), 7: np.array([35.0, 10, -10])}
RADIUS = 14.0
QUICK = {"steps": (50, 25), "image_spacing": (11, 8), "node_spacing": (16, 12), "rate": 2e-3}
THREE = {"steps": (8, 4, 2), "image_spacing": (14, 11, 8), "node_spacing": (20, 16, 12)}


def texture(points: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    waves = [(rng.normal(size=3) / 12, rng.uniform(0, 2 * np.pi)) for _ in range(40)]
    return 16 * sum(np.sin(points @ wave + phase) for wave, phase in waves) + 500


def image(values: np.ndarray) -> sitk.Image:
    return GRID.image(values.astype(np.float32))


def balls() -> sitk.Image:
    labels = np.zeros(POINTS.shape[:3], np.uint8)
    for label, centre in BALLS.items():
        labels[np.linalg.norm(POINTS - centre, axis=-1) < RADIUS] = label
    return GRID.image(labels)


def bent(kind: type[Siren] = Siren) -> Siren:
    """A smooth field of some 8 mm, nowhere rigid."""
    field = kind(16, 2, 5.0, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        field.layers[-1].weight.mul_(0.15)
    return field


def fit(given: Problem, run: Run) -> Field:
    settings = preset("fast").settings.override(QUICK)
    return importlib.import_module("inrreg.methods.fast").fit(given, settings, run)


# --------------------------------------------------------------------------------------------- rigid


def test_the_nearest_motion_is_the_one_that_moved_the_points() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 30, 3, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    shift = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found, moved = nearest_motion(start, start @ rotation.mT + shift[:, None])
    assert torch.allclose(found, rotation, atol=1e-3)
    assert torch.allclose(moved, shift, atol=1e-3)
    for few in (start[:, :1], torch.lerp(start[:, :1], start[:, 1:2], torch.linspace(0, 1, 5).double()[:, None])):
        same, _ = nearest_motion(few, few + 1)
        assert torch.allclose(same, torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-9)


@pytest.mark.parametrize("matrix", [np.eye(3), np.array([[1.1, 0.1, 0], [0, 0.9, 0], [0.05, 0, 1]])])
def test_structures_move_rigidly_nothing_folds_and_the_rest_stays_as_it_was(matrix: np.ndarray) -> None:
    before = (Affine(matrix, np.array([3.0, 0, 1])),)
    problem = Problem(image(texture(POINTS)), image(texture(POINTS)), rigid=balls())
    problem.before = differentiable(before, problem.frame, problem.device)
    inner = bent().freeze()
    found = [Deformation(field, problem.frame, GRID, before) for field in (inner, hold_rigid(inner, problem, Run()))]
    bends, holds = (rigidity(each, problem) for each in found)
    assert bends.keys() == holds.keys() == {"1", "7"}
    assert min(each["max"] for each in bends.values()) > 0.3
    assert max(each["max"] for each in holds.values()) < 0.01
    points = POINTS.reshape(-1, 3)
    nearest = np.min([np.linalg.norm(points - centre, axis=1) for centre in BALLS.values()], axis=0)
    far = points[nearest > RADIUS + 35]
    assert np.array_equal(*(each.map(far) for each in found))
    assert np.linalg.det(found[1].jacobian(points) + np.eye(3)).min() > 0


def test_a_conditioned_field_is_held_at_every_alpha() -> None:
    problem = Problem(image(texture(POINTS)), image(texture(POINTS)), rigid=balls())
    inner = bent(Conditioned)
    with torch.no_grad():
        inner.harmonizer[-1].weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    held = hold_rigid(inner.freeze(), problem, Run())
    mapped = []
    for alpha in (0.0, 1.0):
        at = Deformation(held.at(alpha), problem.frame, GRID)
        assert max(each["max"] for each in rigidity(at, problem).values()) < 0.01
        mapped.append(at.map(np.array(list(BALLS.values()))))
        held.alpha = alpha
        assert np.allclose(Deformation(held, problem.frame, GRID).map(POINTS[3, 4]), at.map(POINTS[3, 4]), atol=1e-3)
    assert np.linalg.norm(mapped[0] - mapped[1]) > 0.1


def test_rigid_structures_need_a_linear_start(tmp_path: Path) -> None:
    files = {"fixed": image(texture(POINTS)), "moving": image(texture(POINTS)), "rigid": balls()}
    files["initial_transform"] = sitk.Cast(GRID.image(np.ones((36, 36, 36, 3))), sitk.sitkVectorFloat64)
    for name, each in files.items():
        sitk.WriteImage(each, str(tmp_path / f"{name}.nrrd"))
    job = Job(**{name: str(tmp_path / f"{name}.nrrd") for name in files}, overrides=QUICK)
    with pytest.raises(UserError, match="not linear"):
        register(job, tmp_path / "result")
    assert not (tmp_path / "result").exists()


# ------------------------------------------------------------------------------------------- sliding


def sheared(points: np.ndarray) -> np.ndarray:
    """Where the two halves go that slide along each other at x = 0."""
    return points + np.where(points[..., :1] < 0, [0.0, 2.0, 8.0], [0.0, 0.0, -8.0])


def halves() -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """A fixed image, a moving one whose halves slid, and the mask of the one half."""
    side = POINTS[..., 0] < 0
    moving = texture(POINTS)
    fixed = texture(sheared(POINTS)) + 40 * side
    return image(fixed), image(moving + 40 * side), GRID.image(side.astype(np.uint8))


def test_both_sides_of_a_border_that_slides_are_nearer_to_the_truth_than_without() -> None:
    fixed, moving, mask = halves()
    problem = Problem(fixed, moving, similarity="ncc")
    near = np.abs(POINTS[..., 0]) < 12
    inner = (np.abs(POINTS[..., 1:]) < 60).all(-1)
    sides = [POINTS[near & inner & side] for side in (POINTS[..., 0] < 0, POINTS[..., 0] > 0)]
    fields = fit(problem, Run()), fit_sides(problem, mask, fit, Run())
    plain, slid = (Deformation(field.freeze(), problem.frame, GRID) for field in fields)
    for points in sides:
        without, with_border = (np.linalg.norm(each.map(points) - sheared(points), axis=1) for each in (plain, slid))
        assert with_border.mean() < 0.7 * without.mean()
    jumps = slid.map(np.array([[-6.0, 0, 0], [6.0, 0, 0]])) - np.array([[-6.0, 0, 0], [6.0, 0, 0]])
    assert abs(jumps[0, 2] - jumps[1, 2]) > 12
    assert abs(jumps[0, 0] - jumps[1, 0]) < 1.5  # neither gap nor overlap
    assert np.linalg.det(slid.jacobian(POINTS[inner]) + np.eye(3)).min() > 0


def shifting(*shift: float) -> Siren:
    """A field that moves everything by so many mm."""
    field = Siren(8, 1, 5.0)
    with torch.no_grad():
        field.layers[-1].weight.zero_()
        field.layers[-1].bias.copy_(torch.tensor(shift) / (GRID.extent.max() / 2))
    return field


@pytest.mark.parametrize("jump", [(0.0, 1.5, 0.0), (6.0, 0.0, 0.0), (0.0, 4.0, 6.0)], ids=["little", "gap", "slides"])
def test_a_border_slides_where_its_sides_move_along_each_other_and_nowhere_else(jump: tuple[float, ...]) -> None:
    fixed, moving, mask = halves()
    problem = Problem(fixed, moving, similarity="ncc")
    given = iter((first := shifting(9, 9, 9), shifting(*jump), shifting(0, 0, 0), shifting(0, 0, 1)))
    starts = []

    def fitted(problem: Problem, run: Run) -> Field:
        starts.append((problem.start, problem.goes_on))
        return next(given)

    found = Deformation(fit_sides(problem, mask, fitted, Run()).freeze(), problem.frame, GRID)
    assert starts == 3 * [(None, False)] + [(first, True)]  # the whole goes on
    inside, outside, far = np.array([[-8.0, 5, 3], [8.0, 5, 3], [80.0, 5, 3]])
    moved = found.map(np.array([inside, outside, far])) - [inside, outside, far]
    assert np.allclose(moved[2], [0, 0, 1], atol=1e-3)
    if np.hypot(*jump[1:]) < 2:
        assert np.allclose(moved, [0, 0, 1], atol=0.05)
    else:
        assert np.allclose(moved[0], jump, atol=1)
        assert np.allclose(moved[1], 0, atol=0.3)


def test_what_goes_on_does_so_from_where_it_ended_and_at_the_last_two_stages() -> None:
    fixed, moving, _ = halves()
    problem, seen = Problem(fixed, moving, similarity="ncc"), []
    settings = preset("fast").settings.override(QUICK | THREE)
    first = fast.fit(problem, settings, Run())
    still = settings.override({"rate": 1e-7, "final_rate": 0.0})
    run = Run(lambda kind, data: seen.append(data) if kind == "progress" else None)
    further = fast.fit(replace(problem, start=first, goes_on=True), still, run)
    assert seen[0]["steps"] == 2 + 1
    for before, after in zip(first.networks.parameters(), further.networks.parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


def test_a_mask_that_leaves_a_side_without_data_is_refused() -> None:
    fixed, moving, mask = halves()
    with pytest.raises(UserError, match="one of its sides"):
        fit_sides(Problem(fixed, moving, fixed_mask=mask), mask, fit, Run())


# -------------------------------------------------------------------------------------- the way back


class Turned(Field):
    """x -> M x: M turns by 0.3 about the third axis, and shears where asked to."""

    kind = "turned-for-test"

    def __init__(self, shear: float = 0.0) -> None:
        super().__init__()
        turn = torch.tensor([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
        self.matrix = turn.float() @ torch.tensor([[1, 0, shear], [0, 1, 0], [0, 0, 1]])

    def value(self, x):
        return x @ self.matrix.T - x

    def jet(self, x, order, *, trace=False):
        return Jet(self.value(x), (self.matrix - torch.eye(3)).expand(len(x), 3, 3))

    def back(self, y):
        return y @ torch.linalg.inv(self.matrix).T - y

    def spec(self):
        return {"kind": self.kind}


def aligned(**given) -> Problem:
    problem = Problem(image(texture(POINTS)), image(texture(POINTS)), similarity="ncc", **given)
    stretch = Affine(np.array([[1.1, 0.1, 0], [0, 0.9, 0], [0.05, 0, 1]]), np.array([3.0, 0, 1]))
    problem.before = differentiable((stretch,), problem.frame, problem.device)
    return problem


def test_guiding_points_pull_the_way_back_too() -> None:
    fixed = np.array([[10.0, -20, 30], [-40, 5, 0]])
    true, problem = Turned(), aligned()
    x = torch.as_tensor(problem.frame.normalize(fixed), dtype=torch.float32)
    ends = problem.frame.to_world(problem.before(x + true.value(x)).numpy().astype(float))
    problem = aligned(guidance=Pairs(fixed, ends, ("a", "b"), "order", {}))
    assert constraints(true.value, problem)["guidance"] < 1e-6
    assert constraints(true.back, problem.reversed())["guidance"] < 1e-6
    assert constraints(torch.zeros_like, problem.reversed())["guidance"] > 1e-3


def test_a_border_is_met_on_the_way_back_where_it_is_met_on_the_way_there() -> None:
    other, generator = Turned(0.2), torch.Generator().manual_seed(0)
    points = (torch.rand(50, 3, generator=generator) - 0.5) * torch.tensor([1.0, 0, 1])
    problem = aligned(border=Border.of(points, torch.tensor([[0.0, 1, 0]]).expand(50, 3), other))
    along = torch.tensor([0.1, 0, -0.2])  # glides in the border
    there = lambda x: other.value(x + along) + along  # noqa: E731
    back = lambda y: other.back(y) - along  # noqa: E731
    for displacement, own in ((there, problem), (back, problem.reversed())):
        assert constraints(displacement, own)["border"] < 1e-6
        assert constraints(lambda x, u=displacement: u(x) + 0.05, own)["border"] > 0.01


def test_structures_are_held_on_the_way_back_where_the_way_there_takes_them() -> None:
    problem, true = aligned(rigid=balls()), Turned()
    zero = problem.before(torch.zeros(3))
    matrix = problem.before.matrix(zero)

    def there(x: torch.Tensor) -> torch.Tensor:  # before(x + u) turns x
        return (x + true.value(x) - zero) @ torch.linalg.inv(matrix).T - x

    def back(y: torch.Tensor) -> torch.Tensor:
        ends = problem.before(y)
        return ends + true.back(ends) - y

    assert constraints(there, problem)["rigidity"] < 1e-5
    assert way_back(there, back, problem)["rigidity"] < 1e-5
    assert way_back(there, lambda y: back(y) + 0.1 * y**2, problem)["rigidity"] > 1e-3
    assert way_back(there, back, aligned()) == {}


# ------------------------------------------------------------------------------------------- exclude


def test_what_is_excluded_bends_nothing(tmp_path: Path) -> None:
    shift = np.array([5.0, -3.0, 4.0])
    lesion = np.linalg.norm(POINTS, axis=-1) < 22
    fixed, moving = texture(POINTS), texture(POINTS - shift)
    fixed[lesion] = texture(POINTS + 9)[lesion] + 400  # it looks like something else, and is bright
    for name, array in (("fixed", fixed), ("moving", moving), ("lesion", lesion)):
        sitk.WriteImage(image(array), str(tmp_path / f"{name}.nrrd"))
    job = Job(str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"), overrides=QUICK | {"similarity": "ncc"})
    distance, found = np.linalg.norm(POINTS, axis=-1), []
    around = POINTS[(distance > 22) & (distance < 32)]
    for each in (job, replace(job, exclude=str(tmp_path / "lesion.nrrd"))):
        register(each, tmp_path / "result")
        mapped = Deformation.load(tmp_path / "result").map(around)
        found.append(np.linalg.norm(mapped - around - shift, axis=1).mean())
    assert found[1] < 0.3 * found[0]
    assert found[1] < 1.5
    sitk.WriteImage(image(np.ones_like(lesion)), str(tmp_path / "all.nrrd"))
    with pytest.raises(UserError, match="excluded"):
        register(replace(job, exclude=str(tmp_path / "all.nrrd")), tmp_path / "result")
