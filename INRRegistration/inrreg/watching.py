"""How a command watches a long piece of work: under a progress bar or as events, ended politely by Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from inrreg.protocol import Message, UserError

FAILURES = ("diverged", "memory", "gpu-memory")
"""Codes of errors that are no fault of the call or its input."""

Emit = Callable[[str, dict[str, Any]], None]
Cancelled = Callable[[], bool]
Work = Callable[[Emit, Cancelled], dict[str, Any]]
"""Takes `emit` and `cancelled` as `inrreg.registration.register` does."""

_err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class _Interrupt:
    """Ctrl-C as a polite request first, so that a run ends between steps; the second one is not asked."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupt:
        self.previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def under_bar(work: Work) -> dict[str, Any]:
    """What the work gives, done under a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn

    from inrreg.optimization import Cancelled

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TextColumn("loss {task.fields[loss]}  {task.fields[left]}")]
    with Progress(*columns, console=_err, transient=True) as bar, _Interrupt() as interrupt:
        task = bar.add_task("reading", total=None, loss="-", left="")

        def show(kind: str, data: dict[str, Any]) -> None:
            if kind == "progress":
                fields = {"loss": f"{data['loss']:.4f}", "left": f"{data['eta']:.0f} s left"}
                bar.update(task, description=data["stage"], completed=data["step"], total=data["steps"], **fields)
            elif kind == "warning":
                _err.print(f"Warning: {escape(data['message'])}")

        try:
            return work(show, lambda: interrupt.asked)
        except (Cancelled, KeyboardInterrupt):
            _err.print("Cancelled.")
            raise typer.Exit(130) from None


def as_events(work: Work, result: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do the work with its events as JSON lines on stdout, the last one of `result`; ends with the exit code."""
    stdout = sys.stdout

    def tell(kind: str, data: dict[str, Any]) -> None:
        print(Message(kind, data, job="job").encode(), file=stdout, flush=True)

    def fail(code: str, message: str, hint: str) -> None:
        tell("error", {"code": code, "message": message, "hint": hint})

    try:
        with contextlib.redirect_stdout(sys.stderr), _Interrupt() as interrupt:  # for what libraries print
            try:
                done = work(tell, lambda: interrupt.asked)
            except Exception as error:
                if type(error).__name__ == "Cancelled":
                    raise KeyboardInterrupt from None
                raise
        tell("result", result(done))
    except UserError as error:
        fail(error.code, error.message, error.hint)
        raise typer.Exit(1 if error.code in FAILURES else 2) from None
    except KeyboardInterrupt:
        tell("cancelled", {})
        raise typer.Exit(130) from None
    except Exception as error:
        fail("failed", f"The registration failed ({type(error).__name__}: {error}).", "See the text on stderr.")
        raise
