"""A signal in plain Python: Qt signals cannot be defined in Python under Slicer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls every connected function, in order, when emitted. Keeps bound methods' objects alive."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call `slot` at every `emit` from now on."""
        self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        """Stop calling `slot`. Raises `ValueError` where it is not connected."""
        self._slots.remove(slot)

    def emit(self, *arguments: Any) -> None:
        """Call all slots; one may disconnect itself or others meanwhile."""
        for slot in list(self._slots):
            if slot in self._slots:
                slot(*arguments)
