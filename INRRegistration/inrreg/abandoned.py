"""Hidden folders beside a file or folder that is being written, and what a killed process left of them.

Their owner holds a lock on a file beside each for as long as it lives: the operating system lets go of that lock
however the owner ends, so that whoever writes to the same place next can tell what is abandoned, and removes it by its
name.
Standard library only: the Slicer side keeps its jobs' folders in the same way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"


def lock_of(folder: Path) -> Path:
    """The file whose lock says that a folder has an owner."""
    return folder.with_name(folder.name + LOCK)


def locked(path: Path) -> IO[bytes] | None:
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


def remove(folder: Path, file: IO[bytes] | None) -> None:
    """Remove a folder, and its lock `file` once that is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    if file is not None:
        file.close()
    if not folder.exists():
        with contextlib.suppress(OSError):
            lock_of(folder).unlink(missing_ok=True)


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new hidden folder `.NAME.*` beside `target`, removed at the end. Raises OSError where there can be none."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    file = locked(lock_of(folder))
    try:
        yield folder
    finally:
        remove(folder, file)


def remove_abandoned(target: Path) -> list[str]:
    """Remove the hidden folders of `beside` whose owner is gone; their names."""
    prefix, found = f".{target.name}.", []
    with contextlib.suppress(OSError):
        for lock in sorted(target.parent.iterdir()):
            folder = lock.with_name(lock.name.removesuffix(LOCK))
            # Eight letters of `mkdtemp` and no more: `result` is not the start of `result.1`.
            ours = lock.name.startswith(prefix) and lock.name.endswith(LOCK) and "." not in folder.name[len(prefix) :]
            if ours and (file := locked(lock)) is not None:
                remove(folder, file)
                found.append(folder.name)
    return found
