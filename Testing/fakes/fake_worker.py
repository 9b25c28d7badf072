"""Runs the real worker over a fake engine, so that its protocol is tested in fractions of a second.

The fake displaces the middle of the fixed image by a smooth bump, or misbehaves as its settings say. Of the preset
`fake-alpha` the bump falls as (1 - alpha)^2 does, from twice its size at 0, and alpha 0.3 is chosen.
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


def register(job, output, *, emit, cancelled, preview=None):
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
        if preview is not None and step % 5 == 4:
            write_preview(job, preview, settings, (step + 1) / settings.steps)
            emit("preview", {"path": str(preview.absolute())})
    emit("warning", {"code": "overlap", "message": "The images overlap by 60 % only."})
    emit("log", {"text": f"initial transform: {bool(job.initial_transform)}, masks: {bool(job.fixed_mask)}"})
    write(job, output, settings)
    if settings.behaviour == "incomplete":
        (output / "model.json").unlink()
    import numpy as np

    chosen = {"alpha": {"chosen": CHOSEN}} if protocol.preset(job.preset).conditioned else {}
    return {"loss": np.float32(0.5), "jacobian_min": math.nan, "steps": np.arange(2), **chosen}


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


CHOSEN = 0.3
ALPHAS = [round(0.1 * n, 1) for n in range(11)]


def write(job, output, settings):
    import SimpleITK

    conditioned = protocol.preset(job.preset).conditioned
    fixed = SimpleITK.ReadImage(job.fixed)
    field = bump(geometry(fixed), settings.bump, factor(CHOSEN) if conditioned else 1.0)
    partial = output.with_name("partial-result")
    partial.mkdir()
    for name in ("displacement.nrrd", "deformable.nrrd"):
        SimpleITK.WriteImage(field, str(partial / name), False)
    protocol.write_json(partial / "metrics.json", {})
    job.save(partial)
    model = {"geometry": geometry(fixed), "bump": list(settings.bump)} if conditioned else {}
    protocol.write_json(partial / "model.json", model)
    (partial / "model.safetensors").write_bytes(b"")
    if conditioned:
        write_alpha(partial, model)
    partial.rename(output)


def write_preview(job, path, settings, part):
    """So much of the bump."""
    import SimpleITK

    field = bump(geometry(SimpleITK.ReadImage(job.fixed)), settings.bump, part)
    partial = path.with_name("partial-" + path.name)
    SimpleITK.WriteImage(field, str(partial), False)
    partial.replace(path)


def factor(alpha):
    """What the bump is multiplied with."""
    return 2 * (1 - alpha) ** 2


def write_alpha(folder, model):
    import SimpleITK

    fields = [{"alpha": alpha, "file": f"alpha_{n:02}.nrrd"} for n, alpha in enumerate(ALPHAS)]
    for entry in fields:
        field = bump(model["geometry"], model["bump"], factor(entry["alpha"]))
        SimpleITK.WriteImage(field, str(folder / entry["file"]), False)
    curves = {
        "alpha": ALPHAS,
        "similarity": [0.9 - 0.3 * alpha**2 for alpha in ALPHAS],
        "bending": [1 - alpha for alpha in ALPHAS],
        "sd_log": [0.3 * (1 - alpha) for alpha in ALPHAS],
        "folding": [max(0.0, 0.02 - 0.1 * alpha) for alpha in ALPHAS],
        "error": [1.5 + 20 * (alpha - CHOSEN) ** 2 for alpha in ALPHAS],
    }
    described = {"version": protocol.VERSION, "chosen": CHOSEN, "criterion": "landmarks", "default": 0.5}
    protocol.write_json(folder / "alpha.json", {**described, "curves": curves, "fields": fields})


def geometry(fixed):
    import numpy as np

    size = [8, 8, 8]
    centre = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
    corners = [
        fixed.TransformContinuousIndexToPhysicalPoint([0, 0, 0]),
        fixed.TransformIndexToPhysicalPoint([n - 1 for n in fixed.GetSize()]),
    ]
    extent = np.abs(np.subtract(*corners)) * 1.5
    return {"size": size, "origin": (centre - extent / 2).tolist(), "spacing": (extent / (np.array(size) - 1)).tolist()}


def bump(place, vector, factor):
    import numpy as np
    import SimpleITK

    axes = [np.linspace(-1, 1, n) for n in place["size"]]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    weight = factor * np.clip((1 - x**2) * (1 - y**2) * (1 - z**2), 0, 1)
    field = SimpleITK.GetImageFromArray((weight[..., None] * vector).astype(np.float32), isVector=True)
    field.SetOrigin(place["origin"])
    field.SetSpacing(place["spacing"])
    return field


class Deformation:
    """As `inrreg.deformation.Deformation`, of the preset `fake-alpha`."""

    def __init__(self, model, alpha):
        self._model, self._alpha = model, alpha

    @classmethod
    def load(cls, folder):
        return cls(protocol.read_json(Path(folder) / "model.json"), CHOSEN)

    def at(self, alpha, spacing=None):
        return Deformation(self._model, alpha)

    def displacement_field(self):
        return bump(self._model["geometry"], self._model["bump"], factor(self._alpha))


def of_transform(transform, job, files, *, result=None, tolerances=None):
    """Figures as `inrreg.evaluation` gives them: the first landmark is the worst, each later one 0.5 mm better."""
    metrics = {"fixed_spacing": [3.0, 3.0, 3.0], "inverse": {"mean": 0.1, "p99": 0.2, "max": 0.3, "count": 9}}
    metrics["jacobian"] = {"whole": {"min": 0.4, "max": 1.9, "folding": 0.0, "sd_log": 0.2}}
    if "fixed_landmarks" in files:
        from inrreg.landmarks import pair, read_points

        pairs = pair(*(read_points(files[f"{side}_landmarks"]) for side in ("fixed", "moving")))
        before = [8.0 - n for n in range(len(pairs))]
        after = [4.0 - n / 2 for n in range(len(pairs))]
        rows = {"mean": 2.5, "sd": 1.0, "median": 2.5, "p95": 4.0, "max": 4.0, "count": len(pairs)}
        metrics["landmarks"] = {"matched_by": pairs.matched_by, "missing": pairs.missing, "guided": 0}
        metrics["landmarks"] |= {"before": rows, "after": rows, "names": pairs.names}
        metrics["landmarks"] |= {"errors_before": before, "errors": after, "worst": []}
    if "fixed_labels" in files:
        row = {"dice": 0.75, "hd95": 3.0, "mda": None}
        metrics["labels"] = {name: dict.fromkeys(job.label_names, row) for name in ("before", "after")}
    return metrics


def determinant_map(transform, done):
    import numpy as np
    import SimpleITK

    done(1, 1)
    image = SimpleITK.GetImageFromArray(np.linspace(0, 2, 512, dtype=np.float32).reshape(8, 8, 8))
    image.SetSpacing((12.0, 12.0, 12.0))
    return image


def write_report(path, metrics, transform, job, files):
    Path(path).write_text("<p>Report</p>")


def install():
    """Put the fake where the worker imports the engine from."""
    modules = {
        "registration": {"register": register},
        "optimization": {"Cancelled": Cancelled},
        "evaluation": {"of_transform": of_transform, "determinant_map": determinant_map, "recorded": lambda result: {}},
        "deformation": {"Deformation": Deformation, "load_transform": lambda path, alpha=None: None},
        "report": {"write_report": write_report},
    }
    for name, content in modules.items():
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
