"""What every method owes its callers, through a job and its result folder; at any quality, so that it is quick.

A method that is added below `inrreg.methods` is tested here as it stands.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import protocol, structures
from inrreg.deformation import Deformation
from inrreg.fields import Field
from inrreg.geometry import Grid
from inrreg.optimization import Cancelled, Run
from inrreg.phantom import thorax
from inrreg.prior import Family
from inrreg.problem import Problem
from inrreg.protocol import Job, Settings, UserError
from inrreg.registration import register
from inrreg.training.settings import TrainingSettings
from inrreg.training.start import fresh

STEPS, POINTS, WIDTH, COARSER = 4, 300, 16, 4.0
"""What quick settings are made of; lattices are so many times coarser."""


def quick(settings: Settings) -> dict[str, Any]:
    """Overrides that make any settings cheap, by what their names say; each keeps to its range."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value, last = getattr(settings, item.name), item.name.rpartition("_")[2]
        least = {"steps": STEPS, "points": POINTS, "width": WIDTH}.get(last)
        if least is not None:
            least = max(least, item.metadata["low"] or 0)
            found[item.name] = tuple(least for _ in value) if isinstance(value, tuple) else least
        elif last == "spacing":
            found[item.name] = tuple(COARSER * each for each in value) if isinstance(value, tuple) else COARSER * value
    return found


def lightest() -> dict[str, str]:
    """A preset of each method, the one for machines without a GPU where there is one."""
    chosen: dict[str, str] = {}
    for preset in protocol.presets().values():
        if preset.method not in chosen or preset.name.endswith("-light"):
            chosen[preset.method] = preset.name
    return chosen


CASES = {name: {"preset": preset} for name, preset in lightest().items()}
CASES["an ensemble"] = {"preset": protocol.DEFAULT_PRESET, "ensemble": 3}
CASES["an even ensemble"] = {"preset": protocol.DEFAULT_PRESET, "ensemble": 2}
CASES["two contrasts"] = {"preset": "idir-light", "overrides": {"similarity": "multimodal"}}
PARTS = {"sliding": "half", "rigid": "bones", "exclude": "hole"}
CASES["a border that slides, structures that do not bend"] = {"preset": protocol.DEFAULT_PRESET, **PARTS}
LEARNING = TrainingSettings(width=WIDTH, omega=8.0, patch=12, channels=1, embedding=7)
"""What a prior is made with, for the methods that take one."""
Make = Callable[..., Job]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Jobs on a tiny phantom with masks and labels, by the name of their case."""
    folder, files = tmp_path_factory.mktemp("phantom"), {}
    phantom = thorax((32, 27, 32), (9.0, 9.0, 9.0), seed=2, amplitude=12.0, landmarks=20)
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
        files[name] = str(folder / f"{name}.nrrd")
        sitk.WriteImage(getattr(phantom, name), files[name])

    parts = {
        "hole": [np.s_[12:16, 10:14, 8:12]],
        "half": [np.s_[:16]],
        "bones": [np.s_[4:9, 8:11, 8:12], np.s_[20:24, 8:11, 9]],
    }
    for name, places in parts.items():
        mask = np.zeros(phantom.fixed.GetSize()[::-1], np.uint8)
        for label, place in enumerate(places):
            mask[place] = label + 1
        sitk.WriteImage(Grid.of(phantom.fixed).image(mask), str(folder / f"{name}.nrrd"))

    prior = fresh(Family.of(Problem(phantom.fixed, phantom.moving)), LEARNING, "reindir", 0)
    torch.nn.init.normal_(prior.encoder.heads.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    for network in prior.networks:
        torch.nn.init.zeros_(network.layers[-1].bias)
    prior.save(folder / "prior.safetensors")

    def job(case: str, **changes: Any) -> Job:
        entries = {
            name: str(folder / f"{value}.nrrd") if name in PARTS else value
            for name, value in (CASES[case] | changes).items()
        }
        if protocol.preset(entries["preset"]).prior:
            entries["prior"] = str(folder / "prior.safetensors")
        overrides = quick(protocol.preset(entries["preset"]).settings) | entries.pop("overrides", {})
        return Job(**files, **entries, overrides=overrides, threads=1)

    return job


@pytest.fixture(scope="module", params=CASES)
def result(request: pytest.FixtureRequest, make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A case and its result folder."""
    folder = tmp_path_factory.mktemp("result") / "result"
    register(make(request.param), folder)
    return request.param, folder


