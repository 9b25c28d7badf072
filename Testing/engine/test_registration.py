"""A job from its files to its result folder, on a tiny phantom and with few steps: what must hold at any quality."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg.cli import app
from inrreg.deformation import Deformation
from inrreg.landmarks import Points, write_points
from inrreg.optimization import Cancelled
from inrreg.phantom import Phantom, thorax
from inrreg.protocol import EVENTS, Job, Message, UserError, read_json
from inrreg.registration import register
from inrreg.transforms import numerical_jacobian

QUICK = {
    "fast": {
        "steps": (30, 10),
        "image_spacing": (14, 10),
        "node_spacing": (40, 30),
        "width": 32,
        "rate": 4e-3,
        "omega": 8,
    },
    "idir": {"steps": 6, "points": 500, "regularized": 0.2, "width": 32, "hidden": 2, "omega": 8},
    "cidir": {"points": 500, "regularized": 0.2, "width": 32, "hidden": 2, "omega": 8},
    "dual": {"points": 500, "width": 32},
}


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """Jobs here set one thread; what was before comes back."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield
    torch.set_num_threads(before[0])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=2, amplitude=15.0, landmarks=60)


@pytest.fixture(scope="module")
def job(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with everything that a job can have."""
    folder, files = tmp_path_factory.mktemp("phantom"), {}
    for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
        files[name] = str(folder / f"{name}.nrrd")
        sitk.WriteImage(getattr(phantom, name), files[name])
    for name in ("fixed_landmarks", "moving_landmarks"):
        files[name] = str(folder / f"{name}.csv")
        write_points(files[name], Points(getattr(phantom, name)))
    return Job(**files, overrides=QUICK["fast"], threads=1)


@pytest.fixture(scope="module")
def finished(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Message]]:
    """The job's result, its metrics and its events."""
    folder, events = tmp_path_factory.mktemp("results") / "result", []
    metrics = register(job, folder, emit=lambda kind, data: events.append(Message(kind, data)))
    return folder, metrics, events


def bare(job: Job, **changes: Any) -> Job:
    """The job with its images only."""
    return Job(fixed=job.fixed, moving=job.moving, overrides=job.overrides, threads=1, **changes)


def vectors(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "displacement.nrrd")))


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


# ------------------------------------------------------------------------------------------- the result


def test_result_folder_is_complete(finished: tuple[Path, dict[str, Any], list[Message]]) -> None:
    folder, metrics, _ = finished
    names = {"displacement.nrrd", "model.safetensors", "model.json", "metrics.json", "job.json", "log.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert read_json(folder / "metrics.json") == json.loads(json.dumps(metrics))
    assert "finished after" in (folder / "log.txt").read_text()
    assert (folder.stat().st_mode & 0o777) == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}  # others may read it, too
    field = sitk.ReadImage(str(folder / "displacement.nrrd"))
    assert field.GetMetaData("displacement field type") == "resampling"


def test_metrics_are_sane(finished: tuple[Path, dict[str, Any], list[Message]], phantom: Phantom) -> None:
    _, metrics, _ = finished
    assert metrics["preset"] == "fast"
    assert metrics["settings"]["width"] == 32
    assert 0 < metrics["seconds"] < 120
    assert 0 < metrics["similarity"]["before"] < metrics["similarity"]["after"] <= 1
    assert 0.9 < metrics["similarity"]["overlap"] <= 1
    assert 1 < metrics["largest_displacement"] < 60
    assert 0 <= metrics["interpolation_error"] < 0.2
    marks = metrics["landmarks"]
    truth = np.linalg.norm(phantom.moving_landmarks - phantom.fixed_landmarks, axis=1)
    assert marks["before"]["mean"] == pytest.approx(truth.mean())
    assert marks["after"]["mean"] < 0.8 * marks["before"]["mean"]
    assert len(marks["errors"]) == 60
    for label in metrics["labels"]["after"]:
        assert 0.3 < metrics["labels"]["after"][label]["dice"] <= 1
    for where in ("whole", "mask"):
        values = metrics["jacobian"][where]
        assert values["min"] < 1 < values["max"]
        assert 0 <= values["folding"] < 0.01


