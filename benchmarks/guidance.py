"""What guiding points do to the landmarks near them and far from them, on the liver pairs of the evaluation data.

    python -m benchmarks.guidance [--pairs 18a,18b,19a,19b] [--method fast] [--seeds 0,1]

A preset as it is, whose errors are small, and made to fail by many mm where the motion is large: its last stage alone,
five times its total variation (too stiff), or frequencies of its network that are too high (too rough).
Guides are the landmarks whose errors are worst in another run than the one that is compared (else those left would be
picked for small errors), or any of them, or of the worse half. All others judge: those within 25 mm of a guide on its
side of the liver's border, those on the other side alone, and those farther. Differences are from the unguided run of
the same seed, with the standard error over landmarks; the last lines have them over pairs and seeds.

First, what there is to gain: how alike neighbours' residual vectors are, as the mean cosine-like product of two over
their mean square, lengths cut at 4 mm; residuals that are noise tell nothing of their neighbours.
"""

from __future__ import annotations

import argparse
import importlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import Pair, liver_pairs
from inrreg import protocol
from inrreg.fusion import fit_guided
from inrreg.landmarks import Pairs
from inrreg.optimization import Run
from inrreg.problem import Problem

NEAR = 25.0
CHOOSING = 2
"""The seed of the run that guides are chosen by."""
DISTANCES = (0, 15, 25, 50)
LONGEST = 4.0
WAYS = {"as it is": {}, "last stage alone": {}, "too stiff": {"variation": 0.3}, "too rough": {"omega": 40.0}}
GUIDES = ("worst 6", "4 of the worse half", "any 8")
GROUPS = ("near", "near, other side", "far")


def residuals(pair: Pair, name: str, way: str, seed: int, guides: np.ndarray | None = None) -> np.ndarray:
    """What is left at the landmarks, (N, 3) mm, of a run that these rows of them guide."""
    preset = protocol.preset(name)
    settings = preset.settings.override(WAYS[way])
    if way == "last stage alone":
        last = {key: getattr(settings, key)[-1:] for key in ("image_spacing", "node_spacing")}
        settings = settings.override({**last, "steps": settings.steps[:1]})
    guidance = None
    if guides is not None:
        ends = pair.fixed_landmarks[guides], pair.moving_landmarks[guides]
        guidance = Pairs(*ends, ("",) * len(guides), "order", {"fixed": (), "moving": ()})
    problem = Problem(pair.fixed, pair.moving, seed=seed, guidance=guidance)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    field = fit_guided(problem, lambda problem, run: method.fit(problem, settings, run), Run(seed=seed))
    x = torch.as_tensor(problem.frame.normalize(pair.fixed_landmarks), dtype=torch.float32)
    moved = pair.fixed_landmarks + field.dense(x).numpy() * problem.frame.scale
    return moved - pair.moving_landmarks


def alike(pair: Pair, left: np.ndarray) -> str:
    """How alike the residuals of two landmarks on one side of the liver's border are, by their distance."""
    cut = left * np.minimum(1, LONGEST / np.linalg.norm(left, axis=1))[:, None]
    i, j = np.triu_indices(len(cut), 1)
    product = (cut[i] * cut[j]).sum(1) / np.square(cut).sum(1).mean()
    apart = np.linalg.norm(pair.fixed_landmarks[i] - pair.fixed_landmarks[j], axis=1)
    rows = []
    for low, high in pairwise(DISTANCES):
        found = product[(apart >= low) & (apart < high) & (pair.region[i] == pair.region[j])]
        rows.append(f"{low} to {high} mm {found.mean():.2f} +- {standard_error(found):.2f} ({len(found)})")
    return ", ".join(rows)


def standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def chosen(how: str, errors: np.ndarray, seed: int) -> np.ndarray:
    """The rows of the landmarks that guide."""
    worst, random = np.argsort(-errors), np.random.default_rng(seed)
    if how == "worst 6":
        return worst[:6]
    return random.permutation(len(errors))[:8] if how == "any 8" else random.permutation(worst[: len(worst) // 2])[:4]


def groups(pair: Pair, guides: np.ndarray) -> dict[str, np.ndarray]:
    """The rows that judge, by where they lie to the guides."""
    apart = np.linalg.norm(pair.fixed_landmarks[:, None] - pair.fixed_landmarks[guides], axis=-1)
    same = pair.region[:, None] == pair.region[guides]
    rest = ~np.isin(np.arange(len(apart)), guides)
    near, beside = (apart < NEAR).any(1), ((apart < NEAR) & same).any(1)
    return dict(zip(GROUPS, (np.flatnonzero(rest & which) for which in (beside, near & ~beside, ~near)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", default="18a,18b,19a,19b")
    parser.add_argument("--method", default="fast", help="fast or another of its stages")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    seeds = [int(text) for text in options.seeds.split(",")]
    for pair in (each for each in liver_pairs() if each.name in options.pairs.split(",")):
        for way in options.ways.split(","):
            known = {seed: residuals(pair, options.method, way, seed) for seed in (CHOOSING, *seeds)}
            print(f"{pair.name}  {way}: neighbours alike: {alike(pair, known[CHOOSING])}", flush=True)
            before = {seed: np.linalg.norm(left, axis=1) for seed, left in known.items()}
            for how in GUIDES:
                for seed in seeds:
                    guides = chosen(how, before[CHOOSING], seed)
                    after = np.linalg.norm(residuals(pair, options.method, way, seed, guides), axis=1)
                    told = f"guides {before[seed][guides].mean():.2f} > {after[guides].mean():.2f} mm"
                    row: dict[str, Any] = {"pair": pair.name, "way": way, "guides": how, "seed": seed}
                    for group, which in groups(pair, guides).items():
                        if len(which):
                            gained = (after - before[seed])[which]
                            row[group] = float(gained.mean())
                            told += f"; {group} ({len(which)}) {before[seed][which].mean():.2f} > "
                            told += f"{after[which].mean():.2f}, {row[group]:+.2f} +- {standard_error(gained):.2f}"
                            told += f", median {np.median(gained):+.2f}, at most {gained.max():+.1f}"
                    rows.append(row)
                    print(f"{pair.name}  {way}, {how}, seed {seed}: {told}", flush=True)
    for way in options.ways.split(","):
        for how in GUIDES:
            told = []
            for group in GROUPS:
                found = np.array([r[group] for r in rows if (r["way"], r["guides"]) == (way, how) and group in r])
                if len(found):
                    told.append(f"{group} {found.mean():+.2f} +- {standard_error(found):.2f} mm")
            print(f"{way}, {how}: {', '.join(told)}")
    options.output.mkdir(parents=True, exist_ok=True)
    protocol.write_json(options.output / "guidance.json", {"method": options.method, "rows": rows})


if __name__ == "__main__":
    main()
