"""Where a registration runs."""

from __future__ import annotations

import torch

from inrreg.protocol import UserError


def devices() -> dict[str, str]:
    """The devices of this machine: what `--device` takes, and a name for people."""
    found = {"cpu": "CPU"}
    if torch.cuda.is_available():
        found |= {f"cuda:{n}": torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first CUDA GPU, else the CPU.

    Apple's GPU is taken on request only: torch does not sample volumes there in every version.
    Raises `UserError` (code `device`) naming those that exist.
    """
    found = devices()
    if name == "auto":
        name = "cuda:0" if "cuda:0" in found else "cpu"
    if name == "cuda" and "cuda:0" in found:
        name = "cuda:0"
    if name not in found:
        raise UserError("device", f"This computer has no device '{name}'.", f"Choose one of: auto, {', '.join(found)}.")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """A device for people to read."""
    return devices()[str(device)]
