"""A training that was interrupted goes on: what it has learned so far, and what its optimizer knows, in one file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from inrreg.prior import Prior
from inrreg.protocol import UserError
from inrreg.training.meta import Meta
from inrreg.training.settings import TrainingSettings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter."""


def path_of(output: Path) -> Path:
    """The checkpoint's file, beside the prior's."""
    return output.with_name(output.name + ".checkpoint")


def write(meta: Meta, path: Path, key: str) -> None:
    """Keep the training of that key. Raises OSError."""
    tensors = {f"total.{number}": total for number, total in enumerate(meta.total)}
    if meta.adam is not None:
        for number, state in enumerate(meta.adam.state.get(each, {}) for each in meta.prior.encoder.parameters()):
            tensors |= {f"adam.{number}.{name}": state[name].cpu() for name in MOMENTS if name in state}
    meta.prior.about = {"key": key, "step": meta.step, "count": meta.count, "history": meta.history}
    meta.prior.save(path, tensors)


def read(path: Path, key: str, settings: TrainingSettings, kind: str, steps: int, device: torch.device) -> Meta:
    """The training in a file. Raises `UserError` (code `prior`) for another one's, or a damaged file."""
    prior, tensors = Prior.load_with(path)
    if prior.about.get("key") != key:
        message = f"{path} is of another training: other pairs, files, settings or seed."
        raise UserError("prior", message, "Remove it to begin anew, or choose another output.")
    try:
        history = [(int(step), float(error)) for step, error in prior.about["history"]]
        meta = Meta(prior.to(device), settings, kind, steps, prior.about["step"], history, prior.about["count"])
        for number, total in enumerate(meta.total):
            total.copy_(tensors[f"total.{number}"])
        if meta.adam is not None:
            for number, parameter in enumerate(prior.encoder.parameters()):
                meta.adam.state[parameter] = _moments(tensors, number, parameter)
        return meta
    except (LookupError, TypeError, ValueError, RuntimeError):
        raise UserError("prior", f"The checkpoint {path} is damaged.", "Remove it to begin anew.") from None


def _moments(tensors: dict[str, Tensor], number: int, like: Tensor) -> dict[str, Tensor]:
    found = {name: tensors[key] for name in MOMENTS if (key := f"adam.{number}.{name}") in tensors}
    return {name: each if name == "step" else each.to(like.device) for name, each in found.items()}
