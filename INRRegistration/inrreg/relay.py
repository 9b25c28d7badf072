"""What a connection to a worker on another host consists of, so that the worker outlives it and another can follow.

Run as `python -m inrreg.relay HEARD` in the folder of a worker that was started with `--lasting`. Commands go from
stdin to the worker, its events from the journal to stdout, all but the first HEARD, which an earlier connection has
passed on; what it says besides goes to stderr. End of stdin ends the connection alone, the worker's end both.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

COMMANDS, JOURNAL, WORDS = "commands", "events", "words"
"""In the worker's folder: a pipe, and what it said in events and otherwise."""
ALONE = 1800.0
"""Seconds that a worker which was given something to do waits for another connection."""
START = 60.0
"""Seconds that a worker has to begin to listen, and that it waits for the first command."""
PAUSE = 0.02
"""Seconds between looks at what the worker has said."""


def commands(alone: float = ALONE, start: float = START) -> Iterator[bytes]:
    """For the worker: the lines of all connections, until it was without one for `alone` seconds.

    For `start` seconds where none has said anything yet. A line that was cut is left out, and so is one that is said
    again, over another connection.
    """
    told, last = set[bytes](), time.monotonic()
    with os.fdopen(os.open(COMMANDS, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        os.set_blocking(pipe.fileno(), True)
        while time.monotonic() - last < (alone if told else start):
            begun = time.monotonic()
            line = pipe.readline()  # waits for one while there is a connection
            if line or time.monotonic() - begun > 1:
                last = time.monotonic()
            if line.endswith(b"\n") and line not in told:
                told.add(line)
                yield line
            elif not line:
                time.sleep(PAUSE)


def main() -> None:
    """Entry of `python -m inrreg.relay`."""
    heard = int(sys.argv[1])
    pipe = _open_commands(START)
    threading.Thread(target=_pass_on, args=(pipe,), daemon=True).start()
    with open(JOURNAL, "rb") as journal, open(WORDS, "rb") as words:
        for _ in islice(journal, heard):
            pass
        if heard:
            words.seek(0, os.SEEK_END)
        there = True
        while there:
            there = Path(JOURNAL).exists()  # asked before the last look
            said = [_copy(*ends) for ends in ((journal, sys.stdout.buffer), (words, sys.stderr.buffer))]
            if not any(said):
                time.sleep(PAUSE)


def _open_commands(patience: float) -> int:
    """The pipe to the worker. Ends the process where nobody reads it, or it is no longer there."""
    end = time.monotonic() + patience
    while time.monotonic() < end and Path(COMMANDS).exists():
        try:
            pipe = os.open(COMMANDS, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            time.sleep(PAUSE)
        else:
            os.set_blocking(pipe, True)
            return pipe
    sys.exit("The worker is no longer there.")


def _pass_on(pipe: int) -> None:
    """Thread: give the worker what comes in."""
    try:
        for line in sys.stdin.buffer:
            while line:
                line = line[os.write(pipe, line) :]
    finally:
        os._exit(0)


def _copy(source, target) -> bytes:
    """What is new in a file, passed on. Ends the process where nobody hears it."""
    new = source.read()
    if new:
        try:
            target.write(new)
            target.flush()
        except OSError:
            os._exit(0)
    return new


if __name__ == "__main__":
    main()
