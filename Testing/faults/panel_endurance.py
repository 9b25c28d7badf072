"""Hundreds of registrations, previews and slider moves in one panel: does its memory grow, is anything left behind?

    python -m Testing.faults.panel_endurance [--count 300] [--moves 1000]

The real panel in the stand-in for Slicer, the real worker process over the fake engine; each registration shows some
four previews. Every tenth is cancelled, every hundredth worker is killed. Then alpha is moved, and rests at every
fiftieth place until the worker has evaluated it. Prints the panel's resident memory as they go by and how much it grew
after the warm-up of each of both; ends with 1 where that is 5 % or more, or where a process, a file or a node is left.
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


def move(user: User, moves: int) -> list[float]:
    """Slider moves over the whole range, to and fro, with a rest now and then; MiB after each."""
    ui, tuner = user.panel.sections[0].ui, user.panel.sections[0].tuner
    user.wait(lambda: tuner.fields is not None)
    held = []
    for number in range(moves):
        ui.alphaSlider.setValue(abs(number * 37 % 2000 - 1000))
        user.slicer.app.processEvents()
        if number % 50 == 49:
            user.wait(lambda: tuner.exact)
            assert not user.error, user.error
        held.append(memory())
        if number % 100 == 99:
            print(f"{number + 1:4} moves: {held[-1]:7.1f} MiB", flush=True)
    return held


def grown(held: list[float]) -> dict[str, float]:
    """Memory in MiB after the warm-up and at the end, and its relative growth."""
    warm, part = max(1, round(WARM_UP * len(held))), max(1, len(held) // 10)
    begin, end = np.median(held[warm : warm + part]), np.median(held[-part:])
    return {"after_warm_up_mib": float(begin), "at_the_end_mib": float(end), "growth": float(end / begin - 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--moves", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / "Slicer"
        slicer = application.start(temporary)
        methods.__path__.append(str(FAKES / "methods"))
        from INRRegistrationLib import places, preview, selftest

        places.Here.command = lambda self: [sys.executable, str(FAKES / "fake_worker.py")]
        user = User(slicer)
        user.choose(*selftest.make_pair(), "fake-alpha", steps=20, pause=0.01)
        held, nodes, jobs = [], [], []
        put, shown = preview.Preview._put, []
        preview.Preview._put = lambda self, grid: (put(self, grid), shown.append(1))
        for number in range(arguments.count):
            register(user, number)
            held.append(memory())
            nodes.append(slicer.mrmlScene.GetNumberOfNodes())
            jobs.append(len([path for path in temporary.glob("INRRegistration-*/*") if path.is_dir()]))
            if number % 20 == 19:
                print(
                    f"{number + 1:4} registrations: {held[-1]:7.1f} MiB, {nodes[-1]} nodes, {jobs[-1]} jobs", flush=True
                )
        user.register()
        moved = move(user, arguments.moves)
        user.leave()
        left = [str(path.relative_to(place)) for path in Path(place).rglob("INRRegistration-*")]
        outside = [path.name for path in Path(place).iterdir() if path != temporary]
        processes = len(children())
    warm = max(1, round(WARM_UP * len(held)))
    figures = {
        "registrations": {"count": len(held), "previews": len(shown), **grown(held)},
        "slider": {"moves": len(moved), **grown(moved)},
        "nodes": [nodes[warm], nodes[-1]],
        "job_folders": [jobs[warm], jobs[-1]],
        "left_behind": left + outside,
        "processes": processes,
    }
    print(json.dumps(figures, indent=2))
    good = max(figures[part]["growth"] for part in ("registrations", "slider")) < MOST
    good = good and not left and not outside and not processes
    good = good and nodes[-1] <= nodes[warm] and max(jobs) <= 1
    print("kept" if good else "NOT KEPT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
