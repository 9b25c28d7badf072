"""Previews: what they show, what they may cost, and that they leave the result alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg import previewing
from inrreg.fields import Field, Jet
from inrreg.optimization import Run
from inrreg.phantom import thorax
from inrreg.previewing import SHARE, Preview
from inrreg.problem import Problem
from inrreg.protocol import Job
from inrreg.registration import register, solve
from inrreg.transforms import Affine

QUICK = {"steps": (12, 12, 6), "image_spacing": (16, 12, 10), "node_spacing": (30, 24, 20), "width": 32}
SHIFT = np.array([9.0, -6.0, 12.0])


class Constant(Field):
    """One displacement everywhere; a point takes 10 us of the clock."""

    kind = "constant-for-preview"

    def __init__(self, vector: np.ndarray, clock: Any = None) -> None:
        super().__init__()
        self.vector, self.clock = torch.nn.Parameter(torch.tensor(vector, dtype=torch.float32)), clock
        self.asked: list[int] = []

    def value(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        if self.clock is not None:
            self.clock.now += 1e-5 * len(x)
        return self.vector.expand_as(x)

    def jet(self, x: torch.Tensor, order: int, *, trace: bool = False) -> Jet:
        return Jet(self.value(x), x.new_zeros(len(x), 3, 3))

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Job]:
    made = thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=2, amplitude=12.0)
    folder = tmp_path_factory.mktemp("pair")
    for name in ("fixed", "moving"):
        sitk.WriteImage(getattr(made, name), str(folder / f"{name}.nrrd"))
    job = Job(str(folder / "fixed.nrrd"), str(folder / "moving.nrrd"), overrides=QUICK, threads=1)
    return Problem(made.fixed, made.moving), job


def test_a_preview_shows_the_whole_way_and_fades(pair: tuple[Problem, Job], tmp_path: Path) -> None:
    problem, _ = pair
    before = (Affine(np.eye(3), np.array([0.0, 30.0, 0.0])),)
    events: list[tuple[str, dict[str, Any]]] = []
    preview = Preview(tmp_path / "preview.nrrd", problem, before, lambda *event: events.append(event))
    for _ in range(2):  # the second knows how far the fade has to go
        preview.look(Constant(SHIFT / problem.frame.scale), stage_ends=True)
        preview.seconds = 0.0
    assert events == [("preview", {"path": str(tmp_path / "preview.nrrd")})] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["preview.nrrd"]
    image = sitk.ReadImage(str(tmp_path / "preview.nrrd"), sitk.sitkVectorFloat64)
    field = sitk.DisplacementFieldTransform(image)
    centre = problem.grid.to_world((np.array(problem.grid.size) - 1) / 2)
    assert np.array(field.TransformPoint(centre)) - centre == pytest.approx(np.add(SHIFT, [0, 30, 0]), abs=1e-4)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "preview.nrrd")))
    for axis in range(3):
        assert not np.take(values, [0, -1], axis).any()


def test_previews_keep_to_their_share(
    pair: tuple[Problem, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, _ = pair
    clock = Clock()
    monkeypatch.setattr(previewing, "time", clock)
    field = Constant(SHIFT / problem.frame.scale, clock)
    preview = Preview(tmp_path / "preview.nrrd", problem, (), lambda *event: None)
    for step in range(4000):
        clock.now += 0.01
        preview.look(field, step % 500 == 499)
    assert preview.count > 20
    assert preview.seconds == pytest.approx(1e-5 * sum(field.asked))
    assert preview.seconds < 1.1 * SHARE * clock.now
    assert max(field.asked[1:]) < field.asked[0]  # a costly field is looked at more coarsely


def test_a_reader_in_the_way_costs_a_preview_and_nothing_else(
    pair: tuple[Problem, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(path: Path, target: Path) -> None:
        raise PermissionError(13, "The file is in use", str(path))

    monkeypatch.setattr(Path, "replace", held)
    events: list[Any] = []
    preview = Preview(tmp_path / "preview.nrrd", pair[0], (), lambda *event: events.append(event))
    preview.look(Constant(SHIFT / 100), stage_ends=True)
    assert not events


@pytest.mark.parametrize("preset", ["fast", "cidir-light", "idir-light"])
def test_the_result_is_the_same_with_and_without(
    pair: tuple[Problem, Job], tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previewing, "INTERVAL", 0.0)
    monkeypatch.setattr(previewing, "SHARE", 1.0)
    overrides = {"steps": 6, "width": 16, "points": 500} if preset == "idir-light" else QUICK
    job = dataclasses.replace(pair[1], preset=preset, overrides=overrides)
    seen: list[float] = []

    def emit(kind: str, data: dict[str, Any]) -> None:
        if kind == "preview":
            values = sitk.GetArrayFromImage(sitk.ReadImage(data["path"]))
            seen.append(float(np.linalg.norm(values, axis=-1).max()))

    if preset == "fast":
        images = []
        for name, path in (("with", tmp_path / "preview.nrrd"), ("without", None)):
            register(job, tmp_path / name, emit=emit, preview=path)
            images.append(sitk.ReadImage(str(tmp_path / name / "displacement.nrrd")))
        assert "previews took" in (tmp_path / "with" / "log.txt").read_text("utf-8")
    else:
        monkeypatch.setattr("inrreg.registration.tune", lambda *_: None)
        made = [solve(job, Run(emit, seed=0), path)[0] for path in (tmp_path / "preview.nrrd", None)]
        images = [each.displacement_field() for each in made]
    assert len(seen) > 3
    assert max(seen) > 0
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, images))
