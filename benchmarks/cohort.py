"""A cohort on a Dask cluster of this computer: what it survives, what it costs, and what limits thousands of pairs.

    python -m benchmarks.cohort [--pairs 24] [--tasks 10000] [--output DIR]

1. `pairs` generated pairs, one of them poisoned (it kills every worker that touches it), on 2 workers of which one is
   killed once: then the scheduler is killed in mid-run, and the run resumed. Every other pair must be published exactly
   once and equal the sequential result at the same number of threads.
2. Seconds of 1 worker with 2 threads against 2 workers with 1 thread, and what Dask costs a pair beyond its own work.
3. Tiny tasks, as many as a large cohort has, that only answer: how many a second the scheduler passes on.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import SimpleITK as sitk

from inrreg.cohort.cluster import Place, client
from inrreg.cohort.manifest import Pair, read_manifest
from inrreg.cohort.run import run
from inrreg.phantom import thorax
from inrreg.protocol import UserError, read_json, write_json
from inrreg.registration import register

SETTINGS = {"steps": "20,10", "image_spacing": "14,10", "node_spacing": "40,30", "width": "32"}
POISON = """
import os, signal
from pathlib import Path
import inrreg.registration as engine
known = engine.register
def register(job, output, known=known, **options):
    folder = Path(job.fixed).parent
    if folder.name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    once = folder / "kill"
    if once.exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return known(job, output, **options)
if known.__module__ == engine.__name__:
    engine.register = register
"""
"""Loaded into the workers: one pair kills them always, one kills them once."""


def write_pairs(folder: Path, count: int) -> Path:
    """Generated pairs, the last one to be poisoned, and their manifest."""
    rows = []
    for seed in range(count):
        name = "poison" if seed == count - 1 else f"p{seed:02d}"
        phantom = thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=seed, amplitude=15.0)
        (folder / name).mkdir(parents=True)
        for side in ("fixed", "moving"):
            sitk.WriteImage(getattr(phantom, side), str(folder / name / f"{side}.nrrd"))
        rows.append({"name": name, "fixed": f"{name}/fixed.nrrd", "moving": f"{name}/moving.nrrd"})
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def pairs_of(manifest: Path, threads: int) -> list[Pair]:
    return read_manifest(manifest, {"threads": threads, "overrides": SETTINGS})


def faults(manifest: Path, folder: Path) -> dict[str, object]:
    """Killed workers, a poisoned pair, a killed scheduler, a resumed run, and the sequential results."""
    import dask

    pairs, out = pairs_of(manifest, 1), folder / "faults"
    script = folder / "poison.py"
    script.write_text(POISON)
    (manifest.parent / pairs[1].name / "kill").touch()
    published = 0
    with _own_cluster(script) as (address, scheduler):

        def watch(row: dict[str, object]) -> None:
            nonlocal published
            published += row["state"] == "done"
            if published == len(pairs) // 3:
                scheduler.send_signal(signal.SIGKILL)

        try:
            run(pairs, out, Place(address=address), reports=False, told=watch)
            lost = ""
        except UserError as error:
            lost = str(error)
    times = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("pairs/*/pair.json")}
    with dask.config.set({"distributed.worker.preload": [str(script)]}):
        rows = run(pairs, out, Place(2), reports=False)
    same = sum(times[path.parent.name] == path.stat().st_mtime_ns for path in out.glob("pairs/*/pair.json")
               if path.parent.name in times)  # fmt: skip
    equal = 0
    for pair in pairs[:-1]:
        register(pair.job, folder / "alone" / pair.name)
        models = [
            base / "model.safetensors" for base in (folder / "alone" / pair.name, out / "pairs" / pair.name / "result")
        ]
        equal += models[0].read_bytes() == models[1].read_bytes()
    return {
        "said_when_the_scheduler_was_killed": lost,
        "published_before": len(times),
        "kept_of_these": same,
        "published": len(list(out.glob("pairs/*"))),
        "failed": [row["name"] for row in rows if row["state"] == "failed"],
        "equal_to_sequential": equal,
        "of": len(pairs) - 1,
        "left_over": (out / ".unfinished").exists(),
    }


class _own_cluster:
    """A scheduler and two workers as processes of their own, which can be killed."""

    def __init__(self, preload: Path) -> None:
        self._preload = preload

    def __enter__(self) -> tuple[str, subprocess.Popen]:
        start = [sys.executable, "-m", "dask"]
        file = self._preload.with_name("scheduler.json")
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        self._processes = [subprocess.Popen([*start, "scheduler", *options], stderr=subprocess.DEVNULL)]
        while not file.exists():
            time.sleep(0.1)
        options = ["--scheduler-file", str(file), "--nthreads", "1", "--preload", str(self._preload)]
        for _ in range(2):
            worker = subprocess.Popen([*start, "worker", *options, "--no-dashboard"], stderr=subprocess.DEVNULL)
            self._processes.append(worker)
        return read_json(file)["address"], self._processes[0]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()


def throughput(manifest: Path, folder: Path) -> dict[str, float]:
    """Seconds for all pairs but the poisoned, at two threads in all, and Dask's own share of a pair."""
    figures = {}
    for workers in (1, 2):
        pairs = pairs_of(manifest, 2 // workers)[:-1]
        start = time.perf_counter()
        with client(Place(workers)):
            started = time.perf_counter() - start
        start = time.perf_counter()
        rows = run(pairs, folder / f"{workers}", Place(workers), reports=False)
        wall = time.perf_counter() - start
        work = sum(row["seconds"] for row in rows)
        figures |= {f"seconds_{workers}_workers": wall, f"start_{workers}_workers": started, f"work_{workers}": work}
    figures["speedup"] = figures["seconds_1_workers"] / figures["seconds_2_workers"]
    return figures


def answer(number: int) -> dict[str, int]:
    """A task as small as they come, with an answer like a pair's."""
    return {"number": number, "worker": os.getpid()}


def tiny(count: int) -> dict[str, float]:
    """How fast the scheduler passes on tasks that do nothing."""
    from distributed import as_completed

    with client(Place(2)) as found:
        start = time.perf_counter()
        futures = [found.submit(answer, number, pure=False) for number in range(count)]
        submitted = time.perf_counter() - start
        done = sum(1 for _ in as_completed(futures))
        whole = time.perf_counter() - start
    return {"tasks": done, "seconds_to_submit": submitted, "seconds": whole, "milliseconds_a_task": 1000 * whole / done}


def main() -> None:
    """Run all three, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path("bench"))
    arguments = parser.parse_args()
    folder = arguments.output / "cohort"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = write_pairs(folder / "images", arguments.pairs)
    figures = {
        "faults": faults(manifest, folder),
        "throughput": throughput(manifest, folder),
        "tiny": tiny(arguments.tasks),
    }
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key}: {value}")
    write_json(arguments.output / "cohort.json", figures)


if __name__ == "__main__":
    main()
