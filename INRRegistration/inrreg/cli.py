"""The command `inrreg`. Exit codes: 0 done, 1 it failed, 2 the call or its input is wrong, 130 cancelled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inrreg import protocol
from inrreg.cohort.command import cohort
from inrreg.datasets.command import benchmark
from inrreg.protocol import SIMILARITY, Job, UserError, assignments
from inrreg.series_command import series, with_options_of
from inrreg.training.command import train_prior
from inrreg.watching import FAILURES, Cancelled, Emit, as_events, under_bar

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deformable image registration with implicit neural representations. For research use.",
)
_out = Console(soft_wrap=True, highlight=False, emoji=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def _file(text: str) -> typer.models.OptionInfo:
    """A file that may be given."""
    return typer.Option(metavar="FILE", show_default=False, help=text)


ImageOption = Annotated[str, _file("For the figures that need it, and the report's pictures; else the job's own.")]
LabelsOption = Annotated[str, _file("Structures, numbered alike in both images: what the method compares, or judges.")]
LandmarksOption = Annotated[str, _file("Corresponding points, which judge the result; see `inrreg points`.")]
GuideOption = Annotated[str, _file("Corresponding points that pull the field towards each other.")]
MaskOption = Annotated[str, _file("What is compared; or auto: the body; lungs: the lungs of a CT.")]
TransformOption = Annotated[
    str, typer.Option("--transform", metavar="DIR_OR_FILE", help="A result folder or a transform file.")
]

AlphaOption = Annotated[
    float | None, typer.Option(help="Strength of the regularization, 0 to 1, of a cidir result; else its own.")
]


TOLERANCE = typer.Option("--tolerance", metavar="KEY=VALUE", help="Change a tolerance of the verdict: tre_mean=3.")


app.command()(cohort)
app.command()(benchmark)
app.command()(train_prior)


def main() -> NoReturn:
    """Run the command; every error ends in one sentence and its exit code."""
    try:
        sys.exit(app(standalone_mode=True) or 0)
    except UserError as error:
        _err.print(f"[red]Error:[/red] {escape(error.message)} {escape(error.hint)}".rstrip())
        sys.exit(2 if error.code not in FAILURES else 1)
    except KeyboardInterrupt:
        _err.print("Cancelled.")
        sys.exit(130)
    except OSError as error:
        _err.print(f"[red]Error:[/red] {escape(str(error))}. Check the path, its permissions and the free space.")
        sys.exit(1)
    except MemoryError:
        _err.print("[red]Error:[/red] There is too little memory. Close other programs, or use fewer points.")
        sys.exit(1)


@app.command()
def register(
    fixed: Annotated[str, typer.Option(help="Fixed image.", metavar="FILE")],
    moving: Annotated[str, typer.Option(help="Moving image.", metavar="FILE")],
    output: Annotated[Path, typer.Option(help="Folder for the result.", metavar="DIR")],
    preset: Annotated[str, typer.Option(help="See `inrreg presets`.")] = protocol.DEFAULT_PRESET,
    fixed_mask: MaskOption = "",
    moving_mask: MaskOption = "",
    fixed_labels: LabelsOption = "",
    moving_labels: LabelsOption = "",
    fixed_landmarks: LandmarksOption = "",
    moving_landmarks: LandmarksOption = "",
    guide_fixed: GuideOption = "",
    guide_moving: GuideOption = "",
    sliding: Annotated[str, _file("A mask of the fixed image whose border may slide.")] = "",
    rigid: Annotated[str, _file("Labels of the fixed image's rigid structures.")] = "",
    exclude: Annotated[str, _file("A mask of the fixed image that is not compared.")] = "",
    initial_transform: Annotated[str, _file("From fixed to moving, as SimpleITK reads it: where to begin.")] = "",
    prior: Annotated[str, _file("What `inrreg train-prior` wrote, for reindir.")] = "",
    prealign: Annotated[str, typer.Option(help="none, rigid or affine.")] = "none",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for the library's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, machine and threads: same result.")] = 0,
    time_budget: Annotated[float, typer.Option(help="Seconds that the optimization may take, 0 for no limit.")] = 0.0,
    ensemble: Annotated[
        int, typer.Option(help="Seeds to run: the median of their fields, with its uncertainty.", metavar="N")
    ] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the preset.")
    ] = None,
    tolerance: Annotated[list[str] | None, TOLERANCE] = None,
    json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on stdout.")] = False,
) -> None:
    """Register a moving image to a fixed one."""
    job = lambda: Job(  # noqa: E731 - built inside, so that --json reports its errors too
        fixed=fixed,
        moving=moving,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        fixed_landmarks=fixed_landmarks,
        moving_landmarks=moving_landmarks,
        guide_fixed=guide_fixed,
        guide_moving=guide_moving,
        sliding=sliding,
        rigid=rigid,
        exclude=exclude,
        initial_transform=initial_transform,
        prior=prior,
        prealign=prealign,
        preset=preset,
        overrides=assignments(set_ or []),
        tolerances=assignments(tolerance or []),
        device=device,
        threads=threads,
        seed=seed,
        time_budget=time_budget,
        ensemble=ensemble,
    )

    def run(emit: Emit, cancelled: Cancelled) -> dict[str, Any]:
        made = job()
        from inrreg.registration import register

        return register(made, output, emit=emit, cancelled=cancelled)

    if json:
        as_events(run, lambda metrics: {"folder": str(output), "metrics": metrics})
    else:
        metrics = under_bar(run)
        _out.print(metrics_table(metrics))
        _out.print(verdict_table(metrics["verdict"]))
        _out.print(f"Result in {escape(str(output))} after {metrics['seconds']:.1f} s.")


app.command()(with_options_of(register, series))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the result.", metavar="DIR")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A coarser phantom.")] = False,
) -> None:
    """Generate a thorax in two respiratory states, register it, and report the result against the truth."""
    from inrreg.deformation import load_transform
    from inrreg.demo import write_phantom
    from inrreg.evaluation import located
    from inrreg.pictures import overview
    from inrreg.registration import register
    from inrreg.report import check_packages, write_report

    check_packages()
    with _err.status("Generating the phantom"):
        job = write_phantom(output / "phantom", quick=quick)
    metrics = under_bar(lambda emit, cancelled: register(job, output / "result", emit=emit, cancelled=cancelled))
    with _err.status("Drawing"):
        overview(job, output / "result", output / "overview.png")
        report = output / "report.html"
        write_report(report, metrics, load_transform(output / "result"), job, located(job, {}, output / "result"))
    _out.print(metrics_table(metrics))
    _out.print(verdict_table(metrics["verdict"]))
    _out.print(f"Registered in {metrics['seconds']:.1f} s. Report: {escape(str(report))}")


@app.command()
def points(
    transform: TransformOption,
    input: Annotated[Path, typer.Option(help="Points file.", metavar="P")],
    output: Annotated[Path, typer.Option(help="Points file.", metavar="P")],
    inverse: Annotated[bool, typer.Option("--inverse", help="Moving to fixed.")] = False,
    alpha: AlphaOption = None,
    reference: Annotated[
        str, typer.Option(help="The image whose voxels a DIR-Lab text file counts.", metavar="FILE")
    ] = "",
) -> None:
    """Map points from the fixed image to the moving one."""
    import numpy as np

    from inrreg.deformation import load_transform
    from inrreg.images import read_image
    from inrreg.landmarks import read_points, write_points
    from inrreg.transforms import invert

    source = read_points(input, read_image(reference, "reference") if reference else None)
    mapping = load_transform(transform, alpha)
    if inverse:
        mapped = invert(mapping, source.positions)
        error = np.linalg.norm(mapping.map(mapped) - source.positions, axis=1)
        if (error > 0.1).any():
            worst = f"worst by {error.max():.2f} mm"
            _err.print(f"Warning: {int((error > 0.1).sum())} points have no exact inverse, {worst}.")
    else:
        mapped = mapping.map(source.positions)
    write_points(output, source.moved(mapped))


@app.command()
def warp(
    transform: TransformOption,
    moving: Annotated[str, typer.Option(help="Moving image.", metavar="FILE")],
    reference: Annotated[str, typer.Option(help="Image whose grid the result gets.", metavar="FILE")],
    output: Annotated[Path, typer.Option(help="Warped image.", metavar="FILE")],
    labels: Annotated[bool, typer.Option("--labels", help="Nearest neighbour, for label images.")] = False,
    alpha: AlphaOption = None,
) -> None:
    """Resample a moving image onto the fixed image's grid."""
    from inrreg.deformation import load_transform
    from inrreg.geometry import Grid
    from inrreg.images import read_header, read_scalar, write_image
    from inrreg.warping import warp as resample

    grid = Grid.of(read_header(reference, "reference image"))
    image = read_scalar(moving, "moving image")
    write_image(resample(image, load_transform(transform, alpha), grid, labels=labels), output)


