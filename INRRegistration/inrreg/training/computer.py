"""Where the pairs of an outer step are computed: one after another in this process, or at once on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from inrreg.cohort.cluster import GPU, Place, client
from inrreg.prior import Prior
from inrreg.protocol import UserError
from inrreg.training.work import work

Call = tuple[Any, ...]
"""What `work` is given but for the prior: task, key, entries, settings, seed."""
Computer = Callable[[Prior, list[Call]], list[Any]]
"""The answers of `work` to calls, in their order, whatever the order in which they came."""


def here(prior: Prior, calls: list[Call]) -> list[Any]:
    """One after another."""
    return [work(task, prior, *rest) for task, *rest in calls]


@contextlib.contextmanager
def on_cluster(place: Place) -> Iterator[Computer]:
    """All at once on the workers of a place, which are given the prior once in a step.

    Computing raises `UserError` (code `cluster`) where the scheduler is lost, or workers die of a pair.
    """
    with client(place) as found:

        def compute(prior: Prior, calls: list[Call]) -> list[Any]:
            from distributed import as_completed

            numbers = {}
            try:
                sent = found.scatter(prior, broadcast=True, hash=False)
                options = {"pure": False, "retries": place.deaths, "resources": GPU if place.gpu else None}
                numbers = {
                    found.submit(work, task, sent, *rest, **options): number
                    for number, (task, *rest) in enumerate(calls)
                }
                answers = [None] * len(calls)
                for future in as_completed(numbers):
                    if future.status == "error":
                        raise _failed(future.exception())
                    if future.status != "finished":
                        raise _lost()
                    answers[numbers[future]] = future.result()
            except (OSError, TimeoutError) as error:
                raise _lost() from error
            finally:
                with contextlib.suppress(Exception):
                    for future in numbers:
                        future.cancel()
            return answers

        yield compute


def _lost() -> UserError:
    hint = "Start the scheduler, and run the same command again."
    return UserError("cluster", "The scheduler was lost; the last checkpoint is kept.", hint)


def _failed(error: BaseException) -> UserError:
    if type(error).__name__ == "KilledWorker":
        hint = "Use fewer points or a smaller patch, and run the same command again."
        return UserError("cluster", "The processes that computed a pair died, as they do without memory.", hint)
    return UserError("cluster", f"A pair failed unexpectedly ({type(error).__name__}: {error}).")
