"""`inrreg cohort`: the options, the live table and the files at the end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from inrreg import protocol
from inrreg.protocol import UserError, assignments

if TYPE_CHECKING:
    from inrreg.cohort.cluster import Place

_err = Console(stderr=True, highlight=False, emoji=False)
_SHOWN = 8
"""Rows of the live table: those that came last."""

SchedulerOption = Annotated[str, typer.Option(metavar="ADDRESS", help="A running Dask scheduler: tls://host:8786.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Allow a scheduler elsewhere without TLS.")]
SlurmOption = Annotated[bool, typer.Option("--slurm", help="Start the workers as jobs of SLURM.")]
SlurmOptions = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of dask_jobqueue.SLURMCluster: queue=gpu, cores=4.")
]
GpuOption = Annotated[bool, typer.Option("--gpu", help="Only on workers with the resource GPU, one pair each.")]


def cohort(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="CSV: name, fixed, moving, ..., set:KEY.")],
    output: Annotated[Path, typer.Option(help="Folder for all results; what is done there is kept.", metavar="DIR")],
    preset: Annotated[str, typer.Option(help="Where the manifest says nothing.")] = protocol.DEFAULT_PRESET,
    device: Annotated[str, typer.Option(help="Where the manifest says nothing.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each pair, 0 for an even share.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Pairs at a time, here or in SLURM; 0 for one for each 4 cores.")] = 0,
    scheduler: SchedulerOption = "",
    insecure: InsecureOption = False,
    slurm: SlurmOption = False,
    slurm_option: SlurmOptions = None,
    gpu: GpuOption = False,
    reports: Annotated[bool, typer.Option(help="A report for each pair.")] = True,
    retries: Annotated[int, typer.Option(help="Further tries of a pair that failed for no reason of its own.")] = 1,
) -> None:
    """Register many pairs: a manifest's rows, on this computer or a cluster. Run again to go on."""
    from inrreg.cohort.manifest import read_manifest
    from inrreg.cohort.run import run

    cores = os.cpu_count() or 1
    count = workers if workers > 0 else max(1, cores // 4)
    place = place_of(count, scheduler, insecure, slurm, slurm_option, gpu, retries)
    if threads < 1 and not scheduler:
        threads = max(1, cores // count) if place.slurm is None else place.slurm.get("cores", 1)
    defaults = {"preset": preset, "device": device, "threads": threads, "overrides": assignments(set_ or [])}
    pairs = read_manifest(manifest, defaults)
    table = LiveTable(len(pairs))
    try:
        with table.shown(_err):
            rows = run(pairs, output, place, retries=retries, reports=reports, told=table.add)
    finally:
        if table.rows:
            write(table.rows, output)
    write(rows, output)
    failed = [row for row in rows if row["state"] == "failed"]
    kept = sum(row["state"] == "kept" for row in rows)
    _err.print(f"{len(rows) - len(failed)} pairs done, {kept} of them before; {len(failed)} failed.", soft_wrap=True)
    for row in failed[:_SHOWN]:
        _err.print(f"[red]{escape(row['name'])}:[/red] {escape(row['error'])}", soft_wrap=True)
    _err.print(f"Summary in {escape(str(output / 'cohort.html'))}.", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def place_of(
    workers: int, scheduler: str, insecure: bool, slurm: bool, slurm_option: list[str] | None, gpu: bool, deaths: int
) -> Place:
    """What the options say of where to compute. Raises `UserError` (code `cluster`) where they contradict."""
    from inrreg.cohort.cluster import Place

    if scheduler and slurm:
        raise UserError("cluster", "It is computed on a scheduler or in SLURM.", "Give --scheduler or --slurm.")
    options = _numbers(assignments(slurm_option or [])) if slurm else None
    return Place(workers, scheduler, insecure, gpu, deaths, options)


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """The summary's files."""
    from inrreg.cohort.summary import write_csv, write_html

    write_csv(rows, folder / "cohort.csv")
    try:
        write_html(rows, folder / "cohort.html")
    except UserError as error:
        if error.code != "package":
            raise
        _err.print(f"No summary page: {escape(str(error))}", soft_wrap=True)


def _numbers(options: dict[str, str]) -> dict[str, Any]:
    """Options whose values are whole numbers as such."""
    return {name: int(value) if value.isdigit() else value for name, value in options.items()}


class LiveTable:
    """What is done and what came last, for a terminal."""

    def __init__(self, count: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self._count, self._start = count, time.monotonic()

    def shown(self, console: Console) -> Live:
        """A context in which the table is on the screen."""
        return Live(self, console=console, refresh_per_second=4, transient=True)

    def add(self, row: dict[str, Any]) -> None:
        """A pair has come to its end."""
        self.rows.append(row)

    def __rich__(self) -> Group:
        states = [row["state"] for row in self.rows]
        new = states.count("done") + states.count("failed")
        left = (self._count - len(states)) * (time.monotonic() - self._start) / new if new else None
        text = f"{len(states)} of {self._count}, {states.count('failed')} failed"
        text += f", {left / 60:.0f} min left" if left is not None else ""
        table = Table(box=None)
        for heading in ("pair", "state", "s", "TRE mm", "det <= 0"):
            table.add_column(heading, justify="left" if heading in ("pair", "state") else "right")
        for row in self.rows[-_SHOWN:]:
            figures = [
                "-" if row.get(name) is None else form.format(row[name])
                for name, form in (("seconds", "{:.1f}"), ("tre", "{:.2f}"), ("folding", "{:.3%}"))
            ]
            table.add_row(escape(row["name"]), row["state"], *figures)
        return Group(text, ProgressBar(self._count, len(states)), table)