def test_figures_belong_to_the_saved_result(finished: tuple[Path, dict[str, Any], list[Message]], job: Job) -> None:
    folder, metrics, _ = finished
    made = Deformation.load(folder)
    table = [np.loadtxt(path, delimiter=",", skiprows=1) for path in (job.fixed_landmarks, job.moving_landmarks)]
    errors = np.linalg.norm(made.map(table[0][:, -3:]) - table[1][:, -3:], axis=1)
    assert np.allclose(errors, metrics["landmarks"]["errors"], atol=1e-3)
    inside = table[0][:, -3:]
    smallest = np.linalg.det(numerical_jacobian(made, inside)).min()
    assert smallest > metrics["jacobian"]["mask"]["min"] - 0.05


@pytest.mark.parametrize(
    ("file", "given"),
    [("", True), ("displacement.nrrd", True), ("", False)],
    ids=["folder", "field", "folder with its job's files"],
)
def test_evaluate_finds_the_same_figures(
    file: str,
    given: bool,
    finished: tuple[Path, dict[str, Any], list[Message]],
    job: Job,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, metrics, _ = finished
    names = ("fixed", "moving", "fixed_mask", "fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks")
    files = [part for name in names for part in (f"--{name.replace('_', '-')}", getattr(job, name)) if given]
    app(["evaluate", "--transform", str(folder / file), *files, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    close = {"abs": 1e-6} if not file else {"abs": 0.15}
    for key in ("mean", "p95", "max"):
        assert found["landmarks"]["after"][key] == pytest.approx(metrics["landmarks"]["after"][key], **close)
    for label, values in metrics["labels"]["after"].items():
        assert found["labels"]["after"][str(label)]["dice"] == pytest.approx(
            values["dice"], abs=1e-6 if not file else 0.02
        )
    for key in ("min", "max", "sd_log"):
        assert found["jacobian"]["mask"][key] == pytest.approx(metrics["jacobian"]["mask"][key], **close)


def test_events_are_messages_with_rising_steps(finished: tuple[Path, dict[str, Any], list[Message]]) -> None:
    events = finished[2]
    progress = [event.data for event in events if event.kind == "progress"]
    assert progress
    assert [each["step"] for each in progress] == sorted(each["step"] for each in progress)
    assert progress[-1]["step"] == progress[-1]["steps"] == 40
    for event in events:
        assert Message.decode(event.encode(), EVENTS).kind == event.kind


def test_job_in_the_result_reproduces_it(finished: tuple[Path, dict[str, Any], list[Message]], tmp_path: Path) -> None:
    folder = finished[0]
    again = Job.from_dict(read_json(folder / "job.json"))
    register(again, tmp_path / "again")
    assert np.array_equal(vectors(tmp_path / "again"), vectors(folder))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_job_in_the_result_finds_its_files_from_anywhere(job: Job, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(Path(job.fixed).parent)
    relative = bare(dataclasses.replace(job, fixed="fixed.nrrd", moving="moving.nrrd"))
    register(relative, tmp_path / "result")
    monkeypatch.chdir(tmp_path)
    assert Path(Job.from_dict(read_json(tmp_path / "result" / "job.json")).fixed).is_file()


@pytest.mark.parametrize("preset", ["cidir", "idir", "dual"])
def test_other_presets_go_the_same_way(preset: str, job: Job, tmp_path: Path) -> None:
    known = dataclasses.asdict(Job(fixed="a", moving="b", preset=preset).settings())
    overrides = {name: value for name, value in QUICK[preset].items() if name in known}
    overrides |= {
        name: tuple(3 for _ in value) for name, value in known.items() if name == "steps" and isinstance(value, tuple)
    }
    overrides |= {name: 3 for name, value in known.items() if "steps" in name and isinstance(value, int)}
    metrics = register(dataclasses.replace(job, preset=preset, overrides=overrides), tmp_path / "result")
    assert metrics["preset"] == preset
    assert np.isfinite(metrics["landmarks"]["after"]["mean"])
    assert np.isfinite(vectors(tmp_path / "result")).all()


# ----------------------------------------------------------------------------------------- determinism


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(job: Job, tmp_path: Path) -> None:
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        register(bare(job, seed=seed), tmp_path / name)
    for name in ("displacement.nrrd", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert np.abs(vectors(tmp_path / "one")).max() > 1
    other = vectors(tmp_path / "three")
    assert other.shape != vectors(tmp_path / "one").shape or np.abs(other - vectors(tmp_path / "one")).max() > 0.01


# -------------------------------------------------------------------------------- cancelled, failed, rerun


@pytest.mark.parametrize("after", [0, 5, 17])
def test_cancel_leaves_nothing(after: int, job: Job, tmp_path: Path) -> None:
    asked = iter(range(10_000))
    with pytest.raises(Cancelled):
        register(bare(job), tmp_path / "deep" / "result", cancelled=lambda: next(asked) >= after)
    assert listing(tmp_path) == {}


def test_cancel_during_prealignment(job: Job, tmp_path: Path) -> None:
    stages = []

    def emit(kind: str, data: dict[str, Any]) -> None:
        stages.append(data.get("stage", kind))

    with pytest.raises(Cancelled):
        register(bare(job, prealign="rigid"), tmp_path / "result", emit=emit, cancelled=lambda: len(stages) > 2)
    assert all("prealignment" in stage for stage in stages)
    assert listing(tmp_path) == {}


def test_earlier_result_is_replaced_on_success_only(job: Job, tmp_path: Path) -> None:
    register(bare(job), tmp_path / "result")
    first = listing(tmp_path)
    with pytest.raises(Cancelled):
        register(bare(job, seed=1), tmp_path / "result", cancelled=lambda: True)
    assert listing(tmp_path) == first
    with pytest.raises(UserError):
        register(dataclasses.replace(bare(job), fixed=str(tmp_path / "none.nrrd")), tmp_path / "result")
    assert listing(tmp_path) == first
    register(bare(job, seed=1), tmp_path / "result")
    second = listing(tmp_path)
    assert set(second) == set(first)
    assert second["result/displacement.nrrd"] != first["result/displacement.nrrd"]
    assert json.loads(second["result/job.json"])["seed"] == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_earlier_result_comes_back_when_the_last_move_fails(
    error: BaseException, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(bare(job), tmp_path / "result")
    first, rename = listing(tmp_path), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if Path(target).name == "result" and ".old" not in path.name:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        register(bare(job, seed=1), tmp_path / "result")
    assert listing(tmp_path) == first


def test_a_full_disk_is_said_in_words(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Exception thrown in SimpleITK ImageFileWriter_Execute: write failed")

    monkeypatch.setattr(sitk, "WriteImage", failing)
    with pytest.raises(UserError, match="cannot be written") as caught:
        register(bare(job), tmp_path / "result")
    assert caught.value.code == "output"
    assert listing(tmp_path) == {}


def test_output_through_a_link_replaces_what_it_points_to(job: Job, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    register(bare(job), tmp_path / "link")
    assert (tmp_path / "real" / "model.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_time_budget_ends_the_optimization_early(job: Job, tmp_path: Path) -> None:
    endless = job.overrides | {"steps": (10_000, 10_000)}
    begin = time.perf_counter()
    metrics = register(dataclasses.replace(bare(job, time_budget=1.5), overrides=endless), tmp_path / "result")
    assert time.perf_counter() - begin < 15
    assert metrics["seconds"] < 10
    assert metrics["similarity"]["after"] > metrics["similarity"]["before"]


# -------------------------------------------------------------------------------------- what data counts


def test_fixed_mask_restricts_the_data(job: Job, phantom: Phantom, tmp_path: Path) -> None:
    # Far from the mask the fixed image is spoilt: that changes the result without the mask, much less with it.
    array = sitk.GetArrayFromImage(phantom.fixed)
    near = sitk.GetArrayFromImage(sitk.BinaryDilate(phantom.fixed_mask, [4, 4, 4])) > 0
    files = {"fixed": shown(phantom.fixed, np.where(near, array, 0), tmp_path / "spoilt.nrrd")}
    close = job.overrides | {"window": 0.7, "image_spacing": (10, 8)}  # so that no window reaches there
    apart = {}
    for name, mask in (("without", {}), ("with", {"fixed_mask": job.fixed_mask})):
        for folder, changes in ((f"whole {name}", mask), (f"spoilt {name}", mask | files)):
            register(dataclasses.replace(bare(job), overrides=close, **changes), tmp_path / folder)
        moved = [
            Deformation.load(tmp_path / f"{each} {name}").map(phantom.fixed_landmarks) for each in ("whole", "spoilt")
        ]
        apart[name] = np.linalg.norm(moved[0] - moved[1], axis=1).mean()
    assert apart["with"] < 0.5 * apart["without"], apart


def test_moving_mask_decides_what_overlaps(job: Job, phantom: Phantom, tmp_path: Path) -> None:
    array = np.zeros(phantom.moving.GetSize()[::-1], np.uint8)
    array[:3, :3, :3] = 1
    corner = sitk.GetImageFromArray(array)
    corner.CopyInformation(phantom.moving)
    sitk.WriteImage(corner, str(tmp_path / "corner.nrrd"))
    with pytest.raises(UserError) as caught:
        register(dataclasses.replace(bare(job), moving_mask=str(tmp_path / "corner.nrrd")), tmp_path / "result")
    assert caught.value.code == "overlap"


def test_landmarks_do_not_change_the_result(job: Job, tmp_path: Path) -> None:
    marks = {name: getattr(job, name) for name in ("fixed_landmarks", "moving_landmarks")}
    register(bare(job), tmp_path / "without")
    register(dataclasses.replace(bare(job), **marks), tmp_path / "with")
    assert np.array_equal(vectors(tmp_path / "with"), vectors(tmp_path / "without"))


def test_labels_without_a_common_one_are_an_error(job: Job, phantom: Phantom, tmp_path: Path) -> None:
    other = sitk.Cast(phantom.moving_labels > 0, sitk.sitkUInt8) * 99
    sitk.WriteImage(other, str(tmp_path / "other.nrrd"))
    labels = {"fixed_labels": job.fixed_labels, "moving_labels": str(tmp_path / "other.nrrd")}
    with pytest.raises(UserError) as caught:
        register(dataclasses.replace(bare(job), **labels), tmp_path / "result")
    assert caught.value.code == "labels"
    assert not (tmp_path / "result").exists()


# ----------------------------------------------------------------------------------------- other images


def shown(image: sitk.Image, array: np.ndarray, path: Path) -> str:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    sitk.WriteImage(result, str(path))
    return str(path)


def padded(array: np.ndarray) -> np.ndarray:
    """A CT whose corners, outside the field of view, hold a scanner's padding value."""
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in array.shape), indexing="ij")
    return np.where(x**2 + y**2 > 1, -3024, array).astype(np.int16)


def eight_bits(array: np.ndarray) -> np.ndarray:
    return np.clip((array + 1000) / 8, 0, 255).astype(np.uint8)


def small_floats(array: np.ndarray) -> np.ndarray:
    return ((array + 1024.0) * 1e-9).astype(np.float64)


@pytest.mark.parametrize("change", [padded, eight_bits, small_floats])
@pytest.mark.parametrize("prealign", ["none", "rigid"])
def test_images_of_other_kinds_register_as_well(
    change: Any, prealign: str, job: Job, phantom: Phantom, tmp_path: Path
) -> None:
    files = {
        name: shown(image, change(sitk.GetArrayFromImage(image)), tmp_path / f"{name}.nrrd")
        for name, image in (("fixed", phantom.fixed), ("moving", phantom.moving))
    }
    marks = {name: getattr(job, name) for name in ("fixed_landmarks", "moving_landmarks")}
    metrics = register(dataclasses.replace(bare(job, prealign=prealign), **files, **marks), tmp_path / "result")
    assert metrics["landmarks"]["after"]["mean"] < 0.8 * metrics["landmarks"]["before"]["mean"]
    assert metrics["similarity"]["after"] > metrics["similarity"]["before"]


def test_path_of_the_output_has_no_part_in_the_result(job: Job, tmp_path: Path) -> None:
    odd = tmp_path / "a folder [with] ümlaut %s {x}"
    register(bare(job), odd)
    assert Deformation.load(odd).grid.size == (44, 36, 44)
    assert [path.name for path in tmp_path.iterdir()] == [odd.name]
