"""What happens when packages are missing, with stand-ins for PyTorchUtils and Slicer's package functions."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from subprocess import CalledProcessError

import pytest

from inrreg.protocol import UserError

EVERYTHING = {"torch": "2.4.1+cu121", "numpy": "2.0", "SimpleITK": "2.4.0", "safetensors": "0.5"}


@pytest.fixture
def computer(slicer, monkeypatch):
    """What is installed, by name; change it to install and uninstall."""
    found = dict(EVERYTHING)

    def version(name):
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    return found


@pytest.fixture
def ensure(computer):
    from INRRegistrationLib import dependencies

    return dependencies.ensure


def failing(ensure):
    with pytest.raises(UserError) as caught:
        ensure()
    assert caught.value.hint
    return caught.value


def put_pytorch_utils(monkeypatch, answer):
    """A stand-in for the PyTorch extension; `answer` plays installTorch."""
    calls = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
            calls.append((askConfirmation, torchVersionRequirement))
            return answer()

    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return calls


def put_packaging(monkeypatch, answer):
    """A stand-in for `slicer.packaging` of Slicer 5.12; `answer` plays pip_ensure."""
    import slicer

    module = types.ModuleType("slicer.packaging")
    module.__spec__ = importlib.machinery.ModuleSpec("slicer.packaging", None)
    module.pip_ensure = answer
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    monkeypatch.setattr(slicer, "packaging", module, raising=False)


def put_old_slicer(monkeypatch, confirmed, install):
    """A stand-in for the functions of Slicer 5.10, which has no `slicer.packaging`."""
    import slicer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: confirmed)
    monkeypatch.setattr(slicer.util, "pip_install", install)


def test_nothing_is_asked_when_everything_is_there(ensure):
    ensure()


def test_without_the_pytorch_extension(ensure, computer):
    del computer["torch"]
    error = failing(ensure)
    assert "PyTorch extension is not installed" in error.message
    assert "Extensions Manager" in error.hint


def test_pytorch_is_installed_on_consent(ensure, computer, monkeypatch):
    del computer["torch"]
    calls = put_pytorch_utils(monkeypatch, lambda: computer.update(torch="2.5.0") or object())
    ensure()
    assert calls == [(True, ">=2.1")]


def test_pytorch_is_declined(ensure, computer, monkeypatch):
    del computer["torch"]
    put_pytorch_utils(monkeypatch, lambda: None)
    assert "was not installed" in failing(ensure).message


@pytest.mark.parametrize("error", [CalledProcessError(1, "pip"), RuntimeError("no build"), ImportError("DLL")])
def test_pytorch_fails_to_install(ensure, computer, monkeypatch, error):
    def fail():
        raise error

    del computer["torch"]
    put_pytorch_utils(monkeypatch, fail)
    told = failing(ensure)
    assert "could not be installed" in told.message
    assert "network" in told.hint


def test_pytorch_needs_a_restart(ensure, computer, monkeypatch):
    del computer["torch"]
    put_pytorch_utils(monkeypatch, object)
    assert "Restart Slicer" in failing(ensure).hint


def test_pytorch_is_too_old(ensure, computer, monkeypatch):
    computer["torch"] = "1.13.1"
    put_pytorch_utils(monkeypatch, object)
    error = failing(ensure)
    assert "older than version 2.1" in error.message
    assert "Uninstall" in error.hint


def test_packages_are_installed_through_pip_ensure(ensure, computer, monkeypatch):
    del computer["safetensors"]
    computer["SimpleITK"] = "2.1.1"
    asked = []

    def pip_ensure(requirements, requester):
        asked.extend([*requirements, requester])
        computer.update(EVERYTHING)

    put_packaging(monkeypatch, pip_ensure)
    ensure()
    assert asked == ["SimpleITK>=2.3", "safetensors>=0.4", "INRRegistration"]


def test_packages_are_declined_in_pip_ensure(ensure, computer, monkeypatch):
    def pip_ensure(requirements, requester):
        raise RuntimeError("User declined")

    del computer["safetensors"]
    put_packaging(monkeypatch, pip_ensure)
    assert "safetensors was not installed" in failing(ensure).message


def test_packages_fail_to_install(ensure, computer, monkeypatch):
    def pip_ensure(requirements, requester):
        raise CalledProcessError(1, "pip")

    del computer["safetensors"]
    put_packaging(monkeypatch, pip_ensure)
    assert "network" in failing(ensure).hint


def test_packages_are_skipped_in_testing_mode(ensure, computer, monkeypatch):
    del computer["safetensors"]
    put_packaging(monkeypatch, lambda requirements, requester: None)
    assert "not usable yet" in failing(ensure).message


def test_packages_in_an_older_slicer(ensure, computer, monkeypatch):
    del computer["safetensors"]
    put_old_slicer(monkeypatch, True, lambda requirements: computer.update(EVERYTHING))
    ensure()


def test_packages_declined_in_an_older_slicer(ensure, computer, monkeypatch):
    del computer["safetensors"]
    put_old_slicer(monkeypatch, False, None)
    assert "safetensors was not installed" in failing(ensure).message


def test_the_panel_tells(user, pair, computer):
    del computer["torch"]
    user.choose(*pair)
    user.click()
    assert "PyTorch extension is not installed" in user.error
    assert not user.process.running
    user.screenshot("error-no-pytorch-extension")
    user.ui.advancedSection.collapsed = False
    assert not user.process.running
