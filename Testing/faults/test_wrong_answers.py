"""A wrong result is not shown as a right one: each doubt on a case that was made to have it, and divergence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import registration
from inrreg.deformation import Deformation
from inrreg.evaluation import doubts, of_result, of_transform
from inrreg.fields import Siren
from inrreg.methods import fast
from inrreg.optimization import Run, diverged
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError, read_json
from inrreg.registration import register, safer
from inrreg.transforms import Affine

QUICK = {"steps": [4], "image_spacing": [8], "node_spacing": [16], "width": 16, "rank": 8}
SHAPE = (20, 22, 24)


def texture(seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """A smooth random volume; another seed is another patient."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 2.0))
    return np.roll(200 + 400 * smooth, round(shift), axis=2).astype(np.float32)


def image(array: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((4.0, 4.0, 4.0))
    made.SetOrigin(origin)
    return made


@pytest.fixture
def pair(tmp_path: Path) -> Job:
    """A pair that matches already, as files."""
    for name in ("fixed", "moving"):
        sitk.WriteImage(image(texture()), str(tmp_path / f"{name}.nrrd"))
    return Job(str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"), overrides=QUICK, threads=1)


def field(displacement) -> Siren:
    """A field with that displacement, and its derivatives by differences."""
    made = Siren(8, 1, 10.0, generator=torch.Generator().manual_seed(0))

    def jet(x: torch.Tensor, order: int, *, trace: bool = False) -> Any:
        from inrreg.fields.base import Jet

        step = 1e-3
        columns = [
            (displacement(x + step * axis) - displacement(x - step * axis)) / (2 * step) for axis in torch.eye(3)
        ]
        return Jet(displacement(x), torch.stack(columns, -1))

    made.value, made.jet = displacement, jet
    return made.freeze()


def figures(job: Job, displacement, **masks: sitk.Image | None) -> dict[str, Any]:
    """The figures of a result with that displacement."""
    problem = Problem(sitk.ReadImage(job.fixed), sitk.ReadImage(job.moving), **masks)
    made = Deformation(field(displacement), problem.frame, problem.grid, (Affine(),))
    return of_result(made, problem, job)


def codes(metrics: dict[str, Any]) -> set[str]:
    return {code for code, _ in doubts(metrics)}


def said(metrics: dict[str, Any], code: str) -> str:
    return dict(doubts(metrics))[code]


# --------------------------------------------------------------------------------------------- results


def test_a_good_result_is_not_doubted(pair: Job) -> None:
    assert codes(figures(pair, lambda x: 0 * x)) == set()


def test_what_interpolation_takes_from_equal_images_is_no_doubt() -> None:
    match = {"before": 1.0, "overlap": 1.0}
    assert codes({"similarity": match | {"after": 0.99}}) == {"worse"}
    assert codes({"similarity": match | {"after": 0.99998}}) == set()


def test_a_field_that_its_voxels_do_not_hold_is_told_of() -> None:
    assert codes({"interpolation_error": 0.4}) == set()
    assert "1.8 mm" in said({"interpolation_error": 1.78}, "sampling")


def test_a_result_worse_than_none_says_so_with_its_causes(pair: Job) -> None:
    metrics = figures(pair, lambda x: 0 * x + torch.tensor([0.25, 0.0, 0.0]))
    assert "worse" in codes(metrics)
    assert "match less after" in said(metrics, "worse")
    assert "wrong pair" in said(metrics, "worse")
    assert "contrast" in said(metrics, "worse")
    assert "swapped" not in said(metrics, "worse")  # there are no masks
    masked = {**metrics, "inputs": dict.fromkeys(("fixed", "moving", "fixed_mask", "moving_mask"), "")}
    assert "swapped masks" in said(masked, "worse")


def test_heavy_folding_is_flagged_with_what_to_try(pair: Job) -> None:
    metrics = figures(pair, lambda x: torch.stack([-1.5 * x[:, 0], 0 * x[:, 1], 0 * x[:, 2]], -1))
    assert "folding" in codes(metrics)
    assert "regularization" in said(metrics, "folding")


def test_implausible_motion_is_flagged_and_plausible_motion_is_not(pair: Job) -> None:
    # the image is 92 mm long: its half is the unit
    assert "motion" in codes(figures(pair, lambda x: 0 * x + torch.tensor([0.8, 0.0, 0.0])))
    assert "motion" not in codes(figures(pair, lambda x: 0 * x + torch.tensor([0.3, 0.0, 0.0])))
    assert "prealignment" in said({"motion": {"p99": 140.0, "most": 100.0}}, "motion")


def test_implausible_change_of_volume_is_flagged(pair: Job) -> None:
    assert "volume" in codes({"jacobian": {"whole": {"folding": 0, "sd_log": 0.9}}})
    assert "volume" not in codes({"jacobian": {"whole": {"folding": 0, "sd_log": 0.4}}})


def test_too_little_overlap_is_flagged_with_its_causes(pair: Job) -> None:
    metrics = figures(pair, lambda x: 0 * x + torch.tensor([1.2, 0.0, 0.0]))
    assert "overlap" in codes(metrics)
    assert "prealignment" in said(metrics, "overlap")


def test_a_wrong_pair_is_flagged(pair: Job, tmp_path: Path) -> None:
    sitk.WriteImage(image(texture(seed=7)), str(tmp_path / "moving.nrrd"))
    metrics = register(pair, tmp_path / "result")
    assert codes(metrics) & {"unlike", "worse"}, metrics["similarity"]
    assert any("wrong pair" in text for _, text in doubts(metrics))


def test_another_contrast_is_flagged(pair: Job, tmp_path: Path) -> None:
    sitk.WriteImage(image(500 - texture()), str(tmp_path / "moving.nrrd"))
    metrics = register(pair, tmp_path / "result")
    assert codes(metrics) & {"unlike", "worse"}
    assert any("contrast" in text for _, text in doubts(metrics))


def test_swapped_masks_are_known_by_their_grids(pair: Job, tmp_path: Path) -> None:
    sitk.WriteImage(image(texture()[:, :, 2:], (8, 0, 0)), str(tmp_path / "moving.nrrd"))
    names = {"fixed_mask": "moving", "moving_mask": "fixed"}
    for name, other in names.items():
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / f"{other}.nrrd")) * 0 + 1, str(tmp_path / f"{name}.nrrd"))
    told: list[str] = []
    swapped = dataclasses.replace(pair, **{name: str(tmp_path / f"{name}.nrrd") for name in names})
    metrics = register(swapped, tmp_path / "result", emit=lambda kind, data: told.append(data.get("code", "")))
    assert "masks" in told
    assert "swapped" in said(metrics, "masks")
    right = dataclasses.replace(swapped, fixed_mask=swapped.moving_mask, moving_mask=swapped.fixed_mask)
    assert "masks" not in codes(register(right, tmp_path / "right"))


