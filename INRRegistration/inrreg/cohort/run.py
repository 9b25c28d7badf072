"""A cohort from its pairs to its rows: what is done is kept, the rest is computed, nothing stops at a failure."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from inrreg.cohort.cluster import GPU, Place, client
from inrreg.cohort.manifest import Pair
from inrreg.cohort.work import UNFINISHED, finished, register_pair
from inrreg.protocol import UserError

Row = dict[str, Any]


def run(
    pairs: list[Pair],
    folder: Path,
    place: Place,
    *,
    retries: int = 1,
    reports: bool = True,
    told: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Register what is not done yet; the rows of all pairs in their order. `told` hears of each as it comes.

    A pair that fails for a reason that is not its input's, as a worker that dies, is tried `retries` times more.
    Raises `UserError` (code `cluster`) where the scheduler is lost: what was published stays, and counts next time.
    """
    rows: dict[str, Row] = {}

    def add(row: Row) -> None:
        rows[row["name"]] = row
        told(row)

    folder.mkdir(parents=True, exist_ok=True)
    # What an interrupted run left, or one that still writes there and will then find its folder gone.
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    waiting = []
    for pair in pairs:
        if pair.job is None:
            add({"name": pair.name, "state": "failed", "error": pair.error})
        elif (row := finished(folder, pair.name, pair.job)) is not None:
            add({**row, "state": "kept"})
        else:
            waiting.append(pair)
    if waiting:
        with client(place) as found:
            submit = partial(_submit, found, folder.resolve(), place, retries, reports)
            # A worker that dies takes pairs with it that did it no harm. Alone, a pair is judged for itself.
            for pair in _collect(submit(waiting), add):
                for _ in _collect(submit([pair]), add):
                    error = "The processes that computed it died, as they do when memory runs out."
                    add({"name": pair.name, "state": "failed", "error": error})
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return [rows[pair.name] for pair in pairs]


def _submit(found: Any, folder: Path, place: Place, retries: int, reports: bool, pairs: list[Pair]) -> dict[Any, Pair]:
    options = {"retries": retries, "pure": False, "resources": GPU if place.gpu else None}
    return {
        found.submit(register_pair, pair.name, pair.job.to_dict(), str(folder), reports, **options): pair
        for pair in pairs
    }


def _collect(futures: dict[Any, Pair], add: Callable[[Row], None]) -> list[Pair]:
    """Hand over each pair's row as it comes; the pairs that are left without one, as their workers died.

    Raises `UserError` (code `cluster`) where the scheduler is lost.
    """
    from distributed import as_completed

    killed = []
    try:
        for future in as_completed(futures):
            pair = futures[future]
            row, error = _outcome(future)
            if error is None:
                add(row)
            elif type(error).__name__ == "KilledWorker":
                killed.append(pair)
            else:
                add({"name": pair.name, "state": "failed", "error": f"It failed unexpectedly ({error})."})
            future.release()
    finally:
        with contextlib.suppress(Exception):
            for future in futures:
                future.cancel()
    return killed


def _outcome(future: Any) -> tuple[Row | None, BaseException | None]:
    """The row that a task ended with, or its error. Raises `UserError` (code `cluster`) where the scheduler is lost."""
    try:
        if future.status == "finished":
            return future.result(), None
        if future.status == "error":
            return None, future.exception()
    except Exception as error:  # of the connection: the task's own would be its outcome
        raise _lost() from error
    raise _lost()


def _lost() -> UserError:
    hint = "Start the scheduler, and run the same command again."
    return UserError("cluster", "The scheduler was lost; what is done is kept.", hint)
