"""`inrreg series`: many images onto one, each begun where the one before it ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inrreg.protocol import AUTOMATIC_MASKS, Job, UserError, assignments
from inrreg.watching import Cancelled, Emit, as_events, under_bar

_out = Console(soft_wrap=True, highlight=False, emoji=False)

SINGLE = {"fixed", "moving", "output", "json", "prior", "guide_fixed", "guide_moving"}
SINGLE |= {f"{side}_{name}" for side in ("fixed", "moving") for name in ("labels", "landmarks")}
"""Options of `register` that are of a single pair, or that a series has in another form."""


def with_options_of(register: Callable[..., Any], command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which takes those of `register`'s options that hold for every image as `options`, by name."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    shared = [
        each for name, each in inspect.signature(register, eval_str=True).parameters.items() if name not in SINGLE
    ]

    def called(**values: Any) -> None:
        options = {each.name: values.pop(each.name) for each in shared}
        command(**values, options=options)

    called.__signature__ = inspect.Signature([*own, *shared])
    called.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


def series(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Fixed image.")],
    phases: Annotated[list[str], typer.Argument(metavar="PHASE...", help="The series' images, in their order.")],
    output: Annotated[Path, typer.Option(help="Folder for all results; what is done there is kept.", metavar="DIR")],
    landmarks: Annotated[
        str,
        typer.Option(metavar="FILE", show_default=False, help="Points of the reference, to follow through the series."),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Register a series, as a 4D CT's phases, to one reference, each image begun where the one before it ended."""

    def run(emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
        named = dict(options)
        changes = {"overrides": named.pop("set_"), "tolerances": named.pop("tolerance")}
        if named["moving_mask"] not in ("", *AUTOMATIC_MASKS):
            hint = f"Choose one of: {', '.join(AUTOMATIC_MASKS)}."
            raise UserError("mask", "One mask file cannot be that of every image of the series.", hint)
        changes = {name: assignments(texts or []) for name, texts in changes.items()}
        job = Job(fixed=reference, moving=phases[0], **named, **changes)
        from inrreg.series import register_series

        return register_series(job, phases, output, landmarks=landmarks, emit=emit, cancelled=cancelled)

    if json:
        as_events(run, lambda done: {"folder": str(output), "metrics": done})
        return
    done = under_bar(run)
    table = Table(box=None)
    for heading in ("phase", "image", "begun from", "similarity", "s"):
        table.add_column(heading, justify="right" if heading in ("similarity", "s") else "left")
    for phase in done["phases"]:
        name, image = phase["folder"] or "reference", escape(Path(phase["image"]).name)
        figures = (f"{phase['similarity']:.3f}", f"{phase['seconds']:.1f}") if phase["folder"] else ("", "")
        table.add_row(name + " (kept)" * phase["kept"], image, phase["start"], *figures)
    _out.print(table)
    _out.print(f"Results in {escape(str(output))}.")
