"""Files from elsewhere run no code and lead nowhere; the worker opens no port; what is written names no patient."""

from __future__ import annotations

import ast
import gzip
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from inrreg.deformation import Deformation
from inrreg.protocol import EVENTS, Job, Message, UserError
from inrreg.registration import register
from inrreg.tasks import refuse_detached, resample
from inrreg.warping import warp
from inrreg.worker import Worker
from Testing.faults.endurance import QUICK, make_job

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "INRRegistration").rglob("*.py"))
NAME = "DOE^JANE"


# ---------------------------------------------------------------------------------------------- code


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path: Path) -> None:
    """No pickle, no eval, no exec, no torch.load, no np.load with pickles, no shell, anywhere in the program."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
            assert not {name.partition(".")[0] for name in modules} & {"pickle", "marshal", "shelve", "dill", "joblib"}
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in ("eval", "exec", "compile", "__import__", "torch.load", "os.system"), call
            assert not call.endswith(("yaml.load", "read_pickle", "from_pickle")), call
            named = {keyword.arg for keyword in node.keywords}
            assert not named & {"allow_pickle", "shell"}, call


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_job(tmp_path_factory.mktemp("jobs") / "job", 1)
    job = Job.load(folder)
    register(job, folder / "result")
    return folder / "result"


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_pickle_in_place_of_a_model_is_refused_and_does_not_run(name: str, result: Path, tmp_path: Path) -> None:
    for path in result.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UserError):
        Deformation.load(tmp_path)
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (
            "fixed.nrrd",
            "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 8 8 8\nencoding: raw\ndata file: ../secret.raw\n\n",
        ),
        (
            "fixed.nhdr",
            "NRRD0004\r\ntype: uint8\r\ndimension: 3\r\nsizes: 8 8 8\r\nencoding: raw\r\ndatafile: s.raw\r\n",
        ),
        (
            "fixed.mha",
            "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_UCHAR\nElementDataFile = ../s.raw\n",
        ),
    ],
)
def test_a_header_in_a_job_leads_out_of_its_folder_nowhere(name: str, header: str, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", 1)
    (tmp_path / "secret.raw").write_bytes(bytes(512))
    (folder / name).write_bytes(header.encode())
    Job(name, "moving.nrrd", preset="idir-light", overrides=QUICK["idir-light"], id="job").save(folder)
    out = io.BytesIO()
    Worker(io.BytesIO(), out)._work(Message("register", {"folder": str(folder)}, "r", "job"))
    last = Message.decode(out.getvalue().splitlines()[-1].decode(), EVENTS)
    assert (last.kind, last.data["code"]) == ("error", "job")
    assert "lie in another file" in last.data["message"]


def test_what_holds_its_voxels_is_no_detached_header(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8))
    for ending in ("nrrd", "mha", "nii.gz"):
        sitk.WriteImage(image, str(tmp_path / f"a.{ending}"))
        refuse_detached(Job(str(tmp_path / f"a.{ending}"), str(tmp_path / f"a.{ending}")))


# --------------------------------------------------------------------------------------------- ports


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux")
def test_the_worker_opens_no_port(tmp_path: Path) -> None:
    """No open file of the real worker is a socket: after its hello, at work, and after a job."""
    folder = make_job(tmp_path / "job", 1)
    command, seen = [sys.executable, "-m", "inrreg.worker"], []
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    order = Message("register", {"folder": str(folder)}, "r", "job").encode().encode() + b"\n"
    for line in worker.stdout:
        event = Message.decode(line.decode(), EVENTS)
        files = Path(f"/proc/{worker.pid}/fd").iterdir()
        seen.append((event.kind, [target for file in files if (target := os.readlink(file)).startswith("socket")]))
        if event.kind == "hello":
            worker.stdin.write(order)
            worker.stdin.flush()
        if event.kind in ("result", "error"):
            break
    worker.stdin.close()
    worker.wait(timeout=10)
    assert {"hello", "progress", "result"} <= {kind for kind, _ in seen}
    assert all(sockets == [] for _, sockets in seen)


# --------------------------------------------------------------------------------------------- names


def content(path: Path) -> bytes:
    """A file's bytes, unpacked where a part of them is compressed."""
    data = path.read_bytes()
    _, _, body = data.partition(b"\n\n")
    return data + gzip.decompress(body) if data.startswith(b"NRRD") and body[:2] == b"\x1f\x8b" else data


def test_what_is_written_names_no_patient(tmp_path: Path) -> None:
    """Tags of the images reach no result, log or report, and a worker's job names no file but its own folder's."""
    pytest.importorskip("matplotlib")
    from inrreg.report import write_report

    folder = make_job(tmp_path / "job", 1)
    for name in ("fixed", "moving"):
        image = sitk.ReadImage(str(folder / f"{name}.nrrd"))
        image.SetMetaData("0010|0010", NAME)
        image.SetMetaData("PatientName", NAME)
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    assert NAME.encode() in content(folder / "fixed.nrrd")
    job, said = Job.load(folder), []
    metrics = register(job, folder / "result", emit=lambda kind, data: said.append(repr(data)))
    made = Deformation.load(folder / "result")
    resample(job, folder / "result", folder / "resampled.nrrd")
    warped = warp(sitk.ReadImage(job.moving), made, made.grid)
    sitk.WriteImage(warped, str(folder / "warped.nrrd"))
    files = {"fixed": job.fixed, "moving": job.moving}
    write_report(folder / "report.html", metrics, made, job, files)
    written = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("fixed.nrrd", "moving.nrrd")]
    assert {"log.txt", "metrics.json", "job.json", "report.html", "resampled.nrrd", "warped.nrrd"} <= {
        path.name for path in written
    }
    assert [path.name for path in written if NAME.encode() in content(path)] == []
    assert not any(NAME in text for text in said)


def test_log_metrics_and_report_name_no_file(tmp_path: Path) -> None:
    """Files may be named after patients: only `job.json`, which has to find them again, says where they lie."""
    pytest.importorskip("matplotlib")
    from inrreg.report import write_report

    folder = make_job(tmp_path / "DOE_JANE", 1)
    job = Job.load(folder)
    metrics = register(job, folder / "result")
    made = Deformation.load(folder / "result")
    write_report(tmp_path / "report.html", metrics, made, job, {"fixed": job.fixed, "moving": job.moving})
    for path in (*(folder / "result").iterdir(), tmp_path / "report.html"):
        assert (b"DOE_JANE" in content(path)) == (path.name == "job.json"), path.name
