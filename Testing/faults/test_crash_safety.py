"""A process killed while it writes: what it leaves is known by its name, and gone after the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from inrreg.abandoned import beside, remove_abandoned
from inrreg.images import atomic, write_image
from inrreg.protocol import Job
from inrreg.registration import register
from Testing.faults.endurance import make_job

QUICK = {"steps": 2, "points": 100, "width": 8, "hidden": 1}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

REGISTER = """
import sys, time
from pathlib import Path
import inrreg.deformation, inrreg.registration as r
from inrreg.protocol import Job
def slow(path, data):
    print("writing", flush=True)
    time.sleep(100)
{hang}
job = Job(sys.argv[1] + "/fixed.nrrd", sys.argv[1] + "/moving.nrrd", preset="idir-light", overrides={quick}, threads=1)
r.register(job, Path(sys.argv[2]))
"""
HANGS = {
    "while the result is written": "r.protocol.write_json = slow",
    "between two moves": (
        "move = Path.rename\nPath.rename = lambda one, other: (move(one, other), '.old' in str(other) and slow(0, 0))"
    ),
}


def killed(code: str, *arguments: object) -> None:
    """Run Python until it says a word, then kill it."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_job(tmp_path_factory.mktemp("images") / "job", 3)


def job(images: Path) -> Job:
    return Job(str(images / "fixed.nrrd"), str(images / "moving.nrrd"), preset="idir-light", overrides=QUICK, threads=1)


@pytest.mark.parametrize("when", HANGS)
def test_a_killed_registration_is_cleaned_up_by_the_next(when: str, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "result"
    register(job(images), output)
    killed(REGISTER.format(hang=HANGS[when], quick=QUICK), images, output)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names - {"result"}) >= 2, names
    assert all(name == "result" or name.startswith(".result.") for name in names)
    told = []
    register(job(images), output, emit=lambda kind, data: kind == "log" and told.append(data["text"]))
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    told = [text for text in told if not text.startswith("similarity")]
    assert told
    assert all("interrupted" in text for text in told)
    assert ("Brought back" in " ".join(told)) == (when == "between two moves")
    assert told[0] in (output / "log.txt").read_text()


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "result"
    (tmp_path / ".result.notes").mkdir()
    with beside(target) as mine, beside(tmp_path / "result.1") as other:
        assert remove_abandoned(target) == []
        assert mine.is_dir()
        assert other.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [".result.notes"]


def test_a_killed_writing_of_one_file_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "warped.nrrd"
    path.write_bytes(b"earlier")
    code = (
        "import sys, time; from inrreg.images import atomic\n"
        "with atomic(sys.argv[1]) as partial:\n"
        "    partial.write_bytes(b'half'); print('writing', flush=True); time.sleep(100)"
    )
    killed(code, path)
    assert path.read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 3
    write_image(sitk.GetImageFromArray(np.zeros((4, 4, 4), np.uint8)), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["warped.nrrd"]
    assert sitk.ReadImage(str(path)).GetSize() == (4, 4, 4)


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.nrrd", []
    with atomic(path) as partial:
        partial.write_bytes(b"half")
        seen.append(path.exists())
        time.sleep(0)
    assert seen == [False]
    assert path.read_bytes() == b"half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nrrd"]
