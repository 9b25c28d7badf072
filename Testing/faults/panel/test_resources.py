"""No room, no memory, no right to write, no torch that works; and a Slicer that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from Testing.faults.panel.conftest import Left
from Testing.faults.test_memory import LIMITED
from Testing.module.conftest import FAKES, MODULE, ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")

FILE_LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from inrreg import worker
worker.main()
"""
QUICK = {"steps": "3", "width": 16, "rank": 8, "image_spacing": "8", "node_spacing": "12"}


@pytest.fixture
def worker_command(slicer, monkeypatch):
    """The real engine's worker, started in another way."""
    from INRRegistrationLib import places

    def put(*command):
        monkeypatch.setattr(places.Here, "command", lambda self: [sys.executable, *command])

    return put


@pytest.fixture
def small_disk(slicer, tmp_path):
    """A temporary folder on a disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    known, slicer.app.temporaryPath = slicer.app.temporaryPath, str(place)
    yield place
    slicer.app.temporaryPath = known
    subprocess.run(["umount", "--lazy", place], check=True)


def test_the_disk_is_full_before_the_worker_begins(small_disk, user, slicer, pair):
    """Real: nothing more fits. With room again, the same panel registers."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(240 << 10))
    user.choose(*pair)
    left = Left(slicer)
    user.click()
    user.wait_for_end()
    assert "could not be written" in user.error
    assert "temporary folder full" in user.error
    left.check_nothing_happened()
    filler.unlink()
    user.ui.resampleCheckBox.setChecked(False)
    user.register()


@pytest.mark.parametrize("where", ["/proc", "gone"])
def test_a_temporary_folder_that_takes_nothing(user, slicer, pair, left, tmp_path, where, monkeypatch):
    """Real: neither root nor anyone else can write into the one, and the other is not there."""
    monkeypatch.setattr(slicer.app, "temporaryPath", where if where == "/proc" else str(tmp_path / "gone"))
    user.choose(*pair)
    left.remember()
    user.click()
    assert user.panel.run is None
    assert "Nothing can be written in" in user.error
    assert "choose another temporary folder" in user.error
    monkeypatch.undo()


def test_no_room_for_the_result_and_no_memory(real_user, slicer, pair, worker_command):
    """Simulated by a limit on the size of files; then, real, by one on the address space of the worker."""
    user = real_user
    user.choose(*pair, "fast", **QUICK)
    left = Left(slicer)
    worker_command("-c", FILE_LIMIT, "20000")
    user.click()
    user.wait_for_end(120)
    assert "written" in user.error or "disk" in user.error, user.error
    left.check_nothing_happened()
    user.process.stop()
    voxels = np.zeros((300, 400, 400), np.uint8)
    voxels[100:200] = 1
    big = [slicer.util.addVolumeFromArray(voxels) for _ in range(2)]
    worker_command("-c", LIMITED, "200")
    user.choose(*big, "fast", **QUICK)
    left.remember()
    user.click()
    user.wait_for_end(120)
    assert "too little free memory" in user.error
    left.check_nothing_happened()
    worker = user.process.process_id
    user.choose(*pair, "fast", **QUICK)
    user.register(120)
    assert user.process.process_id == worker


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        (
            "raise OSError('libtorch_cpu.so: cannot open shared object file')",
            "PyTorch is installed but cannot be loaded",
        ),
        ("raise ImportError('DLL load failed', name='torch')", "PyTorch is not installed, or cannot be loaded"),
        ("", "installed but cannot be loaded"),
        ("import os; os.abort()", "ended unexpectedly"),
    ],
    ids=["a library lacks", "it cannot be imported", "it is empty", "it crashes"],
)
def test_a_broken_torch(real_user, slicer, pair, tmp_path, monkeypatch, torch, said):
    """Real: a package of that name before the one that works."""
    user = real_user
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(torch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"), prepend=os.pathsep)
    user.choose(*pair, "fast", **QUICK)
    left = Left(slicer)
    user.click()
    user.wait_for_end(60)
    assert said in user.error
    left.check_nothing_happened()


def test_an_old_torch(user, slicer, pair, left, tmp_path, monkeypatch):
    """Real: what Python knows to be installed is too old; nothing is started."""
    place = tmp_path / "old" / "torch-1.13.1.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.1\n")
    monkeypatch.syspath_prepend(str(place.parent))
    utils = tmp_path / "old" / "PyTorchUtils.py"
    utils.write_text("")
    user.choose(*pair)
    left.remember()
    user.click()
    assert "PyTorch is older than version 2.1" in user.error
    assert not user.process.running
    left.check_nothing_happened()


HOST = f"""
import sys, time
sys.path[:0] = [{str(ROOT / "Testing" / "host")!r}, {str(MODULE.parent)!r}]
from standin import application
slicer = application.start(sys.argv[1])
from inrreg import methods
methods.__path__.append({str(FAKES / "methods")!r})
from INRRegistrationLib import logic, places, request, selftest
places.Here.command = lambda self: [sys.executable, {str(FAKES / "fake_worker.py")!r}]
fixed, moving = selftest.make_pair()
run = logic.shared().start(lambda: request.Request(fixed, moving, preset="fake", overrides={{"steps": 100000}}))
steps = []
run.progress.connect(steps.append)
while not steps:
    slicer.app.processEvents()
print(logic.shared().process.process_id, flush=True)
time.sleep(100)
"""


def test_slicer_is_killed_with_a_job_running(user, slicer, pair):
    """The job's folder is left, its worker not; the next Slicer that registers removes what is left."""
    command = [sys.executable, "-c", HOST, slicer.app.temporaryPath]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = Path(f"/proc/{int(host.stdout.readline())}/cmdline")
    host.send_signal(signal.SIGKILL)
    host.wait()
    temporary = Path(slicer.app.temporaryPath)
    (theirs,) = [path for path in temporary.glob("INRRegistration-*") if path.is_dir()]
    assert (theirs / "job-1" / "fixed.nrrd").is_file()
    end = time.monotonic() + 5
    while worker.exists() and worker.read_bytes():  # a zombie has no command line
        assert time.monotonic() < end
        time.sleep(0.05)
    user.choose(*pair, steps=3)
    user.register()
    user.wait(lambda: not theirs.exists())


def test_results_are_kept_as_long_as_the_scene_needs_them_and_within_a_limit(user, slicer, pair, left, monkeypatch):
    """What the limit takes is restored from the scene; a scene that is closed leaves no images on the disk."""
    from INRRegistrationLib import folders, results

    user.choose(*pair, steps=2)
    first = user.register()
    size = sum(path.stat().st_size for path in Path(first.GetAttribute(results.RESULT)).rglob("*") if path.is_file())
    user.ui.transformSelector.setCurrentNode(None)
    second = user.register()
    left.check_jobs("job-1", "job-2")
    monkeypatch.setattr(folders, "LIMIT", 2.5 * size)
    user.ui.transformSelector.setCurrentNode(None)
    third = user.register()
    left.check_jobs("job-2", "job-3")
    assert results.folder_of(first).is_dir()
    slicer.mrmlScene.RemoveNode(second)
    user.ui.transformSelector.setCurrentNode(third)
    user.register()
    left.check_jobs("job-4", "job-5")
    slicer.mrmlScene.Clear(0)
    left.check_jobs()
