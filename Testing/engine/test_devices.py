"""Which device a registration takes."""

from __future__ import annotations

import pytest
import torch

from inrreg.devices import choose_device, devices
from inrreg.protocol import UserError


def with_gpus(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (2, False, "auto", "cuda:0"),
        (0, True, "auto", "cpu"),
        (0, True, "mps", "mps"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, True, "cpu", "cpu"),
    ],
)
def test_the_device_of_a_name(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, name: str, expected: str) -> None:
    with_gpus(monkeypatch, cuda, mps)
    assert str(choose_device(name)) == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:2", "mps", "tpu", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_gpus(monkeypatch, 2 if name == "cuda:2" else 0, False)
    with pytest.raises(UserError, match="Choose one of: auto, cpu") as refused:
        choose_device(name)
    assert refused.value.code == "device"


def test_devices_have_names_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 1, True)
    assert devices() == {"cpu": "CPU", "cuda:0": "card 0", "mps": "Apple GPU"}
