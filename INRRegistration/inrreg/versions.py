"""Versions of what computes a result. Standard library only."""

from __future__ import annotations

import importlib.metadata
import platform

import inrreg
from inrreg import protocol

PACKAGES = ("torch", "numpy", "SimpleITK", "safetensors")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that matter, without importing them; absent ones left
    out."""
    found = {"inrreg": inrreg.__version__, "python": platform.python_version(), "protocol": str(protocol.VERSION)}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
