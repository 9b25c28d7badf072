"""What a start is worth: error on held-out phantoms before any step and after 25, from each kind of prior and none.

    python -m benchmarks.reindir [--seeds 0,1,2] [--pairs 48] [--held-out 5] [--first 10000] [--threads 1]
        [--set KEY=VALUE] [--rates 1e-4,1e-3] [--output DIR]

Small generated bodies (`inrreg.phantom.shifting`, 32 voxels a side), whose organs shift by 6 to 18 mm in any direction.
A seed decides the training's phantoms, its draws and where it starts from; the held-out phantoms are the same for all,
from the seed `--first` on (the settings were chosen on those from 10000 on, with the training seeds 0 to 2). Errors are
in mm at 200 points of the body. After 25 steps means by the optimization of the preset `reindir`, at its own rate of
1e-4 and at ten times that, one for all starts. At the end the gates: each difference between two starts, against how it
spreads over the seeds, since the starts of a seed share its phantoms and draws.
With `--show FILES` only those, of the rows in files of earlier runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrreg import protocol
from inrreg.landmarks import Points, pair
from inrreg.methods import ccidir
from inrreg.methods.reindir import ReindirSettings
from inrreg.optimization import Run
from inrreg.phantom.shifting import shifting
from inrreg.prior import Family, Prior
from inrreg.problem import Problem
from inrreg.training.drawing import drawn, seed_of
from inrreg.training.meta import Meta, inner_loop, solve
from inrreg.training.pairs import Example
from inrreg.training.settings import TrainingSettings
from inrreg.training.start import fresh

ORDER = (("reindir", "reptile"), ("reptile", "random"), ("average", "random"))
"""Two starts each, the first of which should have the smaller error."""
SETTINGS = TrainingSettings(
    width=64,
    points=300,
    steps=300,
    inner_steps=1,
    solving_steps=100,
    batch=1,
    rate=1e-3,
    final_rate=1e-3,
    encoder_rate=1e-3,
    warm_up=20,
    cycles=1,
    smallest=0.9,
    largest=1.1,
    patch=16,
    channels=4,
    embedding=65,
    similarity="ncc",
)
AVERAGED = 8
"""Pairs of an average, each of which is solved to the end."""
SOLVING_RATE = 1e-3
"""Adam's, for the solved networks of an average."""


def example(seed: int) -> Example:
    """A phantom as a training has its pairs."""
    made = shifting(seed=seed)
    problem = Problem(made.fixed, made.moving, seed=seed, similarity="ncc")
    return Example(problem, pair(Points(made.fixed_landmarks), Points(made.moving_landmarks)))


