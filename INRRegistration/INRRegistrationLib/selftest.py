"""The scenario that the module's self test and the tests in a real Slicer share."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import slicer

SETTINGS: dict[str, Any] = {"steps": [40, 30, 20], "width": 64}
"""Overrides that keep the test short."""


def make_pair() -> tuple[Any, Any]:
    """Two small volumes of smooth texture, 3 mm voxels: the moving one displaced by a bump of up to 9 mm."""
    rng = np.random.default_rng(1)
    waves = rng.normal(0, 2 * np.pi / 40, (40, 3))
    phases = rng.uniform(0, 2 * np.pi, 40)
    nodes = []
    for name, bump in (("Fixed", 0.0), ("Moving", 9.0)):
        k, j, i = np.meshgrid(*[3.0 * np.arange(n) for n in (24, 32, 36)], indexing="ij")
        i = i + bump * np.exp(-((i - 54) ** 2 + (j - 48) ** 2 + (k - 36) ** 2) / 600)
        texture = sum(np.cos(a * i + b * j + c * k + phase) for (a, b, c), phase in zip(waves, phases, strict=True))
        node = slicer.util.addVolumeFromArray(np.clip(400 + 60 * texture, 0, 1000).astype(np.int16))
        node.SetName(name)
        node.SetSpacing(3, 3, 3)
        node.SetOrigin(-50, -40, 20)
        nodes.append(node)
    return nodes[0], nodes[1]


def check_registration(logic: Any) -> None:
    """Register such a pair through the logic; raises `AssertionError` where the result is wrong."""
    fixed, moving = make_pair()
    run = logic.register(fixed, moving, overrides=SETTINGS, threads=1, resample=True, wait=False)
    steps = []
    run.progress.connect(lambda data: steps.append(data["step"]))
    while run.active:
        slicer.app.processEvents()
        time.sleep(0.01)
    assert run.state == "done", run.error
    assert len(steps) > 1
    assert moving.GetParentTransformNode() is run.transform
    before = _difference(fixed, moving)
    after = _difference(fixed, run.volume)
    assert after < before / 2, f"mean difference {after:.1f} after registration, {before:.1f} before"


def _difference(one: Any, other: Any) -> float:
    arrays = [slicer.util.arrayFromVolume(node).astype(float) for node in (one, other)]
    return float(np.abs(arrays[0] - arrays[1]).mean())
