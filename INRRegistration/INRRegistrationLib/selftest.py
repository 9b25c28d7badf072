"""The scenario that the module's self test and the tests in a real Slicer share."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

SETTINGS: dict[str, Any] = {}
"""Overrides that keep the test short."""


def make_pair() -> tuple[Any, Any]:
    """Two small volumes of blobs, 3 mm voxels: the moving one displaced by a smooth bump of up to 6 mm."""
    nodes = []
    for name, bump in (("Fixed", 0.0), ("Moving", 6.0)):
        k, j, i = np.meshgrid(*[np.arange(n, dtype=float) for n in (24, 32, 36)], indexing="ij")
        i = i + bump / 3 * np.exp(-((i - 18) ** 2 + (j - 16) ** 2 + (k - 12) ** 2) / 60)
        blobs = sum(
            np.exp(-((i - a) ** 2 + (j - b) ** 2 + (k - c) ** 2) / 18)
            for a, b, c in np.random.default_rng(1).uniform(6, 26, (25, 3))
        )
        array = np.round(800 * blobs / blobs.max()).astype(np.int16)
        node = slicer.util.addVolumeFromArray(array)
        node.SetName(name)
        node.SetSpacing(3, 3, 3)
        node.SetOrigin(-50, -40, 20)
        nodes.append(node)
    return nodes[0], nodes[1]


def check_registration(logic: Any) -> None:
    """Register such a pair through the logic; raises `AssertionError` where the result is wrong."""
    fixed, moving = make_pair()
    run = logic.register(fixed, moving, overrides=SETTINGS, resample=True, wait=False)
    steps = []
    run.progress.connect(lambda data: steps.append(data["step"]))
    while run.active:
        slicer.app.processEvents()
    assert run.state == "done", run.error
    assert len(steps) > 1
    assert moving.GetParentTransformNode() is run.transform
    before = _difference(fixed, moving)
    after = _difference(fixed, run.volume)
    assert after < before / 2, f"mean difference {after:.1f} after registration, {before:.1f} before"


def _difference(one: Any, other: Any) -> float:
    arrays = [slicer.util.arrayFromVolume(node).astype(float) for node in (one, other)]
    return float(np.abs(arrays[0] - arrays[1]).mean())
