"""The folder that the jobs of one Slicer lie in. It goes with its Slicer, or, where that was killed, with the next one.

Its owner holds a lock on a file beside it for as long as it lives: the operating system lets go of that lock
however the owner ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

PREFIX = "INRRegistration-"
LOCK = ".lock"


class JobsFolder:
    """A new folder in a temporary one, with numbered folders for jobs in it."""

    def __init__(self, temporary: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary))
        self._file = _locked(_lock_of(self.path))
        self._count = 0

    def new(self) -> Path:
        """An empty folder for a job."""
        self._count += 1
        folder = self.path / f"job-{self._count}"
        folder.mkdir()
        return folder

    def remove(self) -> None:
        """Remove it all; what another program holds open goes with the next Slicer."""
        _remove(self.path, self._file)


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders in a temporary one whose owner is gone. Safe off the GUI thread."""
    for lock in Path(temporary).glob(f"{PREFIX}*{LOCK}"):
        file = _locked(lock)
        if file is not None:
            _remove(lock.with_name(lock.name.removesuffix(LOCK)), file)


def _remove(folder: Path, file: IO[bytes] | None) -> None:
    """Remove a folder, and its lock once that is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    if file is not None:
        file.close()
    if not folder.exists():
        with contextlib.suppress(OSError):
            _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def _locked(path: Path) -> IO[bytes] | None:
    """The file, open and locked for this process; None where another one has it, or nobody can lock there."""
    try:
        file = path.open("ab")
    except OSError:
        return None
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