@app.command()
def export(
    transform: Annotated[Path, typer.Option(metavar="DIR", help="A result folder.")],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help=".h5, .tfm, .nrrd, .nii.gz or .dcm; without ending, the model.")
    ],
    part: Annotated[
        str, typer.Option(help="whole, prealignment, initial, deformable; of the dual method also coarse and fine.")
    ] = "whole",
    inverse: Annotated[bool, typer.Option("--inverse", help="Moving to fixed, as a displacement field.")] = False,
    spacing: Annotated[
        float, typer.Option(help="Largest spacing in mm, 0 for the coarsest with an error below half a voxel.")
    ] = 0.0,
    fixed_dicom: Annotated[str, typer.Option(help="Series of the fixed image, for .dcm.", metavar="DIR")] = "",
    moving_dicom: Annotated[str, typer.Option(help="Series of the moving image, for .dcm.", metavar="DIR")] = "",
    alpha: AlphaOption = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Write a result, its inverse or a part of it as a transform that other programs read."""
    from inrreg.deformation import Deformation
    from inrreg.dicom import Series
    from inrreg.export import export as write
    from inrreg.export import export_model, points_in
    from inrreg.parts import is_prealigned

    if not output.suffix:
        if inverse or spacing or part != "whole" or fixed_dicom or moving_dicom or alpha is not None:
            raise UserError("output", "The model is exported as it is.", "Give only --transform and --output.")
        export_model(transform, output)
        _out.print(f"Model in {escape(str(output))}.")
        return
    deformation = Deformation.load(transform, alpha)
    job = Job.from_dict(protocol.read_json(transform / "job.json")) if (transform / "job.json").is_file() else None
    folders = {"fixed": fixed_dicom, "moving": moving_dicom}
    figures = write(
        deformation,
        output,
        part=part,
        prealigned=is_prealigned(transform),
        inverse=inverse,
        spacing=spacing or None,
        series=tuple(Series.read(folder, name) for name, folder in folders.items()) if all(folders.values()) else None,
        mask=points_in(job.fixed_mask) if inverse and job and Path(job.fixed_mask).is_file() else None,
    )
    if json:
        _out.print_json(data=figures)
    else:
        for line in _described(figures):
            _out.print(line)
        _out.print(f"Transform in {escape(str(output))}.")
    error = figures.get("interpolation_error", figures.get("return_error", {}).get("max", 0.0))
    if error > figures["limit"]:
        _err.print(f"Warning: the error of {error:.2f} mm is above {figures['limit']:.2f} mm.")


@app.command()
def jacobian(
    transform: TransformOption,
    reference: Annotated[str, typer.Option(help="Image whose grid the map gets: the fixed one.", metavar="FILE")],
    output: Annotated[Path, typer.Option(help="Map of determinants.", metavar="FILE")],
    alpha: AlphaOption = None,
) -> None:
    """Map the local change of volume, moving over fixed: above 1 where the tissue is larger in the moving image."""
    from inrreg.deformation import load_transform
    from inrreg.geometry import Grid
    from inrreg.images import read_header, write_image
    from inrreg.volume_change import volume_change

    grid = Grid.of(read_header(reference, "reference image"))
    write_image(volume_change(load_transform(transform, alpha), grid), output)


@app.command()
def evaluate(
    transform: TransformOption,
    fixed: ImageOption = "",
    moving: ImageOption = "",
    fixed_mask: MaskOption = "",
    fixed_labels: LabelsOption = "",
    moving_labels: LabelsOption = "",
    fixed_landmarks: LandmarksOption = "",
    moving_landmarks: LandmarksOption = "",
    alpha: AlphaOption = None,
    tolerance: Annotated[list[str] | None, TOLERANCE] = None,
    report: Annotated[
        Path | None, typer.Option(help="A report with pictures, in one file.", metavar="FILE.html")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Target registration error, overlap of structures and regularity of a transform."""
    from inrreg.deformation import load_transform
    from inrreg.evaluation import doubts, located, of_transform

    if report:
        from inrreg.report import check_ending, check_packages, write_report

        check_packages()
        check_ending(report)
    for name, one, other in (
        ("labels", fixed_labels, moving_labels),
        ("landmarks", fixed_landmarks, moving_landmarks),
    ):
        if bool(one) != bool(other):
            raise UserError("evaluate", f"Fixed and moving {name} are needed together.", "Give both or neither.")
    files = {
        "fixed": fixed,
        "moving": moving,
        "fixed_mask": fixed_mask,
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_landmarks": fixed_landmarks,
        "moving_landmarks": moving_landmarks,
    }
    made_by = Path(transform) / "job.json"
    job = Job.from_dict(protocol.read_json(made_by)) if made_by.is_file() else None
    mapping, result = load_transform(transform, alpha), Path(transform) if job else None
    metrics = of_transform(mapping, job, files, result=result, tolerances=assignments(tolerance or []))
    files = located(job, files, result)
    if report:
        write_report(report, metrics, mapping, job, files)
        if not {"fixed", "moving"} <= files.keys():
            _err.print("Warning: The report has no pictures: name both images by --fixed and --moving.")
    if json:
        _out.print_json(data=metrics)
    else:
        for _, sentence in doubts(metrics):
            _err.print(f"Warning: {escape(sentence)}")
        _out.print(metrics_table(metrics))
        _out.print(verdict_table(metrics["verdict"]))


