"""Every pair of the evaluation data and the lung CT under known fields: our methods beside elastix and ANTs.

    python -m benchmarks.run [--kinds liver,lung] [--methods fast,elastix,syn] [--seeds 0,1,2] [--output DIR]

All in one run, with equal threads, each measurement in a process of its own (see `benchmarks.measure`); no method
sees landmarks or masks. Target registration errors are continuous, in mm: at the expert landmarks, inside and outside
the liver, and at 300 random points of the lung. Ours run with each seed, of which the mean and the worst are told, the
peers once. Prints tables, writes run.json and for each kind a plot of the error over time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.data import liver_pairs
from benchmarks.known import lung_pairs
from benchmarks.measure import in_own_process, save
from inrreg import protocol

KINDS = {"liver": liver_pairs, "lung": lung_pairs}
Rows = list[dict[str, Any]]
COLUMNS = (
    ("inside", "inside", ".2f"),
    ("outside", "outside", ".2f"),
    ("overall", "overall", ".2f"),
    ("worst", "worst seed", ".2f"),
    ("seconds", "seconds", ".1f"),
    ("of_elastix", "of elastix", ".2f"),
    ("memory", "GiB", ".2f"),
    ("folding", "det <= 0", ".3%"),
    ("sd_log", "SD log det", ".3f"),
)
"""Figure, its head in the tables, how it is printed; millimetres for the errors."""


def summarize(rows: Rows) -> Rows:
    """The mean over seeds of each method on each pair, and under the pair's name 'mean' over pairs as well."""
    summaries = []
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    for pair in [*pairs, "mean"]:
        of_pair = [row for row in rows if pair in ("mean", row["pair"])]
        elastix = [row["seconds"] for row in of_pair if row["method"] == "elastix"]
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in of_pair if row["method"] == method]
            names = [name for name, value in own[0].items() if isinstance(value, float)]
            figures = {name: float(np.mean([row[name] for row in own])) for name in names}
            by_seed = [[row["overall"] for row in own if row["seed"] == seed] for seed in {row["seed"] for row in own}]
            figures["worst"] = max(float(np.mean(errors)) for errors in by_seed)
            if elastix:
                figures["of_elastix"] = figures["seconds"] / float(np.mean(elastix))
            summaries.append({"pair": pair, "method": method, **figures})
    return summaries


def table(summaries: Rows) -> str:
    """One line for each method on each pair, then the means over pairs."""
    columns = [column for column in COLUMNS if any(column[0] in row for row in summaries)]
    lines = [f"{'pair':8}{'method':14}" + "".join(f"{head:>12}" for _, head, _ in columns)]
    for row in summaries:
        cells = (format(row[key], form) if key in row else "-" for key, _, form in columns)
        lines.append(f"{row['pair']:8}{row['method']:14}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def plot(summaries: Rows, curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    """Overall error over time, mean over pairs; the peers have no course, only an end."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).add_subplot()
    for method, pairs in curves.items():
        first, last = max(points[0][0] for points in pairs), max(points[-1][0] for points in pairs)
        times = np.linspace(first, max(first, last), 200)
        errors = np.mean([np.interp(times, *zip(*points, strict=True)) for points in pairs], 0)
        axes.plot(times, errors, label=method)
    for row in summaries:
        if row["pair"] == "mean" and row["method"] in peers.TOOLS:
            axes.plot(row["seconds"], row["overall"], "o", label=row["method"])
    axes.set(xlabel="seconds", ylabel="overall target registration error (mm)", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


def measure_kind(folders: list[Path], methods: list[str], seeds: list[int], threads: int) -> Rows:
    """All measurements on the pairs of one kind, told as they come; the methods take turns."""
    rows = []
    for folder in folders:
        for method in methods:
            for seed in seeds[:1] if method in peers.TOOLS else seeds:
                rows.append(row := in_own_process(folder, method, seed, threads))
                print(
                    f"{row['pair']:8}{method:14}seed {seed}: {row['overall']:.2f} mm in {row['seconds']:.1f} s,"
                    f" {row['memory']:.2f} GiB, det <= 0 {row['folding']:.3%}",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--methods", default="fast,idir-light,dual-light,elastix,syn")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    parser.add_argument("--no-curves", action="store_true", help="leave out the runs behind the plots")
    options = parser.parse_args()
    methods, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folders = [save(pair, Path(scratch)) for pair in KINDS[kind]()]
            rows = measure_kind(folders, methods, seeds, options.threads)
            print(table(summaries := summarize(rows)), flush=True)
            curves = {
                method: [
                    in_own_process(folder, method, seeds[0], options.threads, curve=True)["curve"] for folder in folders
                ]
                for method in methods
                if method not in peers.TOOLS and not options.no_curves
            }
        found[kind] = {"rows": rows, "summaries": summaries, "curves": curves}
        protocol.write_json(options.output / "run.json", {"threads": options.threads, **found})
        if curves:
            plot(summaries, curves, options.output / f"{kind}.png")


if __name__ == "__main__":
    main()