def test_doubts_are_in_events_log_metrics_and_report(pair: Job, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("matplotlib")
    from inrreg.report import write_report

    sitk.WriteImage(image(texture(seed=7)), str(tmp_path / "moving.nrrd"))
    told: list[str] = []
    metrics = register(
        pair, tmp_path / "result", emit=lambda kind, data: kind == "warning" and told.append(data["message"])
    )
    text = next(text for _, text in doubts(metrics) if "wrong pair" in text)
    assert text in told
    assert text in (tmp_path / "result" / "log.txt").read_text()
    again = of_transform(Deformation.load(tmp_path / "result"), pair, {}, result=tmp_path / "result")
    write_report(tmp_path / "report.html", again, Deformation.load(tmp_path / "result"), pair, {})
    assert text in (tmp_path / "report.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ divergence


def test_an_optimization_that_diverges_is_restarted_from_a_safer_start(pair: Job, tmp_path: Path, monkeypatch) -> None:
    """Simulated: the first field throws all points five half image lengths away."""
    rates: list[float] = []
    fit = fast.fit

    def watched(problem, settings, run):
        rates.append(settings.rate)
        found = fit(problem, settings, run)
        if len(rates) == 1:
            with torch.no_grad():
                found._frozen = None
                found.residuals.fill_(5.0)
        return found

    monkeypatch.setattr(fast, "fit", watched)
    told: list[dict] = []
    metrics = register(pair, tmp_path / "result", emit=lambda kind, data: kind == "warning" and told.append(data))
    assert rates == pytest.approx([3e-3, 3e-4])
    assert metrics["restarts"] == 1
    assert read_json(tmp_path / "result" / "metrics.json")["restarts"] == 1
    assert [data["code"] for data in told].count("restarted") == 1
    assert "diverged" in said(metrics, "restarted")
    assert metrics["largest_displacement"] < 60


@pytest.mark.parametrize("preset", ["fast", "idir-light"])
def test_a_loss_that_is_no_number_is_seen_restarted_and_given_up(preset: str, pair: Job, tmp_path: Path, monkeypatch):
    from inrreg import dense, optimization

    known, calls = optimization.descend, []

    def poisoned(optimizer, rate, terms) -> None:
        calls.append(rate)
        known(optimizer, rate, {name: term * float("nan") for name, term in terms.items()})

    monkeypatch.setattr(dense if preset == "fast" else optimization, "descend", poisoned)
    overrides = QUICK if preset == "fast" else {"steps": 3, "points": 100, "width": 8, "hidden": 1}
    told: list[str] = []
    with pytest.raises(UserError) as caught:
        register(
            dataclasses.replace(pair, preset=preset, overrides=overrides),
            tmp_path / "result",
            emit=lambda kind, data: told.append(data.get("code", "")),
        )
    assert caught.value.code == "diverged"
    assert told.count("restarted") == registration.RESTARTS
    assert not (tmp_path / "result").exists()
    assert max(calls) > 50 * min(calls)


def test_a_restart_keeps_seed_deadline_and_progress(pair: Job) -> None:
    problem = Problem(sitk.ReadImage(pair.fixed), sitk.ReadImage(pair.moving))
    steps: list[int] = []
    run = Run(lambda kind, data: kind == "progress" and steps.append(data["step"]), seed=3, time_budget=100)
    attempts = []

    def fit(problem, settings, run):
        attempts.append((settings.rate, run.seed))
        found = fast.fit(problem, settings, run)
        if len(attempts) == 1:
            raise diverged()
        return found

    settings = pair.settings()
    registration.fit_safely(fit, problem, settings, run)
    assert [seed for _, seed in attempts] == [3, 3]
    assert max(steps) == 4
    assert run.restarts == 1


def test_safer_settings_stay_in_their_ranges() -> None:
    from inrreg.protocol import presets

    for preset in presets().values():
        settings = preset.settings
        for _ in range(12):
            settings = safer(settings)
        assert settings.rate == 1e-7
