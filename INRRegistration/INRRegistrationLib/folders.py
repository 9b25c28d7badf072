"""The folder that the jobs of one Slicer lie in. It goes with its Slicer, or, where that was killed, with the next one.

Its owner holds a lock on a file beside it for as long as it lives: the operating system lets go of that lock
however the owner ends.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from inrreg.abandoned import LOCK, lock_of, locked, remove

PREFIX = "INRRegistration-"


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

    def remove(self) -> None:
        """Remove it all; what another program holds open goes with the next Slicer."""
        remove(self.path, self._file)


def remove_abandoned(temporary: Path) -> None:
    """Remove the folders in a temporary one whose owner is gone. Safe off the GUI thread."""
    for lock in Path(temporary).glob(f"{PREFIX}*{LOCK}"):
        file = locked(lock)
        if file is not None:
            remove(lock.with_name(lock.name.removesuffix(LOCK)), file)
