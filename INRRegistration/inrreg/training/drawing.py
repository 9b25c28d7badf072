"""Which pairs an outer step takes: by number, so that a training that goes on takes those that it would have taken."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def _permutation(seed: int, which: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, which, epoch]).permutation(count).tolist())


def drawn(sets: list[list[int]], step: int, batch: int, seed: int) -> list[int]:
    """The `batch` pairs of an outer step, from the sets in turn; each set runs through in an order of its own, anew
    each time."""
    found = []
    for number in range(step * batch, (step + 1) * batch):
        which = number % len(sets)
        epoch, place = divmod(number // len(sets), len(sets[which]))
        found.append(sets[which][_permutation(seed, which, epoch, len(sets[which]))[place]])
    return found


def seed_of(seed: int, step: int, slot: int, batch: int) -> int:
    """What an inner loop's random numbers begin from."""
    return seed * 10_000_019 + step * batch + slot
