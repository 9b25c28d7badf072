"""The worker over the fake engine, with one fault put in: `python faulty_worker.py NAME`."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "fakes"))

import fake_worker

from inrreg import worker

EVENTS = 10_000
"""Events of a flood."""
stream = None
"""What events are written to."""


def flood(emit):
    """Events and lines as fast as they can be written."""
    for number in range(EVENTS):
        data = {"stage": "flood", "step": number, "steps": EVENTS, "loss": 1.0, "terms": {}, "seconds": 0.0, "eta": 0.0}
        if number % 2:
            emit("progress", data)
        else:
            emit("log", {"text": f"line {number}"})


def garbage(emit):
    """Everything but events, between events; 16 MB of it in one line."""
    emit("log", {"text": "before"})
    for number in range(256):
        stream.write(os.urandom(1000) + b'\n{"version": 1, "kind": "progress"}\n{"version": 1, "ki\n[1]\n\n')
        stream.write(bytes([number]) * 1000 + b"\n")
    for _ in range(256):
        stream.write(b"\xff" * (1 << 16))
    stream.write(b"\n")
    stream.flush()
    emit("log", {"text": "after"})


def stuck(emit):
    """Hangs with half a result on the disk."""
    Path("partial-result").mkdir()
    Path("partial-result", "displacement.nrrd").write_bytes(b"NRRD0004\n")
    emit("log", {"text": "half written"})
    time.sleep(1000)


def clock(emit):
    """The wall clock jumps from now on, years ahead and back."""
    real, jumps = time.time, itertools.cycle((-1e9, 1e9, 0.0))
    time.time = lambda: real() + next(jumps)


def main(name):
    register = fake_worker.register

    def faulty(job, output, *, emit, **rest):
        globals()[name](emit)
        return register(job, output, emit=emit, **rest)

    def guarded_stdout(known=worker.guarded_stdout):
        global stream
        stream = known()
        return stream

    fake_worker.register, worker.guarded_stdout = faulty, guarded_stdout
    fake_worker.install()
    fake_worker.stub_torch()
    worker.main()


if __name__ == "__main__":
    main(sys.argv[1])