def train(examples: list[Example], kind: str, settings: TrainingSettings, seed: int) -> Prior:
    """A prior of these pairs."""
    family = Family.of(examples[0].problem)
    if kind == "average":
        examples = examples[:AVERAGED]
        settings = dataclasses.replace(settings, rate=SOLVING_RATE, final_rate=SOLVING_RATE / 10)
    steps = -(-len(examples) // settings.batch) if kind == "average" else settings.steps
    meta, task = (
        Meta(fresh(family, settings, kind, seed), settings, kind, steps),
        solve if kind == "average" else inner_loop,
    )
    for step in range(steps):
        pairs = [examples[number] for number in drawn([list(range(len(examples)))], step, settings.batch, seed)]
        numbered = [seed_of(seed, step, slot, settings.batch) for slot in range(len(pairs))]
        meta.update([task(meta.prior, pair, settings, number) for pair, number in zip(pairs, numbered, strict=True)])
    return meta.current()


def errors(
    prior: Prior | None, held_out: list[Example], settings: ReindirSettings, rates: list[float], seed: int
) -> dict[str, float]:
    """Mean error in mm of the held-out pairs before any step and after them, at each rate."""
    found = []
    for each in held_out:
        row = {}
        for rate in rates:
            networks = ccidir.random(settings, seed) if prior is None else prior.start(each.problem)
            row["before"] = each.error(networks[0])
            chosen = dataclasses.replace(settings, rate=rate, final_rate=rate)
            field = ccidir.optimize(networks, each.problem, chosen, settings.prior_steps, Run(seed=seed))
            row[f"after, {rate:g}"] = each.error(field.there)
        found.append(row)
    return {when: float(np.mean([row[when] for row in found])) for when in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--kinds", default="reindir,reptile,average,random")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=5)
    parser.add_argument("--first", type=int, default=10_000, help="seed of the first held-out phantom")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rates", default="1e-4,1e-3", help="of Adam, in the 25 steps")
    parser.add_argument("--set", action="append", default=[], help="key=value, of the training")
    parser.add_argument("--output", type=Path, default=Path("bench"))
    parser.add_argument("--show", nargs="*", default=[], help="files of earlier runs")
    options = parser.parse_args()
    if options.show:
        print(told([row for path in options.show for row in protocol.read_json(Path(path))["rows"]]))
        return
    torch.set_num_threads(options.threads)
    settings = SETTINGS.override(protocol.assignments(options.set))
    shape = {name: getattr(settings, name) for name in ("width", "hidden", "omega", "points", "similarity")}
    solving, rates = ReindirSettings(**shape), [float(text) for text in options.rates.split(",")]
    held_out = [example(options.first + number) for number in range(options.held_out)]
    identity = np.mean([np.linalg.norm(e.landmarks.moving - e.landmarks.fixed, axis=1).mean() for e in held_out])
    print(f"held-out phantoms: {identity:.2f} mm apart", flush=True)
    rows: list[dict[str, Any]] = []
    for seed in (int(text) for text in options.seeds.split(",")):
        examples = [example(1000 * (seed + 1) + number) for number in range(options.pairs)]
        for kind in options.kinds.split(","):
            start = time.process_time()
            prior = None if kind == "random" else train(examples, kind, settings, seed)
            seconds = time.process_time() - start
            row = errors(prior, held_out, solving, rates, seed)
            rows.append({"seed": seed, "kind": kind, "seconds": seconds, "errors": row})
            figures = "  ".join(f"{when}: {error:.2f} mm" for when, error in row.items())
            print(f"seed {seed}  {kind:8} {figures}  (trained in {seconds:.0f} s of one core)", flush=True)
    print(told(rows))
    options.output.mkdir(parents=True, exist_ok=True)
    written = {"settings": settings.to_dict(), "identity": float(identity), "rows": rows}
    protocol.write_json(options.output / "reindir.json", written)


def told(rows: list[dict[str, Any]]) -> str:
    """Means and spreads over the seeds, and whether the order holds beyond the spread of its differences."""
    rows = sorted(rows, key=lambda row: row["seed"])
    kinds, times = list(dict.fromkeys(row["kind"] for row in rows)), list(rows[0]["errors"])
    table = {
        (kind, when): np.array([row["errors"][when] for row in rows if row["kind"] == kind])
        for kind in kinds
        for when in times
    }
    lines = []
    for kind in kinds:
        figures = (f"{when}: {table[kind, when].mean():.2f} +- {_spread(table[kind, when]):.2f} mm" for when in times)
        lines.append(f"{kind:8} {'  '.join(figures)}")
    for better, worse in (two for two in ORDER if set(two) <= set(kinds)):
        for when in times:
            gains = table[worse, when] - table[better, when]
            holds = "holds" if gains.mean() > _spread(gains) else "does not hold"
            lines.append(
                f"{better} below {worse}, {when}: by {gains.mean():.2f} +- {_spread(gains):.2f} mm, at"
                f" {(gains > 0).sum()} of {len(gains)} seeds: {holds}"
            )
    return "\n".join(lines)


def _spread(values: np.ndarray) -> float:
    """The sample's standard deviation; 0 of one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