@app.command()
def presets() -> None:
    """The presets, where each comes from and what it is for."""
    table = Table(box=None)
    for heading in ("preset", "for", "source"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "preset")
    for name, preset in protocol.presets().items():
        table.add_row(f"{name} (default)" if name == protocol.DEFAULT_PRESET else name, preset.purpose, preset.source)
    Console(highlight=False).print(table)


def metrics_table(metrics: dict[str, Any]) -> Table:
    """The figures of a registration for a terminal."""
    table = Table(box=None, title="Figures of this registration", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    if similarity := metrics.get("similarity"):
        name = SIMILARITY[similarity.get("used", "ncc")]
        table.add_row(name, f"{similarity['before']:.3f}", f"{similarity['after']:.3f}")
    if (marks := metrics.get("landmarks")) and "after" in marks:
        for key, name in (("mean", "mean"), ("p95", "95th percentile"), ("max", "largest")):
            before, after = marks["before"][key], marks["after"][key]
            table.add_row(f"target registration error, {name} (mm)", f"{before:.2f}", f"{after:.2f}")
        if snapped := marks.get("after_snapped"):
            table.add_row("target registration error, voxel-snapped mean (mm)", "", f"{snapped['mean']:.2f}")
    if labels := metrics.get("labels"):
        for label in labels["after"]:
            rows = [labels[name].get(label, {"dice": 0.0}) for name in ("before", "after")]
            table.add_row(f"Dice, label {label}", *(f"{row['dice']:.3f}" for row in rows))
            distances = ("-" if row.get("hd95") is None else f"{row['hd95']:.2f}" for row in rows)
            table.add_row(f"HD95, label {label} (mm)", *distances)
            distances = ("-" if row.get("mda") is None else f"{row['mda']:.2f}" for row in rows)
            table.add_row(f"mean distance to agreement, label {label} (mm)", *distances)
    for where, name in (("mask", "in the mask"), ("whole", "whole field")):
        if values := metrics.get("jacobian", {}).get(where):
            table.add_row(f"Jacobian determinant, smallest, {name}", "", f"{values['min']:.3f}")
            table.add_row(f"Jacobian determinant <= 0, {name}", "", f"{values['folding']:.3%}")
            table.add_row(f"SD of its logarithm, {name}", "", f"{values['sd_log']:.3f}")
    if inverse := metrics.get("inverse"):
        table.add_row("inverse consistency, 99th percentile (mm)", "", f"{inverse['p99']:.3f}")
    if values := metrics.get("uncertainty"):
        for key, name in (("mean", "mean"), ("p95", "95th percentile")):
            table.add_row(f"uncertainty, {name} (mm)", "", f"{values[key]:.2f}")
    return table


def verdict_table(verdict: dict[str, Any]) -> Table:
    """The checks of `inrreg.verdict` for a terminal."""
    table = Table(box=None, title="Checks after AAPM TG-132", title_justify="left", caption=verdict["notice"])
    for heading in ("", "figure", "tolerance", ""):
        table.add_column(heading)
    for check in verdict["checks"]:
        title = f"{check['title']} ({check['detail']})"
        table.add_row(escape(title), check["text"], check["bound"], check["state"])
    return table


def _described(figures: dict[str, Any]) -> list[str]:
    """What an export costs, in words."""
    lines = []
    if "size" in figures:
        size, spacing = " x ".join(map(str, figures["size"])), " x ".join(f"{mm:.3g}" for mm in figures["spacing"])
        lines.append(f"{size} vectors, {spacing} mm apart.")
    if "interpolation_error" in figures:
        beyond = f", beyond it {figures['error_beyond']:.3f} mm" if "error_beyond" in figures else ""
        lines.append(f"Largest error in the fixed image {figures['interpolation_error']:.3f} mm{beyond}.")
    for key, where in (("return_error", "in the fixed image"), ("in_mask", "in its mask")):
        if error := figures.get(key):
            parts = f"mean {error['mean']:.3f}, 99th percentile {error['p99']:.3f}, largest {error['max']:.3f} mm"
            lines.append(f"There and back {where}: {parts}.")
    return lines
