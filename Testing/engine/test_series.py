"""A series: each image begins where the one before it ended, what is done is kept, and landmarks are followed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from inrreg.cli import app, main
from inrreg.deformation import Deformation
from inrreg.landmarks import Points, read_points, write_points
from inrreg.optimization import Cancelled
from inrreg.phantom import Cycle, cycle
from inrreg.protocol import Job, UserError, read_json
from inrreg.registration import register
from inrreg.series import register_series

LATTICE = {"image_spacing": (20.0, 20.0), "node_spacing": (40.0, 40.0), "steps": (6, 6), "width": 8}
SMALL = {
    "fast": {**LATTICE, "rank": 8},
    "cidir-light": {**LATTICE, "rank": 8, "alphas": 1},
    "ccidir-light": {**LATTICE, "rank": 8, "points": 100},
    "lddmm-light": {**LATTICE, "path_spacing": (40.0, 40.0), "rank": 8, "fit_steps": 2},
    "idir-light": {"width": 8, "points": 100, "steps": 6},
    "dual-light": {"width": 8, "points": 100, "steps": (6, 6), "sigma": (1.0, 0.0)},
}


@pytest.fixture(scope="module")
def breath() -> Cycle:
    return cycle(3, (24, 20, 24), (12.0, 12.0, 12.0), amplitude=15.0, landmarks=20)


@pytest.fixture(scope="module")
def images(breath: Cycle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    for number, image in enumerate(breath.images):
        sitk.WriteImage(image, str(folder / f"{number}.nrrd"))
    write_points(folder / "points.csv", Points(breath.landmarks[0], labels=tuple(f"v{n}" for n in range(20))))
    return folder


def job_of(images: Path, preset: str = "fast") -> Job:
    fixed, moving = (str(images / f"{number}.nrrd") for number in (0, 1))
    return Job(fixed=fixed, moving=moving, preset=preset, overrides=SMALL[preset], threads=1, device="cpu")


def names(images: Path) -> list[str]:
    return [str(images / f"{number}.nrrd") for number in (1, 2)]


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series that was registered by the command, its reference among its images."""
    output = tmp_path_factory.mktemp("done") / "series"
    settings = [f"--set={key}={','.join(map(str, np.atleast_1d(value)))}" for key, value in SMALL["fast"].items()]
    phases = [str(images / "0.nrrd"), *names(images)]
    call = ["series", phases[0], *phases, f"--output={output}", f"--landmarks={images / 'points.csv'}", "--threads=1"]
    result = CliRunner().invoke(app, [*call, *settings])
    assert result.exit_code == 0, result.output
    return output


def test_each_image_gets_a_result_begun_where_the_one_before_it_ended(done: Path) -> None:
    phases = read_json(done / "series.json")["phases"]
    assert [(phase["folder"], phase["start"]) for phase in phases] == [
        ("", ""),
        ("phase_02", ""),
        ("phase_03", "phase_02"),
    ]
    first, second = (read_json(done / f"phase_{n:02}" / "metrics.json") for n in (2, 3))
    assert "start" not in first
    assert len(second["start"]) == 64
    assert "begun where the neighbour ended" in (done / "phase_03" / "log.txt").read_text()


def test_landmarks_are_followed_through_all_images(done: Path, images: Path) -> None:
    points, given = read_points(done / "trajectories.csv"), read_points(images / "points.csv")
    assert set(points.columns["system"]) == {"LPS mm"}
    assert points.columns["phase"][:4] == ["0", "1", "2", "3"]
    assert points.columns["image"][:4] == ["0.nrrd", "0.nrrd", "1.nrrd", "2.nrrd"]
    assert points.labels[:5] == ("v0",) * 4 + ("v1",)
    places = points.positions.reshape(20, 4, 3)
    np.testing.assert_array_equal(places[:, 0], given.positions)
    np.testing.assert_array_equal(places[:, 1], given.positions)
    np.testing.assert_allclose(places[:, 3], Deformation.load(done / "phase_03").map(given.positions))


