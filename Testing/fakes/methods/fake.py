"""A method that exists for tests only: its settings tell the fake engine how to behave."""

from __future__ import annotations

from dataclasses import dataclass

from inrreg.protocol import Preset, Settings, setting

BEHAVIOURS = (
    "register",
    "hang",
    "seized",
    "deaf",
    "user-error",
    "memory",
    "gpu-memory",
    "internal",
    "prints",
    "incomplete",
    "exit",
)


@dataclass(frozen=True)
class FakeSettings(Settings):
    behaviour: str = setting("register", f"One of: {', '.join(BEHAVIOURS)}.")
    steps: int = setting(20, "Steps of the run.", low=1, high=100000)
    pause: float = setting(0.01, "Length of a step.", unit="s", low=0.0, high=1000.0)
    bump: tuple = setting((6.0, -4.0, 3.0), "Displacement in the middle, in LPS.", unit="mm", low=-100.0, high=100.0)
    mirrored: bool = setting(False, "A switch, so that the form shows one.")


PRESETS = (
    Preset("fake", FakeSettings(), "none", "Tests only."),
    Preset("fake-alpha", FakeSettings(), "none", "Tests only.", conditioned=True),
)
