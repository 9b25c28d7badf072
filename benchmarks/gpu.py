"""What a CUDA GPU makes of our methods: that it agrees with the CPU, and what a step costs there.

    python -m benchmarks.gpu [--presets dual,idir,fast] [--device cuda:0] [--output gpu.json]

Checks first: derivatives and one loss's gradient equal the CPU's, nearly so as tensor cores round them, and no step of
a point method makes the host wait.
Then each preset's full schedule on a generated thorax: seconds, milliseconds a step, landmark error, peak device
memory, and the share of the arithmetic limit, which is the rate of a large float32 matrix product on the same device:
counted are the multiplications and additions of a step's matrix products. Says so where there is no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cheap import KEPT, in_format
from inrreg import protocol
from inrreg.deformation import Deformation
from inrreg.fields import Dual, Field
from inrreg.optimization import Run, cosine, descend
from inrreg.phantom import Phantom, thorax
from inrreg.pointwise import PointLoss
from inrreg.problem import Problem
from inrreg.protocol import Settings

CPU = torch.device("cpu")
TOLERANCE = 1e-3
"""Relative difference of single-precision results between devices."""
TOLERANCE_OF_TENSOR_CORES = 2e-2
"""The same with hidden layers multiplied in TF32."""
COUNTED = 20
"""One in so many steps is counted."""


def problem(phantom: Phantom, device: torch.device) -> Problem:
    """The phantom with its masks and lobes."""
    names = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels")
    return Problem(**{name: getattr(phantom, name) for name in names}, device=device)


def agreement(phantom: Phantom, device: torch.device) -> dict[str, float]:
    """Relative differences from the CPU: of the derivatives, and of the gradient of a loss on the same points."""
    known, tensor_cores = _derivatives(phantom, CPU), _derivatives(phantom, device)
    with in_format(KEPT["float32"]):
        exact = _derivatives(phantom, device)
    found = {name: _difference(known[name], exact[name]) for name in known}
    return found | {f"{name} by tensor cores": _difference(known[name], tensor_cores[name]) for name in known}


def _difference(known: Tensor, found: Tensor) -> float:
    return float((known - found).norm() / known.norm())


def _derivatives(phantom: Phantom, device: torch.device) -> dict[str, Tensor]:
    points = (torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5).to(device)
    field = Dual(generator=torch.Generator().manual_seed(1)).to(device)
    field.activate_fine(0.05)
    given, jet = problem(phantom, device), field.jet(points, 2, trace=True)
    moved, moving = points + jet.value, given.moving_volume()
    images = moving.sample(moved)[0] * given.valid(moved, moving)
    loss = images.square().mean() + jet.laplacian.square().mean() + jet.jacobian.square().mean()
    gradient = torch.autograd.grad(loss, list(field.active_parameters))
    parts = {"derivatives": (jet.jacobian, jet.laplacian), "gradient": gradient}
    return {name: torch.cat([part.detach().reshape(-1) for part in each]).cpu() for name, each in parts.items()}


def waits(preset_name: str, given: Problem) -> bool:
    """Whether a step of a point method makes the host wait for the device."""
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    field: Field = method.fit(given, _short(preset.settings, 50), Run())
    field.requires_grad_(True)
    optimizer = torch.optim.AdamW(field.parameters(), lr=1e-5)
    loss = PointLoss(given, preset.settings.points, round(preset.settings.regularized * preset.settings.points))
    rate = cosine(1e-5, 1e-6)
    for strict in (False, True):  # the first step allocates
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            descend(optimizer, rate(0.5), method.terms(loss, field, preset.settings))
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return False


def arithmetic_limit(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """FLOP/s of a large float32 matrix product, as torch is set."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    for count in (2, repeats):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            a @ b
        torch.cuda.synchronize(device)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def full_schedule(preset_name: str, phantom: Phantom, given: Problem, limit: float) -> dict[str, Any]:
    """The preset's whole optimization, and what a step of it costs."""
    preset = protocol.preset(preset_name)
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    short = _short(preset.settings, COUNTED)
    with FlopCounterMode(display=False) as counter:
        method.fit(given, short, Run())
    torch.cuda.reset_peak_memory_stats(given.device)
    torch.cuda.synchronize(given.device)
    start = time.perf_counter()
    field = method.fit(given, preset.settings, Run())
    torch.cuda.synchronize(given.device)
    seconds = time.perf_counter() - start
    deformation = Deformation(field.freeze(), given.frame, given.grid)
    errors = np.linalg.norm(deformation.map(phantom.fixed_landmarks) - phantom.moving_landmarks, axis=1)
    steps = _steps(preset.settings)
    return {
        "preset": preset_name,
        "steps": steps,
        "seconds": seconds,
        "milliseconds": 1000 * seconds / steps,
        "gflop": counter.get_total_flops() / _steps(short) / 1e9,
        "share_of_limit": counter.get_total_flops() / _steps(short) * steps / seconds / limit,
        "memory": torch.cuda.max_memory_allocated(given.device) / 2**30,
        "error": float(errors.mean()),
    }


def _steps(settings: Settings) -> int:
    return sum(settings.steps) if isinstance(settings.steps, tuple) else settings.steps


def _short(settings: Settings, part: int) -> Settings:
    """The same with one in `part` of its steps."""
    if isinstance(settings.steps, tuple):
        return dataclasses.replace(settings, steps=tuple(max(1, count // part) for count in settings.steps))
    return dataclasses.replace(settings, steps=max(1, settings.steps // part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="dual,idir,fast")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no CUDA GPU on this computer: nothing was checked or timed.")
    device, phantom = torch.device(options.device), thorax(seed=0)
    differences = agreement(phantom, device)
    found = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; relative difference from the CPU: {found}")
    given, rows, failures = problem(phantom, device), [], []
    for name, value in differences.items():
        if not value < (TOLERANCE_OF_TENSOR_CORES if "tensor cores" in name else TOLERANCE):
            failures.append(f"the {name} differ from the CPU's")
    limit = arithmetic_limit(device)
    print(f"arithmetic limit: {limit / 1e12:.1f} TFLOP/s in a float32 matrix product")
    for name in options.presets.split(","):
        module = importlib.import_module(f"inrreg.methods.{protocol.preset(name).method}")
        if hasattr(module, "terms") and waits(name, given):
            failures.append(f"a step of {name} waits for the device")
        rows.append(row := full_schedule(name, phantom, given, limit))
        print(
            f"{name:10} {row['steps']:6} steps in {row['seconds']:7.1f} s: {row['milliseconds']:7.2f} ms a step,"
            f" {row['gflop']:.1f} GFLOP a step, {row['share_of_limit']:.1%} of the limit, {row['memory']:.2f} GiB,"
            f" {row['error']:.2f} mm",
            flush=True,
        )
    if options.output:
        protocol.write_json(options.output, {"limit": limit, "differences": differences, "rows": rows})
    if failures:
        raise SystemExit("Failed: " + "; ".join(failures) + ".")


if __name__ == "__main__":
    main()
