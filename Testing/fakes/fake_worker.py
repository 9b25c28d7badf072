"""Runs the real worker over a fake engine, so that its protocol is tested in fractions of a second.

The fake displaces the middle of the fixed image by a smooth bump, or misbehaves as its settings say.
`python fake_worker.py [--no-torch] [--seized=SECONDS]`
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "INRRegistration"))

from inrreg import methods, protocol  # noqa: E402

methods.__path__.append(str(Path(__file__).parent / "methods"))


class Cancelled(Exception):
    """As `inrreg.optimization.Cancelled`."""


def register(job, output, *, emit, cancelled):
    settings = job.settings()
    behave(settings.behaviour)
    start = time.monotonic()
    for step in range(settings.steps):
        if cancelled():
            raise Cancelled
        time.sleep(settings.pause)
        seconds = time.monotonic() - start
        eta = seconds / (step + 1) * (settings.steps - step - 1)
        data = {"stage": "coarse", "step": step + 1, "steps": settings.steps, "loss": 1 / (step + 1), "terms": {}}
        emit("progress", {**data, "seconds": seconds, "eta": eta})
    emit("warning", {"code": "overlap", "message": "The images overlap by 60 % only."})
    emit("log", {"text": f"initial transform: {bool(job.initial_transform)}, masks: {bool(job.fixed_mask)}"})
    write(job, output, settings)
    if settings.behaviour == "incomplete":
        (output / "model.json").unlink()
    import numpy as np

    return {"loss": np.float32(0.5), "jacobian_min": math.nan, "steps": np.arange(2)}


def behave(behaviour):
    if behaviour == "hang":
        time.sleep(1000)
    elif behaviour == "seized":
        # In C, without giving the interpreter's lock back.
        ctypes.PyDLL(None).sleep(1000)
    elif behaviour == "deaf":
        # Deaf to the end of stdin; terminate ends it.
        os._exit = lambda code: time.sleep(1000)
        time.sleep(1000)
    elif behaviour == "user-error":
        raise protocol.UserError("overlap", "The images hardly overlap.", "Align them first.")
    elif behaviour == "memory":
        raise MemoryError
    elif behaviour == "gpu-memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
    elif behaviour == "internal":
        raise ZeroDivisionError("one over zero")
    elif behaviour == "exit":
        os._exit(7)
    elif behaviour == "prints":
        print("printed by a library")
        os.write(1, b"written to file descriptor 1\n")


def write(job, output, settings):
    import numpy as np
    import SimpleITK

    fixed = SimpleITK.ReadImage(job.fixed)
    size = [8, 8, 8]
    centre = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    corners = [
        fixed.TransformContinuousIndexToPhysicalPoint([0, 0, 0]),
        fixed.TransformIndexToPhysicalPoint([n - 1 for n in fixed.GetSize()]),
    ]
    extent = np.abs(np.subtract(*corners)) * 1.5
    spacing = extent / (np.array(size) - 1)
    axes = [np.linspace(-1, 1, n) for n in size]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    weight = np.clip((1 - x**2) * (1 - y**2) * (1 - z**2), 0, 1)
    field = SimpleITK.GetImageFromArray((weight[..., None] * settings.bump).astype(np.float32), isVector=True)
    field.SetOrigin(tuple(centre - extent / 2))
    field.SetSpacing(tuple(spacing))
    partial = output.with_name("partial-result")
    partial.mkdir()
    for name in ("displacement.nrrd", "deformable.nrrd"):
        SimpleITK.WriteImage(field, str(partial / name), False)
    for name in ("model.json", "metrics.json", "job.json"):
        protocol.write_json(partial / name, {})
    (partial / "model.safetensors").write_bytes(b"")
    partial.rename(output)


def install():
    """Put the fake where the worker imports the engine from."""
    for name, content in {"registration": {"register": register}, "optimization": {"Cancelled": Cancelled}}.items():
        module = types.ModuleType(f"inrreg.{name}")
        module.__dict__.update(content)
        sys.modules[module.__name__] = module


def stub_torch():
    """Importing the real torch takes a second or more, and the fake needs none."""
    torch, nn, functional = (types.ModuleType(name) for name in ("torch", "torch.nn", "torch.nn.functional"))
    torch.nn, nn.functional, torch.Tensor = nn, functional, object
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    torch.backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False))
    sys.modules |= {module.__name__: module for module in (torch, nn, functional)}


if __name__ == "__main__":
    from inrreg import worker

    if "--no-torch" in sys.argv:
        sys.modules["torch"] = None
    else:
        install()
        stub_torch()
    for argument in sys.argv[1:]:
        if argument.startswith("--seized="):
            worker.SEIZED = float(argument.partition("=")[2])
    worker.main()
