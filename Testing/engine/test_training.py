"""Training a prior: the same whether interrupted or not, here or on a cluster, and no bad pair stops it."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from inrreg import cli
from inrreg.cohort.cluster import Place
from inrreg.cohort.manifest import read_manifest
from inrreg.landmarks import Points, write_points
from inrreg.phantom.shifting import shifting
from inrreg.prior import Prior
from inrreg.protocol import UserError
from inrreg.training.computer import here, on_cluster
from inrreg.training.drawing import drawn
from inrreg.training.run import Training
from inrreg.training.settings import TrainingSettings

SMALL = TrainingSettings(
    width=8,
    points=100,
    patch=6,
    channels=1,
    embedding=7,
    inner_steps=1,
    solving_steps=2,
    batch=2,
    steps=4,
    every=2,
    warm_up=1,
    encoder_rate=1e-3,
    similarity="ncc",
)
DEFAULTS = {"preset": "reindir", "device": "cpu", "threads": 1, "overrides": {"similarity": "ncc"}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs, the last of which no training can use, in two ways."""
    folder, rows = tmp_path_factory.mktemp("pairs"), []
    for number in range(5):
        made = shifting(12, 16.0, seed=number, landmarks=20)
        if number == 4:
            made.moving.SetOrigin((5000.0, 0.0, 0.0))
        row = {"name": f"p{number}"}
        for end in ("fixed", "moving"):
            row[end], row[f"{end}_landmarks"] = f"{number}{end}.nrrd", f"{number}{end}.csv"
            sitk.WriteImage(getattr(made, end), str(folder / row[end]))
            write_points(folder / row[f"{end}_landmarks"], Points(getattr(made, f"{end}_landmarks")))
        rows.append(row)
    rows.append({**rows[0], "name": "missing", "moving": "nowhere.nrrd"})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


class Interrupted(Exception):
    """As a killed process, but that it can be gone on after."""


def train(manifest: Path, output: Path, kind: str = "reindir", compute: Any = here, stop: int = 0, **changes: Any):
    """A training, which breaks off at step `stop`; the prior, and what was told."""
    told: list[tuple[str, dict[str, Any]]] = []

    def hear(what: str, data: dict[str, Any]) -> None:
        told.append((what, data))
        if stop and what == "step" and data["step"] == stop:
            raise Interrupted

    sets = [read_manifest(manifest, DEFAULTS)]
    settings = dataclasses.replace(SMALL, **changes)
    return Training(sets, output, kind, settings, held_out=0.3, compute=compute, told=hear).run(), told


@pytest.mark.parametrize("kind", ["reindir", "average"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(manifest: Path, kind: str, tmp_path: Path) -> None:
    changes = {"batch": 1, "every": 1} if kind == "average" else {}
    straight, told = train(manifest, tmp_path / "straight", kind, **changes)
    with pytest.raises(Interrupted):
        train(manifest, tmp_path / "broken", kind, stop=3 if kind == "reindir" else 2, **changes)
    assert not (tmp_path / "broken").exists()
    again, told_again = train(manifest, tmp_path / "broken", kind, **changes)
    steps = [data["step"] for what, data in told_again if what == "step"]
    assert steps == ([3, 4] if kind == "reindir" else [2, 3])
    one, other = (load_file(tmp_path / name) for name in ("straight", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [tuple(each) for each in again.about["history"]] == [tuple(each) for each in straight.about["history"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "straight"]
    assert [data["error"] for what, data in told if what == "look"] == [error for _, error in straight.about["history"]]
    assert straight.about["unit"] == "mm"


def test_a_checkpoint_of_another_training_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(manifest, tmp_path / "prior", stop=3)
    with pytest.raises(UserError, match=r"prior.checkpoint is of another training.*Remove it"):
        train(manifest, tmp_path / "prior", points=101)
    (tmp_path / "prior.checkpoint").write_text("damaged")
    with pytest.raises(UserError, match="is no prior of version 1"):
        train(manifest, tmp_path / "prior")


def test_pairs_that_cannot_be_used_are_told_and_left_out(manifest: Path, tmp_path: Path) -> None:
    _, told = train(manifest, tmp_path / "prior")
    warnings = [data["message"] for what, data in told if what == "warning"]
    assert len(warnings) == 2
    assert any("missing is left out: There is no file" in text for text in warnings)
    assert any("p4 is left out: Only 0% of the fixed image" in text for text in warnings)
    lines = manifest.read_text().splitlines()
    (bad := manifest.with_name("bad.csv")).write_text("\n".join([lines[0], lines[5], lines[6]]))
    with pytest.raises(UserError, match="No pair"):
        train(bad, tmp_path / "bad")


def test_a_cluster_trains_the_same_prior(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="a cluster needs dask.distributed")
    train(manifest, tmp_path / "here")
    with on_cluster(Place(2)) as compute:
        train(manifest, tmp_path / "there", compute=compute)
    one, other = (load_file(tmp_path / name) for name in ("here", "there"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_set_has_its_turn_and_goes_through_its_pairs() -> None:
    sets = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    steps = [drawn(sets, step, 3, seed=1) for step in range(12)]
    assert all([number in each for number, each in zip(step, sets, strict=True)] == [True] * 3 for step in steps)
    assert sorted(step[0] for step in steps[:3]) == sets[0]
    assert sorted(step[2] for step in steps[4:8]) == sets[2]
    assert steps != [drawn(sets, step, 3, seed=2) for step in range(12)]


def test_the_command_writes_a_prior_and_its_plot(manifest: Path, tmp_path: Path) -> None:
    settings = {name: getattr(SMALL, name) for name in ("width", "points", "patch", "channels", "embedding")}
    settings |= {"steps": 1, "inner_steps": 1, "batch": 1}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    output = tmp_path / "made.safetensors"
    call = ["train-prior", "--phantoms", "2", "--output", str(output), "--threads", "1", "--device", "cpu", *sets]
    answer = CliRunner().invoke(cli.app, call, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert Prior.load(output).about["kind"] == "reindir"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.png", output.name, f"{output.name}.phantoms"]
    assert (tmp_path / "made.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to train on"),
        (["none.csv"], "none.csv cannot be read"),
        (["--phantoms", "2", "--kind", "maml"], "no kind of prior 'maml'"),
        (["--phantoms", "2", "--held-out", "1.5"], "held out must lie"),
        (["--phantoms", "2", "--set", "colour=1"], "no setting 'colour'"),
        (["--phantoms", "2", "--scheduler", "tcp://far.example:8786"], "not protected by TLS"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    call = ["train-prior", "--output", str(tmp_path / "prior.safetensors"), *arguments]
    answer = CliRunner().invoke(cli.app, call)
    assert isinstance(answer.exception, UserError)
    assert words in str(answer.exception)
