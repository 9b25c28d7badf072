"""`inrreg train-prior`: the options, the bar, and the files at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inrreg.cohort.command import (
    GpuOption,
    InsecureOption,
    SchedulerOption,
    SlurmOption,
    SlurmOptions,
    place_of,
)
from inrreg.protocol import UserError, assignments

_err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def train_prior(
    output: Annotated[Path, typer.Option(help="The prior; its plot gets the same name.", metavar="FILE")],
    manifests: Annotated[
        list[Path] | None, typer.Argument(metavar="MANIFEST", help="CSV as for `cohort`, one for each set of pairs.")
    ] = None,
    kind: Annotated[str, typer.Option(help="reindir; reptile: no encoder; average: of solved networks.")] = "reindir",
    phantoms: Annotated[int, typer.Option(metavar="N", help="Generate N pairs beside the output, as a set.")] = 0,
    held_out: Annotated[float, typer.Option(help="Share of the pairs that judge instead of training.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, draws, scales and what is held out.")] = 0,
    device: Annotated[str, typer.Option(help="Where the manifest says nothing.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each pair, 0 for the library's choice.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the training.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Pairs at a time, here or in SLURM, in processes of their own.")] = 1,
    scheduler: SchedulerOption = "",
    insecure: InsecureOption = False,
    slurm: SlurmOption = False,
    slurm_option: SlurmOptions = None,
    gpu: GpuOption = False,
) -> None:
    """Learn from many pairs where `reindir` starts. Run again to go on from the last checkpoint."""
    from inrreg.cohort.manifest import read_manifest
    from inrreg.training.computer import here, on_cluster
    from inrreg.training.plot import write_plot
    from inrreg.training.run import Training
    from inrreg.training.settings import TrainingSettings

    settings = TrainingSettings().override(assignments(set_ or []))
    if not 0 <= held_out < 1:
        raise UserError("prior", "The share that is held out must lie from 0 to below 1.", "Give --held-out 0.1.")
    if not output.resolve().parent.is_dir():
        raise UserError("output", f"There is no folder {output.parent}.", "Choose another output.")
    if output.is_dir():
        raise UserError("output", f"{output} is a folder.", "Give --output NAME.safetensors.")
    if output.suffix == ".png":
        raise UserError("output", "The plot gets this name.", "Give --output NAME.safetensors.")
    paths = list(manifests or [])
    if phantoms > 0:
        paths.append(_phantoms(output, phantoms, seed))
    if not paths:
        raise UserError("manifest", "There is nothing to train on.", "Give a manifest, or --phantoms N.")
    overrides = {"similarity": settings.similarity}
    defaults = {"preset": "reindir", "device": device, "threads": threads, "overrides": overrides}
    place = place_of(max(1, workers), scheduler, insecure, slurm, slurm_option, gpu, 1)
    bar = _Bar()

    def train(compute: Any) -> Any:
        sets = [read_manifest(path, defaults) for path in paths]
        share = {"held_out": held_out, "compute": compute, "told": bar.told}
        return Training(sets, output, kind, settings, seed=seed, **share).run()

    with bar:
        if workers > 1 or scheduler or slurm:
            with on_cluster(place) as compute:
                prior = train(compute)
        else:
            prior = train(here)
    _err.print(f"Prior in {escape(str(output))}.")
    if prior.about["history"]:
        _err.print(f"Zero-shot error of held-out pairs: {_figure(*prior.about['history'][-1], prior.about['unit'])}")
        try:
            write_plot(prior, output.with_suffix(".png"))
        except UserError as error:
            _err.print(f"No plot: {escape(str(error))}")


def _phantoms(output: Path, count: int, seed: int) -> Path:
    from inrreg.training.phantoms import write_phantoms

    folder = output.with_name(output.name + ".phantoms")
    with _err.status("Generating phantoms"):
        return write_phantoms(folder, count, seed)


def _figure(step: int, error: float, unit: str) -> str:
    return f"{error:.2f} mm after {step} steps." if unit == "mm" else f"dissimilarity {error:.3f} after {step} steps."


class _Bar:
    """What the training tells, on a terminal."""

    def __init__(self) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=_err, transient=True)
        self._task = self._progress.add_task("training", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def told(self, kind: str, data: dict[str, Any]) -> None:
        """As `inrreg.training.run.Told` has it."""
        if kind == "warning":
            _err.print(escape(data["message"]))
        elif kind == "look":
            _err.print(f"Zero-shot error of held-out pairs: {_figure(data['step'], data['error'], data['unit'])}")
        else:
            loss = "" if data["loss"] is None else f", loss {data['loss']:.3f}"
            self._progress.update(
                self._task, completed=data["step"], total=data["steps"], description=f"training{loss}"
            )
