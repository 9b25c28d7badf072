"""Memory that runs out: for real in the worker, by a limit on its process; of a GPU by simulation."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from inrreg import registration
from inrreg.fields import Siren
from inrreg.geometry import Grid
from inrreg.memory import in_chunks, is_exhausted
from inrreg.optimization import Run
from inrreg.prealignment import prealign
from inrreg.protocol import EVENTS, Job, Message
from inrreg.transforms import Affine
from inrreg.warping import resample
from inrreg.worker import Worker
from Testing.faults import endurance
from Testing.faults.endurance import make_job

QUICK = endurance.QUICK["fast"]

LIMITED = """
import resource, sys
import torch, SimpleITK
import inrreg.registration, inrreg.methods.fast
from inrreg import worker
weight = torch.zeros(1, requires_grad=True)  # what torch imports at the first step
optimizer = torch.optim.Adam([weight])
weight.sum().backward()
optimizer.step()
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + int(sys.argv[1]) * 2**20,) * 2)
worker.main()
"""


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("jobs") / "job", 10)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
def test_the_worker_outlives_host_memory_that_is_exhausted(tmp_path: Path) -> None:
    """Real: its address space may grow by 600 MiB once torch is there; then comes a job that needs more."""
    big, small = tmp_path / "big", make_job(tmp_path / "small", 10)
    big.mkdir()
    for name in ("fixed", "moving"):
        image = sitk.GaussianSource(sitk.sitkFloat32, [360, 360, 360], [60] * 3, [180] * 3)
        sitk.WriteImage(image, str(big / f"{name}.nrrd"))
    Job("fixed.nrrd", "moving.nrrd", overrides=QUICK, threads=1).save(big)
    orders = [
        Message("register", {"folder": str(place)}, place.name).encode().encode() + b"\n" for place in (big, small)
    ]
    worker = subprocess.Popen(
        [sys.executable, "-c", LIMITED, "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    answers = {}
    for order in orders:
        worker.stdin.write(order)
        worker.stdin.flush()
        for line in worker.stdout:
            event = Message.decode(line.decode(), EVENTS)
            if event.kind in ("result", "error"):
                answers[event.request] = event
                break
    worker.stdin.close()
    assert worker.wait(timeout=10) == 0
    assert answers["big"].kind == "error", answers
    assert answers["big"].data["code"] == "memory"
    assert "too little free memory" in answers["big"].data["message"]
    assert not (big / "result").exists()
    assert not [path.name for path in big.iterdir() if path.name.startswith(".")]
    assert answers["small"].kind == "result", answers["small"].data


def test_an_evaluation_goes_on_in_smaller_chunks() -> None:
    """Simulated: a device that holds 3000 points."""
    field, sizes = Siren(8, 1, 10.0, generator=torch.Generator().manual_seed(0)), []

    def value(points: torch.Tensor) -> torch.Tensor:
        sizes.append(len(points))
        if len(points) > 3000:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return field.value(points)

    points = torch.rand(20_000, 3)
    with torch.no_grad():
        found = in_chunks(value, points, 1 << 16)
        assert torch.equal(found, torch.cat([field.value(part) for part in points.split(2048)]))
    assert max(size for size in sizes if size <= 3000) == 2048
    assert is_exhausted(OutOfMemoryError())


def test_where_no_chunk_is_small_enough_the_error_comes_out() -> None:
    def value(points: torch.Tensor) -> torch.Tensor:
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError):
        in_chunks(value, torch.rand(10, 3), 1 << 16)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "gpu-memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError("Unable to allocate 8 GiB for an array"), "memory"),
    ],
)
def test_a_step_that_does_not_fit_ends_in_a_sentence(error: Exception, code: str, folder: Path, monkeypatch) -> None:
    """Simulated at the optimizer's step, in the worker itself."""

    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr("inrreg.dense.descend", step)
    out = io.BytesIO()
    Worker(io.BytesIO(), out)._work(Message("register", {"folder": str(folder)}, "r", "job"))
    last = Message.decode(out.getvalue().splitlines()[-1].decode(), EVENTS)
    assert (last.kind, last.data["code"]) == ("error", code)
    assert "too little free memory" in last.data["message"]
    assert last.data["hint"]
    assert sorted(path.name for path in folder.iterdir()) == ["fixed.nrrd", "job.json", "moving.nrrd"]


def test_a_result_whose_evaluation_does_not_fit_at_once_is_the_same(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Simulated: dense evaluations of more than 5000 points do not fit."""
    job = Job(str(folder / "fixed.nrrd"), str(folder / "moving.nrrd"), overrides=QUICK, threads=1)
    expected = registration.register(job, tmp_path / "one")
    from inrreg.fields import Lattice

    spline, refused = Lattice.spline, []

    def small(self: Lattice, points: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        if len(points) > 5000:
            refused.append(len(points))
            raise OutOfMemoryError("CUDA out of memory")
        return spline(self, points, coefficients)

    monkeypatch.setattr(Lattice, "spline", small)
    found = registration.register(job, tmp_path / "two")
    assert refused
    assert found["similarity"] == pytest.approx(expected["similarity"])
    fields = [(tmp_path / name / "displacement.nrrd").read_bytes() for name in ("one", "two")]
    assert fields[0] == fields[1]


@pytest.mark.parametrize("kind", ["resample", "prealign"])
def test_a_filter_that_asks_whether_to_stop_is_let_go(kind: str) -> None:
    """Else each resampling would keep its field for as long as the worker lives."""

    class Asked:
        def __call__(self) -> bool:
            return False

    asked = Asked()
    image = sitk.GaussianSource(sitk.sitkFloat32, [24, 24, 24], [5] * 3, [12] * 3)
    if kind == "resample":
        resample(image, Grid.of(image), sitk.Transform(), cancelled=asked)
    else:
        prealign("rigid", image, image, None, None, Affine(), Run(cancelled=asked))
    known = weakref.ref(asked)
    del asked
    gc.collect()
    assert known() is None
