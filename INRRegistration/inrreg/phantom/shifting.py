"""A small generated body whose organs shift by an amount and in a direction of their own for each patient.

For priors: which way the organs went is drawn anew for each pair and can be told from its images alone, so that the
mean of many motions knows nothing of the next one. Costs a fraction of a second, where a thorax takes many.

    moving(phi(x)) = fixed(x),   phi(x) = x + u(x)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from inrreg.geometry import Grid

ORGANS = (
    # centre and half axes in mm, LPS; HU
    ((-42.0, -6.0, 30.0), (24.0, 30.0, 34.0), -780.0),
    ((42.0, -6.0, 30.0), (24.0, 30.0, 34.0), -780.0),
    ((-22.0, 0.0, -28.0), (38.0, 32.0, 24.0), 110.0),
    ((36.0, 12.0, -30.0), (20.0, 22.0, 22.0), 300.0),
    ((0.0, 42.0, 0.0), (10.0, 10.0, 70.0), 420.0),
    ((6.0, -26.0, -2.0), (14.0, 14.0, 20.0), -300.0),
)
BODY = (76.0, 62.0, 88.0)
"""Half axes, mm."""
EDGE = 5.0
"""mm over which one tissue passes into the next."""
LESIONS, LESION_RADIUS, LESION_CONTRAST = 16, (5.0, 10.0), 200.0
REACH = 48.0
"""mm: the standard deviation of the Gaussian that the motion is, about the body's middle."""


@dataclass(frozen=True)
class Shifting:
    """A pair of images (int16, HU); `fixed_landmarks`, `moving_landmarks` (N, 3) LPS mm, inside the body."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_landmarks: np.ndarray
    moving_landmarks: np.ndarray


def shifting(
    size: int = 32,
    spacing: float = 6.0,
    *,
    seed: int = 0,
    amplitude: tuple[float, float] = (6.0, 18.0),
    noise: float = 15.0,
    landmarks: int = 200,
) -> Shifting:
    """The patient and the motion of that `seed` on a cube of `size` voxels of `spacing` mm.

    The largest displacement is drawn evenly from `amplitude`, mm, its direction evenly from all directions.
    """
    rng = np.random.default_rng([seed, 77])
    anatomy = _Anatomy.random(rng)
    direction = rng.normal(size=3)
    shift = rng.uniform(*amplitude) * direction / np.linalg.norm(direction)
    middle, reach = rng.normal(size=3) * 4.0, REACH * rng.uniform(0.9, 1.1)

    def displacement(points: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.square((points - middle) / reach).sum(-1))[..., None] * shift

    grid = Grid((size,) * 3, np.full(3, -0.5 * (size - 1) * spacing), spacing * np.eye(3))
    points = grid.points()
    origin = points
    for _ in range(12):  # its slope is at most a quarter
        origin = points - displacement(origin)
    images = []
    for places in (points, origin):
        values = anatomy.hounsfield(places) + noise * rng.standard_normal(places.shape[:-1])
        images.append(grid.image(np.clip(np.rint(values), -1024, 3071).astype(np.int16)))
    unit = rng.normal(size=(landmarks, 3))
    radius = 0.85 * rng.random((landmarks, 1)) ** (1 / 3)
    marks = unit / np.linalg.norm(unit, axis=1, keepdims=True) * radius * BODY
    return Shifting(*images, marks, marks + displacement(marks))


@dataclass(frozen=True)
class _Anatomy:
    """Centres (P, 3), half axes (P, 3) and HU (P,) of what is painted in turn, then lesions, added."""

    centres: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    lesions: np.ndarray
    radii: np.ndarray
    contrasts: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator) -> _Anatomy:
        centres, axes, values = (np.array(part) for part in zip(((0.0, 0.0, 0.0), BODY, 40.0), *ORGANS, strict=True))
        centres[1:] += 3.0 * rng.normal(size=centres[1:].shape)
        axes = axes * rng.uniform(0.92, 1.08, axes.shape)
        values = values + 15.0 * rng.normal(size=values.shape)
        lesions = rng.uniform(-0.6, 0.6, (LESIONS, 3)) * BODY
        radii = rng.uniform(*LESION_RADIUS, LESIONS)
        return cls(centres, axes, values, lesions, radii, LESION_CONTRAST * rng.uniform(-1, 1, LESIONS))

    def hounsfield(self, points: np.ndarray) -> np.ndarray:
        """Values (...) at points (..., 3)."""
        found = np.full(points.shape[:-1], -1000.0)
        for centre, axes, value in zip(self.centres, self.axes, self.values, strict=True):
            depth = (1 - np.linalg.norm((points - centre) / axes, axis=-1)) * axes.min()
            share = np.clip(0.5 + depth / EDGE, 0, 1)
            found += share * (value - found)
        for centre, radius, contrast in zip(self.lesions, self.radii, self.contrasts, strict=True):
            found += contrast * np.exp(-0.5 * np.square((points - centre) / radius).sum(-1))
        return found
