"""Memory that runs out: what libraries call it, evaluations in chunks that become smaller, and giving it back.

Importing this needs the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from inrreg.protocol import UserError

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1 << 10
"""Points in the smallest chunk: where not even that many can be evaluated, fewer will not help."""

_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "allocate memory",
    "bad_alloc",
    "bad allocation",
)


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy, torch or ITK says that there is too little memory."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(w in text for w in _WORDS)
    )


def exhausted(error: BaseException) -> UserError:
    """What to tell the user about such an exception."""
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in str(error):
        hint = "Choose the CPU as device, close other programs that use the GPU, or use smaller images."
        return UserError("gpu-memory", "The graphics card has too little free memory for this registration.", hint)
    hint = "Close other programs, or crop or resample the images."
    return UserError("memory", "The computer has too little free memory for this registration.", hint)


def in_chunks(function: Callable[[Tensor], Tensor], points: Tensor, most: int) -> Tensor:
    """`function` of points (N, ...), row by row the same, from at most `most` of them at once.

    Where memory runs out the chunks are halved, down to `LEAST`; then the exception is raised.
    """
    import torch

    done: list[Tensor] = []
    first = 0
    while first < len(points) or not done:
        part = points[first : first + most]
        try:
            done.append(function(part))
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error) or most <= LEAST:
                raise
            most //= 2
        else:
            first += max(1, len(part))
    return torch.cat(done)


def give_back() -> None:
    """Return to the system what a task has left behind: cycles, a GPU's cached blocks, free pages of the C heap."""
    gc.collect()
    # No step of tidying up is a reason to end; and glibc alone keeps what it was given.
    with contextlib.suppress(Exception):
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).malloc_trim(0)
