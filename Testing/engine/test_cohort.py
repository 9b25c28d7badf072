"""Many pairs on a cluster of this computer: kept, resumed, retried, published once, and no failure stops the rest."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

pytest.importorskip("distributed", reason="a cohort needs dask.distributed")

from inrreg.cli import app
from inrreg.cohort.cluster import Place, client
from inrreg.cohort.command import place_of
from inrreg.cohort.manifest import read_manifest
from inrreg.cohort.run import _outcome, run
from inrreg.cohort.summary import worst_first
from inrreg.cohort.work import publish, register_pair, settings_key
from inrreg.landmarks import Points, write_points
from inrreg.phantom import thorax
from inrreg.protocol import UserError, read_json
from inrreg.registration import register

SETTINGS = {
    "steps": "2,2",
    "image_spacing": "20,20",
    "node_spacing": "40,40",
    "width": "8",
    "rank": "8",
}
NAMES = ["a", "b", "c"]
POISON = """
import os, signal
from pathlib import Path
import inrreg.registration as engine
known = engine.register
def register(job, output, known=known, **options):
    if "poison" in job.fixed:
        os.kill(os.getpid(), signal.SIGKILL)
    once = Path(job.fixed).parent / "kill"
    if once.exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return known(job, output, **options)
if known.__module__ == engine.__name__:  # loaded in each process more than once
    engine.register = register
"""
"""What makes workers die in the tests: always on one pair, once on another."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, one of which is poison, and their manifest."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for seed, name in enumerate([*NAMES, "poison"]):
        phantom = thorax((24, 20, 24), (12.0, 12.0, 12.0), seed=seed, amplitude=15.0, landmarks=20)
        (folder / name).mkdir()
        for side in ("fixed", "moving"):
            sitk.WriteImage(getattr(phantom, side), str(folder / name / f"{side}.nrrd"))
            write_points(folder / name / f"{side}.csv", Points(getattr(phantom, f"{side}_landmarks")))
        files = {side: f"{name}/{side}.nrrd" for side in ("fixed", "moving")}
        rows.append({"name": name, **files, **{f"{side}_landmarks": f"{name}/{side}.csv" for side in files}})
    rows.append({"name": "missing", "fixed": "a/fixed.nrrd", "moving": "nowhere.nrrd"})
    write_table(folder / "manifest.csv", rows)
    return folder


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    script = tmp_path / "poison.py"
    script.write_text(POISON)
    with dask.config.set({"distributed.worker.preload": [str(script)]}):
        yield


def pairs_of(images: Path, *names: str):
    defaults = {"threads": 1, "overrides": SETTINGS}
    return [pair for pair in read_manifest(images / "manifest.csv", defaults) if not names or pair.name in names]


@pytest.mark.usefixtures("deadly")
def test_all_pairs_but_the_poisoned_are_published_once_and_kept(images: Path, tmp_path: Path):
    (images / "a" / "kill").touch()
    pairs, folder, told = pairs_of(images), tmp_path / "out", []
    rows = run(pairs, folder, Place(2), reports=False, told=lambda row: told.append(row["name"]))
    assert [row["name"] for row in rows] == [*NAMES, "poison", "missing"]
    assert sorted(told) == sorted(row["name"] for row in rows)
    assert [row["state"] for row in rows] == ["done"] * 3 + ["failed"] * 2
    assert not (images / "a" / "kill").exists()
    assert "died" in rows[3]["error"]
    assert "nowhere.nrrd" in rows[4]["error"]
    assert sorted(path.name for path in (folder / "pairs").iterdir()) == NAMES
    assert not (folder / ".unfinished").exists()
    # The same as one after another in this process.
    register(pairs[1].job, tmp_path / "alone")
    same = [path / "model.safetensors" for path in (tmp_path / "alone", folder / "pairs" / "b" / "result")]
    assert same[0].read_bytes() == same[1].read_bytes()
    # Again: what is done is kept, even where its files were only touched; what changed is computed anew.
    made = {name: (folder / "pairs" / name / "pair.json").stat().st_mtime_ns for name in NAMES}
    (images / "a" / "fixed.nrrd").touch()
    image = sitk.ReadImage(str(images / "c" / "moving.nrrd"))
    sitk.WriteImage(image + 1, str(images / "c" / "moving.nrrd"))
    rows = run(pairs[:3], folder, Place(1), reports=False)
    assert [row["state"] for row in rows] == ["kept", "kept", "done"]
    assert [(folder / "pairs" / name / "pair.json").stat().st_mtime_ns == made[name] for name in NAMES] == [1, 1, 0]


def test_a_connection_that_breaks_while_a_row_is_fetched_is_told_as_the_schedulers_end():
    def result():
        raise OSError("Connection reset by peer")

    with pytest.raises(UserError, match="scheduler was lost"):
        _outcome(SimpleNamespace(status="finished", result=result))


