"""The moving image as another scanner would show it: other contrasts, and the limits of a cone-beam CT."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

CURVES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "hounsfield": ((-1024.0, 3071.0), (-1024.0, 3071.0)),
    "inverted": ((-1024.0, 1024.0), (2048.0, 0.0)),
    "nonlinear": ((-1000.0, -920.0, -500.0, 40.0, 400.0), (0.0, 700.0, 420.0, 250.0, 20.0)),
}
"""Contrasts by name: HU, and the values they become, linear between. `nonlinear` rises and falls: air is dark, lungs
are brightest, fat, muscle and blood darker the denser they are, and bone is as dark as air."""

RADIUS = 0.75
"""Of a cone-beam's field of view, in half the grid's smaller side across the patient."""
HEIGHT = 0.85
"""Of it, in the grid's height."""
CUPPING = 0.18
"""Share of the attenuation that scatter takes from the centre of a cone-beam."""
VIEWS, STREAKS = 48, 60.0
"""Directions of the streaks of a cone-beam, and their standard deviation in HU."""


def contrast(hu: Array, name: str) -> Array:
    """Values of an image in HU under the curve of that name."""
    return hu if name == "hounsfield" else np.interp(hu, *CURVES[name]).astype(np.float32)


def in_view(points: Array, axes: list[Array], margin: float = 0.0) -> Array:
    """Whether points (..., 3) in mm lie in a cone-beam's cylinder, by `margin` mm: narrower than most chests.

    `axes` are the x, y and z of the grid's voxels in mm.
    """
    z = axes[2]
    beside = np.hypot(points[..., 0], points[..., 1]) + margin < _radius(axes)
    return beside & (np.abs(points[..., 2] - z.mean()) + margin < HEIGHT * np.ptp(z) / 2)


def cone_beam(hu: Array, axes: list[Array], rng: np.random.Generator) -> Array:
    """A CT (Z, Y, X) in HU as a cone-beam shows it: cupped by scatter, and streaked. `axes` as in `in_view`."""
    x, y, z = axes
    part = 1 - np.hypot(x, y[:, None]) ** 2 / _radius(axes) ** 2
    cupped = (hu + 1000) * (1 - CUPPING * np.clip(part, 0, 1)) - 1000
    streaks = np.zeros_like(hu)
    step = abs(x[1] - x[0])
    for angle in rng.uniform(0, np.pi, VIEWS):
        along = np.rint((x * np.cos(angle) + y[:, None] * np.sin(angle)) / step).astype(int)
        profile = rng.standard_normal((len(z), np.ptp(along) + 1), dtype=np.float32)
        streaks += profile[:, along - along.min()]
    return cupped + STREAKS * streaks / streaks.std()


def _radius(axes: list[Array]) -> float:
    return RADIUS * min(np.ptp(axes[0]), np.ptp(axes[1])) / 2