def inside(deformation: Deformation, count: int) -> np.ndarray:
    """Random points of the fixed image, (N, 3) LPS mm."""
    grid = deformation.grid
    return grid.to_world(np.random.default_rng(1).random((count, 3)) * (np.array(grid.size) - 1))


def doubled(deformation: Deformation) -> Field:
    """The field in double precision."""
    return copy.deepcopy(deformation.field).to(torch.float64)


# ------------------------------------------------------------------------------------- value and jet


def test_values_are_displacements_whatever_their_company(result: tuple[str, Path]) -> None:
    deformation = Deformation.load(result[1])
    field, points = doubled(deformation), inside(deformation, 500)
    x = torch.as_tensor(deformation.frame.normalize(points))
    value = field.value(x)
    assert value.shape == (500, 3)
    assert value.isfinite().all()
    assert torch.allclose(field.value(x[40:60]), value[40:60], atol=1e-9)
    assert torch.allclose(field.dense(x), value, atol=1e-9)
    assert field.dense(x[:0]).shape == (0, 3)
    moved = points + value.detach().numpy() * deformation.frame.scale
    assert np.abs(deformation.map(points) - moved).max() < 0.02  # mm; it works in single precision
    assert np.abs(moved - points).max() > 0.01


def test_jets_are_the_derivatives_to_the_order_they_offer(result: tuple[str, Path]) -> None:
    deformation = Deformation.load(result[1])
    field = doubled(deformation)
    x = torch.as_tensor(deformation.frame.normalize(inside(deformation, 40))).requires_grad_(True)
    value = field.value(x)
    jacobian = torch.zeros(40, 3, 3, dtype=x.dtype)
    hessian = torch.zeros(40, 3, 3, 3, dtype=x.dtype)
    for i in range(3):
        (first,) = torch.autograd.grad(value[:, i].sum(), x, create_graph=True)
        jacobian[:, i] = first.detach()
        for j in range(3 if field.order > 1 else 0):
            (hessian[:, i, j],) = torch.autograd.grad(first[:, j].sum(), x, retain_graph=True)
    assert field.order >= 1
    for order in range(1, field.order + 1):
        jet = field.jet(x.detach(), order)
        assert torch.allclose(jet.value, value, atol=1e-9)
        assert relative(jet.jacobian, jacobian) < 1e-8
    if field.order > 1:
        assert relative(jet.hessian, hessian) < 1e-8
        traced = field.jet(x.detach(), 2, trace=True)
        assert traced.hessian is None
        assert relative(traced.laplacian, hessian.diagonal(dim1=2, dim2=3).sum(-1)) < 1e-8
    for order in (0, field.order + 1):
        with pytest.raises(ValueError, match="order"):
            field.jet(x.detach(), order)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.detach() - expected).norm() / expected.norm())


# --------------------------------------------------------------------------------- files and elsewhere


def test_a_saved_field_comes_back_and_is_evaluated_at_another_spacing(result: tuple[str, Path], tmp_path: Path) -> None:
    deformation = Deformation.load(result[1])
    deformation.save(tmp_path)
    again = Deformation.load(tmp_path)
    for spacing in (31.0, 7.0):
        points = deformation.grid.resampled(spacing).points().reshape(-1, 3)
        assert np.array_equal(again.map(points), deformation.map(points))
    inner = inside(deformation, 300)
    assert np.array_equal(again.jacobian(inner), deformation.jacobian(inner))
    for name in ("displacement.nrrd", "uncertainty.nrrd", "inverse_displacement.nrrd"):
        assert (tmp_path / name).exists() == (result[1] / name).exists()
        if (tmp_path / name).exists():
            one, other = (sitk.ReadImage(str(folder / name)) for folder in (tmp_path, result[1]))
            assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))


def test_an_uncertainty_lies_on_the_grid_of_the_displacement(result: tuple[str, Path]) -> None:
    case, folder = result
    deformation = Deformation.load(folder)
    points = inside(deformation, 400)
    metrics = protocol.read_json(folder / "metrics.json")
    expected = deformation.uncertainty(points)
    assert (expected is not None) == ("uncertainty" in metrics) == (folder / "uncertainty.nrrd").exists()
    assert expected is not None or "ensemble" not in case
    if expected is not None:
        image, field = (sitk.ReadImage(str(folder / f"{name}.nrrd")) for name in ("uncertainty", "displacement"))
        assert image.GetSize() == field.GetSize()
        assert Grid.of(image).matrix == pytest.approx(Grid.of(field).matrix)
        assert image.GetOrigin() == pytest.approx(field.GetOrigin())
        values = sitk.GetArrayFromImage(image)
        assert (values >= 0).all()
        assert expected.max() > 0.01
        i, j, k = np.rint(Grid.of(image).to_index(points)).astype(int).T
        nodes = Grid.of(image).to_world(np.stack([i, j, k], -1))
        assert np.allclose(deformation.uncertainty(nodes), values[k, j, i], atol=0.02)
        assert 0 < metrics["uncertainty"]["mean"] < metrics["uncertainty"]["max"]