def test_the_command_writes_a_summary_with_links(images: Path, tmp_path: Path):
    write_table(
        images / "two.csv",
        [
            {"name": "<b>", "fixed": "a/fixed.nrrd", "moving": "a/moving.nrrd", "seed": ""},
        ],
    )
    out = ["--output", str(tmp_path / "out"), "--workers", "1"]
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    refused = CliRunner().invoke(app, ["cohort", str(images / "two.csv"), *out, *sets])
    assert isinstance(refused.exception, UserError)
    assert "<b>" in refused.exception.message
    write_table(
        images / "two.csv",
        [
            {"name": "one", "fixed": "a/fixed.nrrd", "moving": "a/moving.nrrd", "seed": "1"},
            {"name": "bad", "fixed": "a/fixed.nrrd", "moving": "a/moving.nrrd", "seed": "<i>"},
        ],
    )
    done = CliRunner().invoke(app, ["cohort", str(images / "two.csv"), *out, *sets])
    assert done.exit_code == 1
    assert "1 pairs done" in done.stderr
    assert "bad:" in done.stderr
    with open(tmp_path / "out" / "cohort.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["state"]) for row in rows] == [("one", "done"), ("bad", "failed")]
    assert read_json(tmp_path / "out" / "pairs" / "one" / "result" / "job.json")["seed"] == 1
    page = (tmp_path / "out" / "cohort.html").read_text()
    assert re.findall('href="(.*?)"', page) == ["pairs/one/report.html"]
    assert (tmp_path / "out" / "pairs" / "one" / "report.html").is_file()
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert page.index("<td>bad") < page.index(">one<")


def test_what_another_worker_published_meanwhile_stays(images: Path, tmp_path: Path):
    (pair,) = pairs_of(images, "b")
    first = register_pair(pair.name, pair.job.to_dict(), str(tmp_path), report=False)
    target = tmp_path / "pairs" / pair.name
    record = read_json(target / "pair.json")
    own = tmp_path / ".unfinished" / "late"
    own.mkdir(parents=True)
    (own / "late").touch()
    assert publish(own, target, pair.job) == first == record["row"]
    assert not (target / "late").exists()
    # Of other settings it is replaced.
    other = dataclasses.replace(pair.job, seed=5)
    row = register_pair(pair.name, other.to_dict(), str(tmp_path), report=False)
    assert row["state"] == "done"
    assert read_json(target / "pair.json")["settings"] == settings_key(other)
    assert read_json(target / "result" / "job.json")["seed"] == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed,moving\n", "rows below"),
        ("fixed,other\na,b\n", "other"),
        ("fixed\na\n", "needs the columns"),
        ("name,fixed,moving\nx,a,b\nX,a,b\n", "two pairs"),
        ("name,fixed,moving\n../x,a,b\n", "name of a folder"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "manifest.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_manifest(path, {})


def test_rows_that_make_no_job_are_failed_pairs(images: Path, tmp_path: Path):
    path = images / "rows.csv"
    path.write_text(
        "name,fixed,moving,preset,set:steps,threads\n"
        'good,a/fixed.nrrd,a/moving.nrrd,fast,"1,1",\n'
        "preset,a/fixed.nrrd,a/moving.nrrd,nonsense,,\n"
        "setting,a/fixed.nrrd,a/moving.nrrd,,many,\n"
        "number,a/fixed.nrrd,a/moving.nrrd,,,two\n"
        "cells,a/fixed.nrrd,a/moving.nrrd,,,,,\n"
        "empty,a/fixed.nrrd,,,,\n"
    )
    lengths = {"image_spacing": "9,9", "node_spacing": "9,9"}
    pairs = {pair.name: pair for pair in read_manifest(path, {"overrides": lengths, "threads": 3})}
    assert pairs["good"].job.overrides == {**lengths, "steps": "1,1"}
    assert pairs["good"].job.threads == 3
    said = {"preset": "nonsense", "setting": "steps", "number": "two", "cells": "more cells", "empty": "needs a fixed"}
    for name, words in said.items():
        assert pairs[name].job is None
        assert words in pairs[name].error


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:8786", "host.example:8786"])
def test_a_scheduler_open_to_anybody_is_refused(address: str):
    with pytest.raises(UserError, match="TLS"), client(Place(address=address)):
        pass


@pytest.mark.skipif(os.name == "nt", reason="SLURM is not for Windows")
def test_slurm_jobs_have_one_pair_at_a_time_and_what_it_asks_for(images: Path, tmp_path: Path, monkeypatch):
    """A stand-in for SLURM keeps the job's script, and runs it here."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("sbatch", 'cp "$1" job.sh; setsid sh job.sh > job.txt 2>&1 & echo $! > pid; echo Submitted batch job 7'),
        ("scancel", "kill -- -$(cat pid)"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = place_of(1, "", False, True, ["queue=short", "cores=2", "walltime=00:10:00"], True, 1)
    rows = run(pairs_of(images, "a"), tmp_path / "out", place, reports=False)
    assert [row["state"] for row in rows] == ["done"]
    directives = {
        line.removeprefix("#SBATCH ") for line in Path("job.sh").read_text().splitlines() if line.startswith("#SBATCH")
    }
    assert {"-p short", "--cpus-per-task=2", "--mem=8G", "-t 00:10:00", "--gres=gpu:1"} <= directives


def test_the_worst_come_first():
    rows = [
        {"name": "good", "state": "done", "tre": 1.0, "dice": None, "folding": 0.0, "similarity": 0.9},
        {"name": "bad", "state": "kept", "tre": 3.0, "dice": None, "folding": 0.0, "similarity": 0.9},
        {"name": "failed", "state": "failed"},
    ]
    assert [row["name"] for row in worst_first(rows)] == ["failed", "bad", "good"]
