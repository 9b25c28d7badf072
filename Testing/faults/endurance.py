"""Two hundred registrations in one warm worker: does its memory grow, and does it leave anything behind?

    python -m Testing.faults.endurance [--count 200]

Each job has a folder of its own in one place, as the panel gives it one, and that folder is removed after it. Prints
the worker's resident memory as the jobs go by and how much it grew after the warm-up; ends with 1 where that is 5 % or
more, or where a file or an open file is left. The real worker, the real engine, tiny images.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from inrreg.protocol import EVENTS, Job, Message

WARM_UP = 0.15
"""Share of the jobs that count as the warm-up."""
MOST = 0.05
"""Growth of the memory that is allowed."""
QUICK = {
    "fast": {"steps": [3], "image_spacing": [8], "node_spacing": [12], "width": 16, "rank": 8},
    "idir-light": {"steps": 3, "points": 200, "width": 8, "hidden": 1},
}


class Worker:
    """The worker process over pipes, in a working directory and with a temporary folder of its own."""

    def __init__(self, place: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(place), "HOME": str(place), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "inrreg.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=place, env=environment, **pipes)
        self.events: queue.Queue[Message] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.put(Message.decode(line.decode(), EVENTS))

    def ask(self, kind: str, request: str, until: tuple[str, ...], timeout: float = 300, **data: object) -> Message:
        """Send a command and wait for one of the events `until`."""
        self.process.stdin.write(Message(kind, data, request, "job").encode().encode() + b"\n")
        self.process.stdin.flush()
        while True:
            event = self.events.get(timeout=timeout)
            if event.request == request and event.kind in until:
                return event

    def memory(self) -> float:
        """Resident MiB: what the process holds, not what it may once have held."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def files(self) -> int:
        """Open files."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def make_job(folder: Path, number: int) -> Path:
    """A tiny job whose images and seed differ from those of the last one; every tenth by `fast`."""
    folder.mkdir()
    z, y, x = np.mgrid[:10, :10, :12]
    for index, name in enumerate(("fixed", "moving")):
        image = sitk.GetImageFromArray((100 * np.sin(x / 3 + index / 3 + number) + 10 * y + z).astype(np.float32))
        image.SetSpacing((4.0, 4.0, 5.0))
        sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    preset = "idir-light" if number % 10 else "fast"
    job = Job("fixed.nrrd", "moving.nrrd", preset=preset, overrides=QUICK[preset], threads=1, seed=number)
    job.save(folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as outside:
        place = Path(outside) / "INRRegistration-jobs"
        place.mkdir()
        worker = Worker(place)
        memory, files = [], []
        for number in range(arguments.count):
            folder = make_job(place / f"job-{number}", number)
            answer = worker.ask("register", f"r{number}", ("result", "error"), folder=str(folder), resample=True)
            assert answer.kind == "result", answer
            shutil.rmtree(folder)
            memory.append(worker.memory())
            files.append(worker.files())
            if number % 20 == 19:
                print(f"{number + 1:4} registrations: {memory[-1]:7.1f} MiB, {files[-1]} open files", flush=True)
        worker.process.stdin.close()
        worker.process.wait(timeout=10)
        left = sorted(str(path.relative_to(outside)) for path in Path(outside).rglob("*") if path.is_file())
    warm = max(1, round(WARM_UP * len(memory)))
    part = max(1, len(memory) // 10)
    begin, end = np.median(memory[warm : warm + part]), np.median(memory[-part:])
    figures = {
        "registrations": len(memory),
        "after_warm_up_mib": float(begin),
        "at_the_end_mib": float(end),
        "growth": float(end / begin - 1),
        "open_files": [files[warm], files[-1]],
        "left_behind": left,
    }
    print(json.dumps(figures, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    good = figures["growth"] < MOST and not left and files[-1] <= files[warm]
    print("kept" if good else "NOT KEPT")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
