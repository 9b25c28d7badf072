"""`inrreg benchmark`: a public benchmark's pairs, registered as a cohort, beside the published figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from inrreg import protocol
from inrreg.protocol import Job, UserError, assignments, write_json

Rows = list[dict[str, Any]]


def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="dirlab or learn2reg.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder with the files as they are distributed.")],
    output: Annotated[Path, typer.Option(help="Folder for all results; what is done there is kept.", metavar="DIR")],
    cases: Annotated[str, typer.Option(help="Of DIR-Lab: 4dct, copd, or both; 4dct:1,8 for some cases.")] = "4dct,copd",
    presets: Annotated[str, typer.Option(help="One or more, with commas.")] = protocol.DEFAULT_PRESET,
    seeds: Annotated[str, typer.Option(help="One or more, with commas.")] = "0",
    masks: Annotated[str, typer.Option(help="lungs: found in the fixed image; none; given: the data's own.")] = "",
    device: str = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for the library's choice.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the presets.")
    ] = None,
    reports: Annotated[bool, typer.Option(help="A report for each pair.")] = True,
) -> None:
    """Register a public benchmark and print its table, with the papers' figures beside ours."""
    from inrreg.cohort.cluster import Place
    from inrreg.cohort.command import LiveTable, write
    from inrreg.cohort.manifest import Pair
    from inrreg.cohort.run import run
    from inrreg.datasets import dirlab, learn2reg

    if name not in ("dirlab", "learn2reg"):
        raise UserError("dataset", f"There is no benchmark '{name}'.", "Choose dirlab or learn2reg.")
    masks = masks or ("lungs" if name == "dirlab" else "given")
    if masks not in ("lungs", "none", "given") or (masks == "given" and name == "dirlab"):
        raise UserError("dataset", f"'{masks}' are no masks of {name}.", "Choose lungs or none.")
    if not root.is_dir():
        raise UserError("dataset", f"There is no folder {root}.")
    output.mkdir(parents=True, exist_ok=True)
    groups = {}
    if name == "dirlab":
        for kind, chosen in _chosen(cases, tuple(dirlab.COLLECTIONS)).items():
            found = dirlab.cases(root, kind, output / "images")
            groups[kind] = {str(case): files for case, files in found.items() if not chosen or case in chosen}
    else:
        groups["learn2reg"] = learn2reg.cases(root, output / "images")
    pairs, columns = [], {}
    for kind, found in groups.items():
        for case, files in found.items():
            if masks != "given":
                files = {entry: path for entry, path in files.items() if not entry.endswith("_mask")}
            if masks == "lungs":
                files["fixed_mask"] = "lungs"
            for preset in presets.split(","):
                for seed in _whole(seeds):
                    pair = f"{kind}-{case}-{preset}-{seed}"
                    plain = {"device": device, "threads": threads or os.cpu_count() or 1, "seed": seed}
                    job = Job(**files, **plain, preset=preset, overrides=assignments(set_ or []))
                    pairs.append(Pair(pair, job))
                    columns[pair] = {"kind": kind, "case": case, "preset": preset, "seed": seed}
    table = LiveTable(len(pairs))
    console = Console(stderr=True, highlight=False)
    with table.shown(console):
        rows = run(pairs, output, Place(1), reports=reports, told=table.add)
    write(rows, output)
    rows = [{**columns[row["name"]], **row} for row in rows]
    write_json(output / "benchmark.json", rows)
    for kind, found in groups.items():
        published = dirlab.COLLECTIONS[kind].published if name == "dirlab" else {}
        title = dirlab.COLLECTIONS[kind].title if name == "dirlab" else "Learn2Reg"
        Console(highlight=False).print(
            comparison(title, list(found), published, [r for r in rows if r["kind"] == kind])
        )
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


def comparison(title: str, cases: list[str], published: dict[str, tuple[float, ...]], rows: Rows) -> Table:
    """Mean target registration errors in mm, a column a case: as published, then ours, mean over seeds."""
    table = Table(title=f"{title}: mean target registration error (mm)", box=None, title_justify="left")
    for heading in ("", *cases, "mean"):
        table.add_column(heading, justify="left" if not heading else "right")

    def add(head: str, values: list[float | None], form: str = ".2f") -> None:
        known = [value for value in values if value is not None]
        mean = np.mean(known) if known and len(known) == len(values) else None
        table.add_row(head, *("-" if value is None else format(value, form) for value in [*values, mean]))

    for method, values in published.items():
        add(f"{method}, snapped", [values[int(case) - 1] for case in cases])
    for preset in dict.fromkeys(row["preset"] for row in rows):
        for key, name, form in (
            ("tre_snapped", "snapped", ".2f"),
            ("tre", "continuous", ".2f"),
            ("folding", "det <= 0 (%)", ".3f"),
            ("seconds", "seconds", ".1f"),
        ):
            means = []
            for case in cases:
                own = [row.get(key) for row in rows if (row["case"], row["preset"]) == (case, preset)]
                whole = bool(own) and None not in own
                means.append(float(np.mean(own)) * (100 if key == "folding" else 1) if whole else None)
            add(f"{preset}, {name}", means, form)
    return table


def _chosen(text: str, known: tuple[str, ...]) -> dict[str, list[int]]:
    """Which cases of which collection: '4dct:1,8,copd' is cases 1 and 8 of the one and all of the other."""
    result: dict[str, list[int]] = {}
    for part in text.split(","):
        kind, _, case = part.strip().partition(":")
        if kind in known:
            result[kind] = _whole(case) if case else []
        elif kind.isdigit() and result:
            list(result.values())[-1].append(int(kind))
        else:
            raise UserError("dataset", f"'{part}' is no collection of DIR-Lab.", f"Choose from {', '.join(known)}.")
    return result


def _whole(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError("dataset", f"'{text}' are no whole numbers.") from None
