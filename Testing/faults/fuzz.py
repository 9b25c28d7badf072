"""Property-based fuzzing of what the engine, the worker and the protocol are given, class by class, each with a quota.

    python -m Testing.faults.fuzz                     # the long form: more than 10,000 inputs
    python -m Testing.faults.fuzz --family "job file" --quota 100 --seed 7

Every input must end in a valid result or in one clear sentence. Each class runs in a process of its own, since what is
read by C++ can end one; an input is known by its class and the seed. `make test` runs the short form, a part of each
quota. Prints a table, writes JSON, and ends with 1 where something was found.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.charmap import charmap

MEMORY = 6 << 30
"""Bytes of address space that a class may take: what would eat the machine is a finding."""
LONGEST = 300.0
"""Seconds that one input may take: what never ends is a finding, too."""


def fuzz(family: Any, quota: int, number: int, note: Callable[[str], Any] = lambda text: None) -> dict[str, Any]:
    """Draw `quota` inputs of a family with a seed: how many were drawn, what came out, the first finding or None.

    `note` is given each input before it is checked.
    """
    came: Counter[str] = Counter()
    rules = settings(
        max_examples=quota,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    last: list[Any] = []

    @seed(number)
    @rules
    @given(family.inputs)
    def run(what: Any) -> None:
        last[:] = [what]
        note(repr(what)[:4000])
        with tempfile.TemporaryDirectory() as folder:
            came[family.check(what, Path(folder))] += 1

    finding = None
    try:
        run()
    except Exception as error:
        error.__notes__ = []  # the input once more
        text = "".join(traceback.format_exception(error))
        finding = {"input": repr(last[0])[:4000] if last else "", "error": text[-2000:]}
    drawn = sum(came.values()) + (finding is not None)
    return {
        "class": family.name,
        "seed": number,
        "quota": quota,
        "drawn": drawn,
        "came": dict(came),
        "finding": finding,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", action="append", help="one class alone; may be repeated")
    parser.add_argument("--quota", type=int, help="inputs of each class; by default its own quota")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    arguments = parser.parse_args()
    from Testing.faults.families import FAMILIES

    charmap()  # once, before the processes
    rows = []
    print(f"{'class':36} {'drawn':>6} {'s':>6}  outcomes")
    for name in arguments.family or FAMILIES:
        begin = time.perf_counter()
        rows.append(in_a_process(name, arguments.quota or FAMILIES[name].quota, arguments.seed))
        came = ", ".join(f"{key} {count}" for key, count in sorted(rows[-1]["came"].items()))
        print(f"{name:36} {rows[-1]['drawn']:6} {time.perf_counter() - begin:6.1f}  {came}", flush=True)
        if finding := rows[-1]["finding"]:
            print("FOUND with", finding["input"], finding["error"], sep="\n", flush=True)
    total, found = sum(row["drawn"] for row in rows), sum(row["finding"] is not None for row in rows)
    print(f"{total} inputs of {len(rows)} classes, seed {arguments.seed}; findings: {found}")
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if found else 0


def in_a_process(name: str, quota: int, number: int) -> dict[str, Any]:
    """`fuzz` in a process of its own; its end is a finding."""
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "input"
        process = context.Process(target=_answer, args=(theirs, name, quota, number, last))
        process.start()
        theirs.close()
        try:
            row = ours.recv()
        except EOFError:
            process.join()
            error = f"the process ended with {process.exitcode}, by itself or after {LONGEST:g} s with one input"
            finding = {"input": last.read_text(encoding="utf-8") if last.is_file() else "", "error": error}
            row = {"class": name, "seed": number, "quota": quota, "drawn": 0, "came": {}, "finding": finding}
        process.join()
    return row


def _answer(pipe: Any, name: str, quota: int, number: int, last: Path) -> None:
    from Testing.faults.families import FAMILIES

    trace = os.fdopen(os.dup(2), "w")
    faulthandler.enable(trace)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print of files that they cannot read
    limit_memory()

    def note(text: str) -> None:
        faulthandler.dump_traceback_later(LONGEST, exit=True, file=trace)
        last.write_text(text, encoding="utf-8", errors="backslashreplace")

    pipe.send(fuzz(FAMILIES[name], quota, number, note))


def limit_memory() -> None:
    """Bound this process's address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(main())
