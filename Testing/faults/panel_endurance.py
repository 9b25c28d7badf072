"""Hundreds of registrations in one panel: does Slicer's memory grow, and is anything left behind?

    python -m Testing.faults.panel_endurance [--count 300]

The real panel in the stand-in for Slicer, the real worker process over the fake engine. Every tenth registration is
cancelled, every hundredth worker is killed. Prints the panel's resident memory as they go by and how much it grew after
the warm-up; ends with 1 where that is 5 % or more, or where a process, a file or a node is left.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np

from inrreg import methods
from Testing.faults.endurance import MOST, WARM_UP
from Testing.faults.panel.conftest import children
from Testing.module.conftest import FAKES, User, application


def memory() -> float:
    """Resident MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def register(user: User, number: int) -> None:
    """One registration; some are cancelled, some lose their worker."""
    user.click()
    if number % 10 == 9 or number % 100 == 55:
        user.wait(lambda: user.panel.run is None or user.panel.run.state == "running")
        if number % 10 == 9:
            user.click()
        else:
            os.kill(user.process.process_id, signal.SIGKILL)
        user.wait_for_end(60)
    else:
        user.wait_for_end(60)
        assert not user.error, user.error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / "Slicer"
        slicer = application.start(temporary)
        methods.__path__.append(str(FAKES / "methods"))
        from INRRegistrationLib import places, selftest

        places.Here.command = lambda self: [sys.executable, str(FAKES / "fake_worker.py")]
        user = User(slicer)
        user.choose(*selftest.make_pair(), steps=3, pause=0.002)
        held, nodes, jobs = [], [], []
        for number in range(arguments.count):
            register(user, number)
            held.append(memory())
            nodes.append(slicer.mrmlScene.GetNumberOfNodes())
            jobs.append(len([path for path in temporary.glob("INRRegistration-*/*") if path.is_dir()]))
            if number % 20 == 19:
                print(
                    f"{number + 1:4} registrations: {held[-1]:7.1f} MiB, {nodes[-1]} nodes, {jobs[-1]} jobs", flush=True
                )
        user.leave()
        left = [str(path.relative_to(place)) for path in Path(place).rglob("INRRegistration-*")]
        outside = [path.name for path in Path(place).iterdir() if path != temporary]
        processes = len(children())
    warm, part = max(1, round(WARM_UP * len(held))), max(1, len(held) // 10)
    begin, end = np.median(held[warm : warm + part]), np.median(held[-part:])
    figures = {
        "registrations": len(held),
        "after_warm_up_mib": float(begin),
        "at_the_end_mib": float(end),
        "growth": float(end / begin - 1),
        "nodes": [nodes[warm], nodes[-1]],
        "job_folders": [jobs[warm], jobs[-1]],
        "left_behind": left + outside,
        "processes": processes,
    }
    print(json.dumps(figures, indent=2))
    good = figures["growth"] < MOST and not left and not outside and not processes
    good = good and nodes[-1] <= nodes[warm] and max(jobs) <= 1
    print("kept" if good else "NOT KEPT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
