"""Python packages that the worker needs: looked for when the user registers, installed with consent.

PyTorch comes through the PyTorch extension, which finds the build that fits the graphics card; the rest
through Slicer's own package functions. Nothing is imported here: importing torch would lock its files.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from subprocess import CalledProcessError
from types import MappingProxyType

import slicer

from inrreg.protocol import UserError

TORCH = "2.1"
PACKAGES = {"numpy": "1.24", "SimpleITK": "2.3", "safetensors": "0.4"}
"""Packages besides torch, with the lowest version that will do, as in pyproject.toml."""
REPORT = {"matplotlib": "3.7", "jinja2": "3"}
"""What a report needs besides."""
NETWORK = "Check the network connection and the log, then register again."


def ensure(more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Return once everything, and `more`, is installed, asking where something has to be. Raises `UserError`."""
    ensure_torch()
    ensure_packages({**PACKAGES, **more})


def missing(packages: Mapping[str, str] = MappingProxyType(PACKAGES)) -> list[str]:
    """What of torch and the packages this computer lacks, or has in an older version only."""
    needed = {"torch": TORCH, **packages}
    return [package for package, version in needed.items() if not satisfied(package, version)]


def satisfied(package: str, version: str) -> bool:
    """Whether a package is installed in that version or a newer one."""
    if _installed(package) >= _numbers(version):
        return True
    # Looking anew is dear: only for what may have come meanwhile.
    importlib.invalidate_caches()
    return _installed(package) >= _numbers(version)


def _installed(package: str) -> tuple[int, ...]:
    """The version's leading numbers; before any version's where there is none."""
    try:
        return _numbers(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return (-1,)


def ensure_torch() -> None:
    """Install PyTorch through the PyTorch extension unless it is there. Raises `UserError` (code `torch`)."""
    if satisfied("torch", TORCH):
        return
    try:
        import PyTorchUtils
    except ImportError:
        hint = "Install the PyTorch extension in the Extensions Manager, restart Slicer, then register again."
        raise UserError("torch", "The PyTorch extension is not installed.", hint) from None
    if satisfied("torch", "0"):
        hint = "Uninstall it in the PyTorch Utils module, restart Slicer, then register again."
        raise UserError("torch", f"PyTorch is older than version {TORCH}.", hint)
    logic = PyTorchUtils.PyTorchUtilsLogic()
    try:
        torch = logic.installTorch(askConfirmation=True, torchVersionRequirement=f">={TORCH}")
    except Exception as error:
        # Another extension's code, over pip and the network: anything may come.
        raise UserError("torch", f"PyTorch could not be installed ({error}).", NETWORK) from None
    if torch is None:
        hint = "Register again to be asked again."
        raise UserError("torch", "PyTorch was not installed; registration needs it.", hint)
    if not satisfied("torch", TORCH):
        hint = "Restart Slicer, then register again."
        raise UserError("torch", "PyTorch is not usable yet.", hint)


def ensure_packages(packages: Mapping[str, str]) -> None:
    """Install packages, with these lowest versions, unless they are there. Raises `UserError` (code `package`)."""
    wanted = [package for package in missing(packages) if package in packages]
    if not wanted:
        return
    names = ", ".join(wanted)
    requirements = [f"{package}>={packages[package]}" for package in wanted]
    declined = UserError(
        "package", f"{names} was not installed; registration needs it.", "Register again to be asked again."
    )
    try:
        if importlib.util.find_spec("slicer.packaging") is not None:
            packaging = importlib.import_module("slicer.packaging")
            try:
                packaging.pip_ensure(requirements, requester="INRRegistration")
            except RuntimeError:
                raise declined from None
        else:
            text = f"INRRegistration needs these Python packages: {names}. Download and install them?"
            if not slicer.util.confirmOkCancelDisplay(text):
                raise declined
            slicer.util.pip_install(requirements)
    except (CalledProcessError, OSError) as error:
        raise UserError("package", f"{names} could not be installed ({error}).", NETWORK) from None
    still = [package for package in missing(packages) if package in wanted]
    if still:
        raise UserError("package", f"{', '.join(still)} is not usable yet.", "Restart Slicer, then register again.")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, enough to compare releases."""
    return tuple(int(number) for number in re.match(r"[\d.]*", version).group().split(".") if number)