def test_an_inverse_leads_back(result: tuple[str, Path]) -> None:
    folder = result[1]
    if not (folder / "inverse_displacement.nrrd").exists():
        pytest.skip("this method is optimized in one direction")
    there, back = (
        sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))
        for name in ("displacement.nrrd", "inverse_displacement.nrrd")
    )
    grid = Grid.of(sitk.ReadImage(str(folder / "inverse_displacement.nrrd")))
    nodes = grid.to_world(np.random.default_rng(2).integers(1, np.array(grid.size) - 1, (300, 3)))
    again = np.array([there.TransformPoint(back.TransformPoint(point)) for point in nodes.tolist()])
    # between the nodes, on so coarse a grid, linear interpolation is all that is left
    assert np.percentile(np.linalg.norm(again - nodes, axis=1), 99) < 1e-2
    assert np.linalg.norm([back.TransformPoint(node) for node in nodes.tolist()] - nodes, axis=1).max() > 1
    assert protocol.read_json(folder / "metrics.json")["inverse"]["mean"] < 1


@pytest.mark.parametrize("preset", [name for name, preset in protocol.presets().items() if preset.conditioned])
def test_an_ensemble_of_conditioned_fields_is_refused(preset: str) -> None:
    assert Job("f", "m", preset=preset).ensemble == 1
    with pytest.raises(UserError, match=f"{preset}.*no ensembles"):
        Job("f", "m", preset=preset, ensemble=2)


# ------------------------------------------------------------------------- cancelling and repeating


@pytest.mark.parametrize("case", CASES)
def test_cancelling_ends_it_within_a_step_and_leaves_nothing(case: str, make: Make, tmp_path: Path) -> None:
    asked, steps = 0, []

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Cancelled):
        register(make(case), tmp_path / "result", emit=lambda kind, data: steps.append(data), cancelled=cancelled)
    assert asked == 4
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_files_and_another_does_not(
    result: tuple[str, Path], make: Make, tmp_path: Path
) -> None:
    case, folder = result
    register(make(case), tmp_path / "again")
    for path in folder.iterdir():
        if path.suffix in (".nrrd", ".safetensors"):
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    register(make(case, seed=9), tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_progress_rises_over_the_whole_run(case: str, make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("inrreg.optimization.REPORT_EVERY", 0.0)
    seen: list[dict[str, Any]] = []
    register(make(case), tmp_path / "result", emit=lambda kind, data: seen.append(data) if kind == "progress" else None)
    seen = [data for data in seen if data["stage"] != "choosing alpha"]  # after the optimization, not counted
    steps = [data["step"] for data in seen]
    assert all(one < other for one, other in pairwise(steps))
    assert {data["steps"] for data in seen} == {steps[-1]}
    assert steps[-1] == len(seen) or "sliding" in CASES[case]  # where the whole goes on
    assert seen[-1]["eta"] == pytest.approx(0, abs=1e-3)


# ----------------------------------------------------------------- sliding, rigid and excluded parts


@pytest.mark.parametrize("case", ["cidir_light", "idir", "lddmm_light"])
def test_parts_that_slide_or_do_not_bend_go_with_other_methods(
    case: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structures, "NODES", (9.0, 9.0))  # as coarse as the rest
    job = make(case, **PARTS)
    images = {name: sitk.ReadImage(getattr(job, name)) for name in ("fixed", "moving", "rigid", "exclude")}
    problem, method = Problem(**images), importlib.import_module(f"inrreg.methods.{case}")
    half = sitk.ReadImage(job.sliding)
    field = structures.fit_sides(problem, half, lambda *given: method.fit(given[0], job.settings(), given[1]), Run())
    made = Deformation(structures.hold_rigid(field.freeze(), problem, Run()), problem.frame, problem.grid)
    points = inside(made, 200)
    assert np.abs(made.map(points) - points).max() > 0.01
    assert np.isfinite(made.jacobian(points)).all()