def test_what_is_done_is_kept_until_its_image_or_its_start_changes(done: Path, images: Path, tmp_path: Path) -> None:
    output, changed = tmp_path / "series", tmp_path / "images"
    shutil.copytree(done, output)
    shutil.copytree(images, changed)
    phases = [str(images / "0.nrrd"), *names(images)]
    job = Job.from_dict(read_json(done / "phase_02" / "job.json"))
    again = register_series(job, phases, output)
    assert [phase["kept"] for phase in again["phases"]] == [False, True, True]
    sitk.WriteImage(sitk.ReadImage(str(changed / "1.nrrd")) + 1, str(changed / "1.nrrd"))
    phases = [str(images / "0.nrrd"), *names(changed)]
    again = register_series(job, phases, output)
    assert [phase["kept"] for phase in again["phases"]] == [False, False, False]


def test_a_cancelled_series_goes_on_where_it_was(images: Path, tmp_path: Path) -> None:
    seen = []

    def cancelled() -> bool:
        return bool(seen) and "phase 2 of 2" in seen[-1]["stage"]

    def tell(kind: str, data: dict) -> None:
        if kind == "progress":
            seen.append(data)

    with pytest.raises(Cancelled):
        register_series(job_of(images), names(images), tmp_path / "series", emit=tell, cancelled=cancelled)
    assert sorted(path.name for path in (tmp_path / "series").iterdir()) == ["phase_01"]
    assert all(0 < each["step"] <= each["steps"] for each in seen)
    steps = [each["step"] / each["steps"] for each in seen]
    assert steps == sorted(steps)
    done = register_series(job_of(images), names(images), tmp_path / "series")
    assert [phase["kept"] for phase in done["phases"]] == [True, False]


@pytest.mark.parametrize("preset", SMALL)
def test_a_warm_start_begins_where_the_neighbour_ended_and_takes_fewer_steps(
    preset: str, images: Path, tmp_path: Path
) -> None:
    job, seen, logs = job_of(images, preset), [], []

    def tell(kind: str, data: dict) -> None:
        if kind == "log":
            logs.append(data["text"])
        elif kind == "progress":
            seen.append(data)

    register(job, tmp_path / "cold", emit=tell)
    cold = seen.copy()
    seen.clear()
    drawn = preset in ("idir-light", "dual-light")  # at random points, where a step's loss says little
    if drawn:
        job = dataclasses.replace(job, overrides={**job.overrides, "rate": 1e-7, "final_rate": 0.0})
    register(job, tmp_path / "warm", emit=tell, start=tmp_path / "cold")
    assert "begun where the neighbour ended" in logs
    assert seen[0]["steps"] < cold[0]["steps"]
    if drawn:  # at a rate of next to nothing it stays where it began
        points = np.random.default_rng(0).uniform(-80, 80, (50, 3))
        one, other = (Deformation.load(tmp_path / name).map(points) for name in ("cold", "warm"))
        assert np.abs(one - other).max() < 0.1 < np.abs(one - points).max()
    else:
        first, before = (next(iter(each[0]["terms"].values())) for each in (seen, cold))
        assert first < before  # the images match better from the first step on


def test_a_start_of_another_kind_is_told_and_not_taken(images: Path, tmp_path: Path) -> None:
    register(job_of(images, "idir-light"), tmp_path / "other")
    logs = []
    job = job_of(images)
    register(job, tmp_path / "anew", emit=lambda kind, data: logs.append(data.get("text")), start=tmp_path / "other")
    register(job, tmp_path / "cold")
    assert any("begun anew" in text for text in logs if text)
    points = np.random.default_rng(0).uniform(-80, 80, (50, 3))
    one, other = (Deformation.load(tmp_path / name).map(points) for name in ("anew", "cold"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["missing.nrrd"], "missing.nrrd"),
        (["1.nrrd", "--moving-mask=2.nrrd"], "every image"),
        (["1.nrrd", "--landmarks=none.csv"], "does not exist"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    extra: list[str], words: str, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(images)
    monkeypatch.setattr("sys.argv", ["inrreg", "series", "0.nrrd", *extra, "--output=never"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not (images / "never").exists()


def test_a_failing_phase_is_named_and_those_before_it_stay(images: Path, tmp_path: Path) -> None:
    flat = sitk.ReadImage(names(images)[1])
    flat.SetOrigin((1e4, 0, 0))
    sitk.WriteImage(flat, str(tmp_path / "far.nrrd"))
    with pytest.raises(UserError, match=r"Phase 2 \(far.nrrd\)"):
        register_series(job_of(images), [names(images)[0], str(tmp_path / "far.nrrd")], tmp_path / "series")
    assert (tmp_path / "series" / "phase_01" / "model.json").is_file()
