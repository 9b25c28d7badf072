"""Bad input ends in one clear sentence and exit code 2, with no traceback and nothing left behind."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console
from safetensors.torch import load_file, save_file

from inrreg import cli
from inrreg.landmarks import Points, write_points
from inrreg.protocol import EVENTS, Message

QUICK = ["steps=2", "image_spacing=20", "node_spacing=40", "window=1", "width=8"]
SETTINGS = [part for text in QUICK for part in ("--set", text)]
SHAPE = (14, 16, 18)


def image(array: np.ndarray, spacing: float = 5.0, origin: tuple[float, float, float] = (0, 0, 0)) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.SetSpacing([spacing] * array.ndim)
    if array.ndim == 3:
        result.SetOrigin(origin)
    return result


def texture(shift: float = 0.0) -> np.ndarray:
    """A smooth volume that a registration can work on."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    return (100 + 40 * np.sin(0.7 * x + shift) + 30 * np.cos(0.5 * y) + 20 * np.sin(0.6 * z + 0.3 * x)).astype(
        np.float32
    )


def with_values(*values: float) -> np.ndarray:
    array = texture()
    array.flat[: len(values)] = values
    return array


def corner_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    return mask


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("input")
    written = {
        "fixed": image(texture()),
        "moving": image(texture(0.3)),
        "far": image(texture(), origin=(5000, 0, 0)),
        "nan": image(with_values(np.nan)),
        "infinite": image(with_values(np.inf)),
        "huge": image(with_values(1e37).astype(np.float64)),
        "constant": image(np.full(SHAPE, 7.0, np.float32)),
        "flat": image(texture()[:1]),
        "slice": image(texture()[0]),
        "vector": sitk.GetImageFromArray(np.stack([texture()] * 3, -1), isVector=True),
        "complex": image(texture().astype(np.complex64)),
        "empty_mask": image(np.zeros(SHAPE, np.uint8)),
        "far_mask": image(np.ones(SHAPE, np.uint8), origin=(0, 3000, 0)),
        "mask": image(corner_mask()),
        "labels_1": image(corner_mask().astype(np.int16)),
        "labels_2": image(2 * corner_mask().astype(np.int16)),
    }
    for name, each in written.items():
        sitk.WriteImage(each, str(folder / f"{name}.nrrd"))
    sitk.WriteImage(sitk.JoinSeries([image(texture())] * 2), str(folder / "series.nii"))
    sitk.WriteImage(each, str(folder / "endless.nii"))
    header = bytearray((folder / "endless.nii").read_bytes())
    header[280:328] = struct.pack("<12f", 0, 0, 2e-6, 0, 0, 0, 2e-6, 0, 3, 2, math.inf, 0)  # its matrix to the world
    (folder / "endless.nii").write_bytes(header)
    with gzip.open(folder / "endless.nii.gz", "wb") as file:
        file.write(header)
    (folder / "noise.nrrd").write_bytes(bytes(range(256)) * 4)
    versor = "VersorRigid3DTransform_double_3_3\nParameters: nan 0 0 0 0 0\nFixedParameters: 0 0 0\n"
    (folder / "nan.tfm").write_text(f"#Insight Transform File V1.0\n#Transform 0\nTransform: {versor}")
    (folder / "noise.tfm").write_text("this is no transform\n")
    (folder / "cut.nrrd").write_bytes((folder / "fixed.nrrd").read_bytes()[:3000])
    (folder / "points.txt").write_text("3 4 5\n6 7 8\n")
    write_points(folder / "two.csv", Points(np.array([[10.0, 10, 10], [20, 20, 20]])))
    write_points(folder / "three.csv", Points(np.array([[10.0, 10, 10], [20, 20, 20], [5, 5, 5]])))
    (folder / "words.csv").write_text("x,y,z\n1,2,three\n")
    (folder / "file").write_text("a file in the way")
    return folder


