"""In front of the panel, as `Testing/module` has it; and after every case neither process nor file may be left."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from Testing.module.conftest import fake_engine, own_modules, pair, real_user, slicer, snapshot, uncaught, user

__all__ = ["fake_engine", "own_modules", "pair", "real_user", "slicer", "uncaught", "user"]
FAULTY = Path(__file__).with_name("faulty_worker.py")


def children() -> set[int]:
    """Processes that this one has started and that live, or are only stopped."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(path.parent.name))
    return found


class Left:
    """What there is of us: in the scene, on the disk and among the processes."""

    def __init__(self, slicer) -> None:
        self._slicer = slicer
        self.scene = self.processes = None
        self.remember()

    def remember(self) -> None:
        """The scene as it is now is the one to keep."""
        self.scene, self.processes = snapshot(self._slicer), children()

    def jobs(self) -> list[str]:
        """What the jobs' folder holds, one level deep."""
        temporary = Path(self._slicer.app.temporaryPath)
        return sorted(
            path.name for folder in temporary.glob("INRRegistration-*") if folder.is_dir() for path in folder.iterdir()
        )

    def check_jobs(self, *expected: str) -> None:
        """These are left and no other: what is not needed any more is removed off the GUI thread, soon."""
        end = time.monotonic() + 5
        while self.jobs() != sorted(expected) and time.monotonic() < end:
            time.sleep(0.01)
        assert self.jobs() == sorted(expected)

    def check_nothing_happened(self) -> None:
        """The scene is as it was, and no job is left."""
        assert snapshot(self._slicer) == self.scene
        self.check_jobs()


@pytest.fixture(autouse=True)
def nothing_stays(slicer):
    """After each case: Slicer has exited, and neither a process nor a file of ours is there."""
    before = children()
    yield
    end = time.monotonic() + 3
    while (left := children() - before) and time.monotonic() < end:
        time.sleep(0.02)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left
    assert not list(Path(slicer.app.temporaryPath).glob("INRRegistration-*"))


@pytest.fixture
def left(user, slicer) -> Left:
    return Left(slicer)


@pytest.fixture
def faulty(fake_engine):
    """The worker over the fake engine with a fault put in, by its name in `faulty_worker`; "" takes it out again."""
    known = list(fake_engine)

    def put(name: str) -> None:
        fake_engine[:] = [sys.executable, str(FAULTY), name] if name else known

    return put
