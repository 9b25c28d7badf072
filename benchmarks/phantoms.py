"""Accuracy on generated thoraxes, where the truth is known at every point.

    python -m benchmarks.phantoms [--methods fast,dual-light] [--seeds 0,1,2] [--amplitude 25] [--voxel 3]
        [--sliding] [--contrast inverted] [--cone-beam] [--similarity auto,ncc] [--no-masks | --view]

Lung masks and lobe labels are given, but with `--no-masks`, and with `--view`, where the moving mask is all that a
cone-beam sees; the moving image has another contrast with `--contrast`,
a cone-beam's view and artifacts with `--cone-beam`. Errors are at 300 landmarks in the lungs, in mm; the determinant is
the field's on the fixed grid, in the lung mask.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.ours import register
from inrreg import protocol
from inrreg.geometry import Grid
from inrreg.metrics import jacobian_determinant, jacobian_summary, summary, target_registration_error
from inrreg.phantom import Phantom, thorax
from inrreg.phantom.modality import CURVES, in_view
from inrreg.problem import Problem
from inrreg.transforms import DisplacementGrid

PAIR = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels")


def view(phantom: Phantom) -> sitk.Image:
    """The field of view of a cone-beam on the moving grid, uint8."""
    grid = Grid.of(phantom.moving)
    axes = [first + step * np.arange(n) for first, step, n in zip(grid.origin, grid.spacing, grid.size, strict=True)]
    return grid.image(in_view(grid.points(), axes).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="fast,dual-light")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--amplitude", type=float, default=25.0, help="largest displacement in the lungs, mm")
    parser.add_argument("--voxel", type=float, default=3.0, help="mm, of images as large as ever")
    parser.add_argument("--sliding", action="store_true", help="the lungs slide along the chest wall")
    parser.add_argument("--contrast", default="hounsfield", choices=CURVES, help="of the moving image")
    parser.add_argument("--cone-beam", action="store_true", help="the moving image is one of a cone-beam")
    parser.add_argument("--similarity", default="auto", help="one or more, with commas")
    parser.add_argument("--no-masks", action="store_true", help="neither masks nor labels are given")
    parser.add_argument("--view", action="store_true", help="the moving mask is the cone-beam's field of view")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for seed in (int(text) for text in options.seeds.split(",")):
        kind = {"sliding": options.sliding, "contrast": options.contrast, "cone_beam": options.cone_beam}
        size = tuple(round(n * 3 / options.voxel) for n in (96, 80, 96))
        phantom = thorax(size, (options.voxel,) * 3, seed=seed, amplitude=options.amplitude, **kind)
        before = summary(target_registration_error(phantom.fixed_landmarks, phantom.moving_landmarks))
        for method, asked in product(options.methods.split(","), options.similarity.split(",")):
            given = PAIR[:2] if options.no_masks or options.view else PAIR
            images = {name: getattr(phantom, name) for name in given}
            if options.view:
                images["moving_mask"] = view(phantom)
            problem = Problem(**images, seed=seed)
            displacement, seconds = register(problem, method, {"similarity": asked})
            field = DisplacementGrid.of(displacement)
            errors = target_registration_error(field.map(phantom.fixed_landmarks), phantom.moving_landmarks)
            determinant = jacobian_determinant(field.vectors, phantom.fixed)
            similarity = "multimodal" if problem.multimodal else "ncc"
            row = {
                "seed": seed,
                "method": method,
                "asked": asked,
                "similarity": similarity,
                "before": before["mean"],
                "seconds": seconds,
            }
            row |= {"error": summary(errors), "jacobian": jacobian_summary(determinant, problem.mask)}
            rows.append(row)
            print(
                f"seed {seed}  {method:12} {asked:4} ({similarity})"
                f"  {before['mean']:.2f} -> {row['error']['mean']:.2f} mm"
                f" (95th percentile {row['error']['p95']:.2f}, largest {row['error']['max']:.2f})"
                f"  smallest det {row['jacobian']['min']:.2f}, det <= 0 {row['jacobian']['folding']:.3%}"
                f"  {seconds:.1f} s",
                flush=True,
            )
    for method, asked in product(options.methods.split(","), options.similarity.split(",")):
        means = [row["error"]["mean"] for row in rows if (row["method"], row["asked"]) == (method, asked)]
        print(f"{method}, {asked}: mean over seeds {np.mean(means):.2f} mm, worst {max(means):.2f} mm")
    options.output.mkdir(parents=True, exist_ok=True)
    protocol.write_json(
        options.output / "phantoms.json", {"amplitude": options.amplitude, "voxel": options.voxel, **kind, "rows": rows}
    )


if __name__ == "__main__":
    main()