@pytest.fixture(scope="module")
def result(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder."""
    folder = tmp_path_factory.mktemp("results") / "result"
    assert run("register", *pair(files), "--output", folder)[0] == 0
    return folder


def pair(files: Path, fixed: str = "fixed.nrrd", moving: str = "moving.nrrd") -> list[Any]:
    return ["--fixed", files / fixed, "--moving", files / moving, *SETTINGS, "--threads", 1]


def run(*arguments: object) -> tuple[int, str]:
    """The exit code of the command, run in this process, and what it printed as an error."""
    error, before = io.StringIO(), (sys.argv, cli._err)
    sys.argv = ["inrreg", *map(str, arguments)]
    cli._err = Console(file=error, soft_wrap=True, highlight=False, emoji=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            cli.main()
    except SystemExit as end:
        return int(end.code or 0), error.getvalue()
    finally:
        sys.argv, cli._err = before
    return 0, error.getvalue()


def process(*arguments: object) -> subprocess.CompletedProcess:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "inrreg", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_one_sentence(text: str) -> bool:
    """One line `Error: ...`: a sentence, and at most a hint of two more."""
    lines = [line for line in text.splitlines() if line.strip()]
    return (
        len(lines) == 1
        and lines[0].startswith("Error: ")
        and lines[0].rstrip().endswith(".")
        and "Traceback" not in text
        and len(lines[0]) < 600
    )


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


BAD: dict[str, tuple[Callable[[Path], list[Any]], str]] = {
    "missing fixed": (lambda f: pair(f, "none.nrrd"), "does not exist"),
    "missing moving": (lambda f: pair(f, moving="none.nrrd"), "does not exist"),
    "a folder as image": (lambda f: pair(f, "."), "is a folder"),
    "unreadable": (lambda f: pair(f, "noise.nrrd"), "cannot be read as an image"),
    "not an image": (lambda f: pair(f, "words.csv"), "cannot be read as an image"),
    "cut short": (lambda f: pair(f, moving="cut.nrrd"), "cannot be read as an image"),
    "2D": (lambda f: pair(f, "slice.nrrd"), "2-dimensional"),
    "4D": (lambda f: pair(f, "series.nii"), "4-dimensional"),
    "one slice": (lambda f: pair(f, "flat.nrrd"), "only 18 x 16 x 1 voxels"),
    "vector": (lambda f: pair(f, moving="vector.nrrd"), "3 values a voxel"),
    "complex": (lambda f: pair(f, moving="complex.nrrd"), "complex"),
    "NaN": (lambda f: pair(f, "nan.nrrd"), "NaN or infinite"),
    "infinite": (lambda f: pair(f, moving="infinite.nrrd"), "NaN or infinite"),
    "huge values": (lambda f: pair(f, moving="huge.nrrd"), "beyond 1e+30"),
    "NIfTI with an infinite matrix": (lambda f: pair(f, "endless.nii"), "infinite or none"),
    "compressed NIfTI with an infinite matrix": (lambda f: pair(f, "endless.nii.gz"), "infinite or none"),
    "constant": (lambda f: pair(f, moving="constant.nrrd"), "same value everywhere"),
    "no overlap": (lambda f: pair(f, moving="far.nrrd"), "overlaps"),
    "empty mask": (lambda f: [*pair(f), "--fixed-mask", f / "empty_mask.nrrd"], "empty within its image"),
    "mask elsewhere": (lambda f: [*pair(f), "--moving-mask", f / "far_mask.nrrd"], "empty within its image"),
    "missing mask": (lambda f: [*pair(f), "--moving-mask", f / "none.nrrd"], "does not exist"),
    "vector mask": (lambda f: [*pair(f), "--fixed-mask", f / "vector.nrrd"], "3 values a voxel"),
    "labels without partner": (lambda f: [*pair(f), "--fixed-labels", f / "labels_1.nrrd"], "needed together"),
    "labels not in common": (
        lambda f: [*pair(f), "--fixed-labels", f / "labels_1.nrrd", "--moving-labels", f / "labels_2.nrrd"],
        "no label in common",
    ),
    "landmarks without partner": (lambda f: [*pair(f), "--moving-landmarks", f / "two.csv"], "needed together"),
    "landmarks that do not correspond": (
        lambda f: [*pair(f), "--fixed-landmarks", f / "two.csv", "--moving-landmarks", f / "three.csv"],
        "2 fixed and 3 moving landmarks",
    ),
    "landmarks of words": (
        lambda f: [*pair(f), "--fixed-landmarks", f / "words.csv", "--moving-landmarks", f / "two.csv"],
        "needs a number",
    ),
    "landmarks that are an image": (
        lambda f: [*pair(f), "--fixed-landmarks", f / "fixed.nrrd", "--moving-landmarks", f / "two.csv"],
        "known format",
    ),
    "missing initial transform": (lambda f: [*pair(f), "--initial-transform", f / "none.tfm"], "does not exist"),
    "unreadable initial transform": (lambda f: [*pair(f), "--initial-transform", f / "noise.tfm"], "as a transform"),
    "initial transform with NaN": (
        lambda f: [*pair(f), "--initial-transform", f / "nan.tfm"],
        "cannot be read as a transform",
    ),
    "an image as initial transform": (lambda f: [*pair(f), "--initial-transform", f / "fixed.nrrd"], "displacements"),
    "a folder as initial transform": (lambda f: [*pair(f), "--initial-transform", f], "holds no result"),
    "a prior that the preset does not take": (lambda f: [*pair(f), "--prior", f / "file"], "takes no prior"),
    "unknown prealignment": (lambda f: [*pair(f), "--prealign", "elastic"], "no prealignment 'elastic'"),
    "unknown preset": (lambda f: [*pair(f), "--preset", "[magic]"], "no preset '[magic]'"),
    "unknown setting": (lambda f: [*pair(f), "--set", "colour=3"], "no setting 'colour'"),
    "setting of a wrong type": (lambda f: [*pair(f), "--set", "width=wide"], "needs a value of type int"),
    "setting out of range": (lambda f: [*pair(f), "--set", "width=100000"], "must lie from"),
    "setting without =": (lambda f: [*pair(f), "--set", "width"], "not of the form key=value"),
    "absent device": (lambda f: [*pair(f), "--device", "cuda:77"], "no device 'cuda:77'"),
    "unknown device": (lambda f: [*pair(f), "--device", "abacus"], "no device 'abacus'"),
    "negative threads": (lambda f: [*pair(f)[:-1], "-1"], "cannot be negative"),
    "countless threads": (lambda f: [*pair(f)[:-1], "100000"], "At most"),
    "an endless seed": (lambda f: [*pair(f), "--seed", 10**25], "At most"),
    "negative time": (lambda f: [*pair(f), "--time-budget", "-3"], "cannot be negative"),
    "endless time": (lambda f: [*pair(f), "--time-budget", "nan"], "cannot be negative"),
}


@pytest.mark.parametrize("name", BAD)
def test_register_refuses(name: str, files: Path, tmp_path: Path) -> None:
    arguments, words = BAD[name]
    code, text = run("register", *arguments(files), "--output", tmp_path / "new" / "result")
    assert code == 2, text
    assert is_one_sentence(text), text
    assert words in text
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("name", ["unreadable", "constant", "setting out of range"])
def test_register_refuses_as_a_process_too(name: str, files: Path, tmp_path: Path) -> None:
    answer = process("register", *BAD[name][0](files), "--output", tmp_path / "result")
    assert answer.returncode == 2
    assert is_one_sentence(answer.stderr), answer.stderr
    assert answer.stdout == ""
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("name", ["NaN", "no overlap", "labels not in common", "unknown preset"])
def test_an_earlier_result_outlives_an_error(name: str, files: Path, result: Path) -> None:
    before = listing(result.parent)
    code, _ = run("register", *BAD[name][0](files), "--output", result)
    assert code == 2
    assert listing(result.parent) == before


@pytest.mark.parametrize("name", ["NaN", "2D", "unknown setting", "setting without =", "absent device", "no overlap"])
def test_events_end_with_the_error(name: str, files: Path, tmp_path: Path) -> None:
    answer = process("register", "--json", *BAD[name][0](files), "--output", tmp_path / "result")
    events = [Message.decode(line, EVENTS) for line in answer.stdout.splitlines()]
    assert answer.returncode == 2
    assert events[-1].kind == "error"
    assert BAD[name][1] in events[-1].data["message"]
    assert events[-1].data["code"]
    assert answer.stderr == ""
    assert listing(tmp_path) == {}


def test_events_of_a_registration(files: Path, tmp_path: Path) -> None:
    answer = process("register", "--json", *pair(files), "--output", tmp_path / "result")
    events = [Message.decode(line, EVENTS) for line in answer.stdout.splitlines()]
    assert answer.returncode == 0
    assert [event.kind for event in events].count("result") == 1
    assert events[-1].kind == "result"
    assert events[-1].data["metrics"]["similarity"]
    assert (Path(events[-1].data["folder"]) / "displacement.nrrd").is_file()


# ---------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/deep"])
def test_register_refuses_an_unwritable_output(place: str, files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    code, text = run("register", *pair(files), "--output", tmp_path / place)
    assert code == 2, text
    assert is_one_sentence(text), text
    assert listing(tmp_path) == {"file": b"precious"}


@pytest.mark.parametrize("content", ["notes.txt", "job.json", "job.json and volumes", "result and notes"])
def test_register_refuses_a_folder_that_holds_other_things(
    content: str, files: Path, result: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if content == "result and notes":
        for path in result.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "notes.txt").write_text("precious")
    for name in content.split(" and ") if content != "result and notes" else []:
        (folder / name).write_text("{}")
    before = listing(tmp_path)
    code, text = run("register", *pair(files), "--output", folder)
    assert code == 2, text
    assert is_one_sentence(text), text
    assert "other than an earlier result" in text
    assert listing(tmp_path) == before


def test_an_empty_folder_and_an_earlier_result_are_taken(files: Path, result: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("register", *pair(files), "--output", tmp_path / "empty")[0] == 0
    assert set(listing(tmp_path / "empty")) == set(listing(result))
    assert run("register", *pair(files), "--output", tmp_path / "empty", "--seed", 1)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


# -------------------------------------------------------------------------------------- other commands

OTHER: dict[str, tuple[Callable[[Path, Path, Path], list[Any]], str]] = {
    "points: missing transform": (
        lambda f, r, o: ["points", "--transform", f / "none", "--input", f / "two.csv", "--output", o / "p.csv"],
        "does not exist",
    ),
    "points: missing input": (
        lambda f, r, o: ["points", "--transform", r, "--input", f / "none.csv", "--output", o / "p.csv"],
        "does not exist",
    ),
    "points: DIR-Lab text without image": (
        lambda f, r, o: ["points", "--transform", r, "--input", f / "points.txt", "--output", o / "p.csv"],
        "counts voxels",
    ),
    "points: to a format of its own": (
        lambda f, r, o: ["points", "--transform", r, "--input", f / "two.csv", "--output", o / "p.xyz"],
        "known format",
    ),
    "points: output below a file": (
        lambda f, r, o: ["points", "--transform", r, "--input", f / "two.csv", "--output", f / "file" / "p.csv"],
        "cannot be written",
    ),
    "warp: missing moving": (
        lambda f, r, o: warp_call(f, r, o / "w.nrrd", moving="none.nrrd"),
        "does not exist",
    ),
    "warp: missing reference": (lambda f, r, o: warp_call(f, r, o / "w.nrrd", reference="no.nrrd"), "does not exist"),
    "warp: 2D reference": (lambda f, r, o: warp_call(f, r, o / "w.nrrd", reference="slice.nrrd"), "2-dimensional"),
    "warp: vector": (lambda f, r, o: warp_call(f, r, o / "w.nrrd", moving="vector.nrrd"), "3 values a voxel"),
    "warp: an image as transform": (lambda f, r, o: warp_call(f, f / "fixed.nrrd", o / "w.nrrd"), "displacements"),
    "warp: a folder as transform": (lambda f, r, o: warp_call(f, f, o / "w.nrrd"), "holds no result"),
    "warp: output of no format": (lambda f, r, o: warp_call(f, r, o / "w.unknown"), "cannot be written"),
    "warp: output below a file": (lambda f, r, o: warp_call(f, r, f / "file" / "w.nrrd"), "cannot be written"),
    "evaluate: labels without partner": (
        lambda f, r, o: ["evaluate", "--transform", r, "--fixed-labels", f / "labels_1.nrrd"],
        "needed together",
    ),
    "evaluate: a report of another kind": (
        lambda f, r, o: ["evaluate", "--transform", r, "--report", o / "report.pdf"],
        "end in .html",
    ),
    "export: a transform file": (
        lambda f, r, o: ["export", "--transform", r / "displacement.nrrd", "--output", o / "t.h5"],
        "Name the folder",
    ),
    "evaluate: nothing": (lambda f, r, o: ["evaluate", "--transform", f / "none"], "does not exist"),
    "evaluate: missing mask": (
        lambda f, r, o: ["evaluate", "--transform", r, "--fixed-mask", f / "none.nrrd"],
        "does not exist",
    ),
    "evaluate: landmarks that do not correspond": (
        lambda f, r, o: (
            [
                "evaluate",
                "--transform",
                r,
                "--fixed-landmarks",
                f / "two.csv",
                "--moving-landmarks",
                f / "three.csv",
            ]
        ),
        "do not correspond",
    ),
    "demo: output below a file": (lambda f, r, o: ["demo", "--quick", "--output", f / "file"], "cannot be written"),
}


def warp_call(
    files: Path, transform: Path, output: Path, moving: str = "moving.nrrd", reference: str = "fixed.nrrd"
) -> list[Any]:
    call = ["warp", "--transform", transform, "--moving", files / moving]
    return [*call, "--reference", files / reference, "--output", output]


@pytest.mark.parametrize("name", OTHER)
def test_other_commands_refuse(name: str, files: Path, result: Path, tmp_path: Path) -> None:
    arguments, words = OTHER[name]
    before = listing(files), listing(result)
    code, text = run(*arguments(files, result, tmp_path))
    assert code == 2, text
    assert is_one_sentence(text), text
    assert words in text
    assert listing(tmp_path) == {}
    assert (listing(files), listing(result)) == before


def test_a_failing_output_keeps_the_earlier_file(files: Path, result: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").mkdir()
    code, text = run("points", "--transform", result, "--input", files / "two.csv", "--output", tmp_path / "p.csv")
    assert code == 2
    assert is_one_sentence(text), text
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--fixed", "a"], ["--fixed", "a", "--moving", "b", "--output", "o", "--threads", "two"], ["--bogus"]],
)
def test_usage_errors_are_short(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run("register", *arguments)
    assert code == 2
    assert "Traceback" not in text
    assert len(text.splitlines()) < 12
    assert listing(tmp_path) == {}


def test_an_unknown_command_is_a_usage_error() -> None:
    code, text = run("regsiter")
    assert code == 2
    assert "regsiter" in text
    assert "Traceback" not in text


def test_paths_with_markup_are_printed_as_they_are(files: Path, tmp_path: Path) -> None:
    code, text = run("register", *pair(files, "[bold] :smile: [/x].nrrd"), "--output", tmp_path / "r")
    assert code == 2
    assert "[bold] :smile: [/x].nrrd does not exist." in text


# ------------------------------------------------------------------------------------- damaged results


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    model = json.loads((folder / "model.json").read_text())
    change(model)
    (folder / "model.json").write_text(json.dumps(model))


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": lambda m: m.update(version=99),
    "no version": lambda m: m.pop("version"),
    "no field": lambda m: m.pop("field"),
    "a field of another kind": lambda m: m["field"].update(kind="magic"),
    "a field with an unknown entry": lambda m: m["field"].update(colour=1),
    "a field as text": lambda m: m.update(field="siren"),
    "a huge network": lambda m: m["field"]["networks"][0].update(width=1 << 20),
    "an endless network": lambda m: m["field"]["networks"][0].update(hidden=1 << 40),
    "many networks": lambda m: m["field"].update(networks=m["field"]["networks"] * 100_000),
    "a width of text": lambda m: m["field"]["networks"][0].update(width="8"),
    "a huge lattice": lambda m: m["field"]["geometry"].update(size=[100_000] * 3),
    "a lattice of two axes": lambda m: m["field"]["geometry"].update(size=[5, 5]),
    "a huge grid": lambda m: m["grid"].update(size=[1 << 40] * 3),
    "a grid of fractions": lambda m: m["grid"].update(size=[4.5, 5, 6]),
    "a grid of one point": lambda m: m["grid"].update(size=[1, 1, 1]),
    "a grid without axes": lambda m: m["grid"].update(matrix=[[0, 0, 0]] * 3),
    "an origin of NaN": lambda m: m["grid"].update(origin=[float("nan"), 0, 0]),
    "an origin of two": lambda m: m["grid"].update(origin=[0, 0]),
    "a scale of zero": lambda m: m["frame"].update(scale=0),
    "no margins": lambda m: m.update(margins=None),
    "negative margins": lambda m: m.update(margins=[[-1, 1, 1], [1, 1, 1]]),
    "margins of another shape": lambda m: m.update(margins=[1, 2, 3]),
    "a spacing of zero": lambda m: m.update(spacing=[0, 1, 1]),
    "a part that is absent": lambda m: m.update(before=["before_1.tfm"]),
    "a part outside": lambda m: m.update(before=["../../secret.tfm"]),
    "parts of another type": lambda m: m.update(before=[3]),
}


def points_through(folder: Path, files: Path, output: Path) -> tuple[int, str]:
    return run("points", "--transform", folder, "--input", files / "two.csv", "--output", output)


@pytest.fixture
def copy(result: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in result.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_refused_before_it_costs_anything(
    name: str, files: Path, copy: Path, tmp_path: Path
) -> None:
    edited(copy, DAMAGE[name])
    begin = time.perf_counter()
    code, text = points_through(copy, files, tmp_path / "p.csv")
    assert code == 2, text
    assert is_one_sentence(text), text
    assert time.perf_counter() - begin < 5
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name", ["cut", "absent", "other shapes", "NaN"])
def test_damaged_weights_are_refused(name: str, files: Path, copy: Path, tmp_path: Path) -> None:
    path = copy / "model.safetensors"
    if name == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif name == "absent":
        path.unlink()
    else:
        tensors = load_file(path)
        key = next(iter(tensors))
        tensors[key] = tensors[key].flatten()[:3] if name == "other shapes" else tensors[key] * float("nan")
        save_file(tensors, path)
    code, text = points_through(copy, files, tmp_path / "p.csv")
    assert code == 2, text
    assert is_one_sentence(text), text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"model"', "[" * 5000, "\udcff"])
@pytest.mark.parametrize("file", ["model.json", "job.json"])
def test_damaged_json_is_refused(file: str, text: str, files: Path, copy: Path) -> None:
    (copy / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    code, answer = run("evaluate", "--transform", copy, "--fixed-mask", files / "mask.nrrd")
    assert code == 2, answer
    assert is_one_sentence(answer), answer


# ------------------------------------------------------------------------------------------- cancelled


@pytest.mark.parametrize("events", [False, True], ids=["plain", "json"])
def test_interrupt_ends_with_130_and_leaves_nothing(events: bool, files: Path, tmp_path: Path) -> None:
    long = [*pair(files), "--set", "steps=10000", "--output", tmp_path / "new" / "result", *(["--json"] * events)]
    command = [sys.executable, "-c", "from inrreg.cli import main; main()", "register", *map(str, long)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("new/.result*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert listing(tmp_path) == {}
    if events:
        assert [Message.decode(line, EVENTS).kind for line in output.splitlines()][-1] == "cancelled"
    else:
        assert "Cancelled" in error
