"""The folder that the jobs of one Slicer lie in. It goes with its Slicer, or, where that was killed, with the next one.

Its owner holds a lock on a file beside it for as long as it lives: the operating system lets go of that lock
however the owner ends.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from inrreg.abandoned import LOCK, lock_of, locked, remove

PREFIX = "INRRegistration-"
LIMIT = 4 << 30
"""Bytes that the results of earlier jobs may take together."""


class JobsFolder:
    """A new folder in a temporary one, with numbered folders for jobs in it."""

    def __init__(self, temporary: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
        self._file = locked(lock_of(self.path))
        self._count = 0

    def new(self) -> Path:
        """An empty folder for a job."""
        self._count += 1
        folder = self.path / f"job-{self._count}"
        folder.mkdir()
        return folder

    def jobs(self) -> list[Path]:
        """The folders of all jobs, the oldest first."""
        found = [self.path / f"job-{number + 1}" for number in range(self._count)]
        return [folder for folder in found if folder.is_dir()]

    def remove(self) -> None:
        """Remove it all; what another program holds open goes with the next Slicer."""
        remove(self.path, self._file)


def trim(jobs: list[Path], needed: Collection[Path]) -> None:
    """Remove the folders of ended jobs that are not `needed`, then the oldest ones beyond `LIMIT`: the scene has more.

    Safe off the GUI thread. What another program holds open stays.
    """
    taken = 0
    for folder in reversed(jobs):
        if folder in needed:
            taken += _size(folder)
        if folder not in needed or taken > LIMIT:
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders in a temporary one whose owner is gone. Safe off the GUI thread."""
    for lock in Path(temporary).glob(f"{PREFIX}*{LOCK}"):
        file = locked(lock)
        if file is not None:
            remove(lock.with_name(lock.name.removesuffix(LOCK)), file)
