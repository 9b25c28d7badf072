"""Breathing as a known, invertible map from the fixed to the moving state.

    phi(x) = b(s(x)),   b(p) = p + scale * u(p)

b is smooth everywhere. s is the identity unless sliding is asked for: then it moves the lungs along the
inner surface of the rib cage, maps each lung exactly onto itself and leaves everything else where it is,
so that phi jumps at the pleura, tangentially, while no gap or overlap opens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .shape import Shape, cage_axes, cage_radius, smoothstep, spine_centre

TOLERANCE = 1e-5  # mm, of inverses
WAVES = 7

Shift = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Breathing:
    """The smooth part: p + scale * u(p) with u of order one.

    phase: +1 when the fixed state is the inhale, -1 when it is the exhale. asymmetry: left against right.
    expansion: (2,) share of the lateral and of the anterior motion of the chest. vectors (K, 3),
    wave_vectors (K, 3) in 1/mm and offsets (K,): the patient's own irregularity, as smooth random waves.
    reach: the relative cage radius (see `cage_radius`) where motion begins to fade and where it has ended.
    depth, widening: shares of the diaphragm's motion and of the chest's, which lags behind it (see `at`).
    """

    scale: float
    phase: float
    asymmetry: float
    expansion: np.ndarray
    vectors: np.ndarray
    wave_vectors: np.ndarray
    offsets: np.ndarray
    reach: tuple[float, float]
    depth: float = 1.0
    widening: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator, *, reach: tuple[float, float]) -> Breathing:
        """A way of breathing, of scale 1 mm."""
        direction = rng.normal(size=(WAVES, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = rng.uniform(120.0, 200.0, (WAVES, 1))
        return cls(
            scale=1.0,
            phase=rng.choice([-1.0, 1.0]),
            asymmetry=rng.uniform(-0.3, 0.3),
            expansion=rng.uniform(0.1, 0.5, 2),
            vectors=rng.normal(size=(WAVES, 3)) * 0.11,
            wave_vectors=2.0 * np.pi * direction / wavelength,
            offsets=rng.uniform(0.0, 2.0 * np.pi, WAVES),
            reach=reach,
        )

    def at(self, time: float, lag: float) -> Breathing:
        """The breathing at a time, 0 to 1 of a cycle that begins and ends at rest, whole at 1/2 but for the lag.

        The chest follows the diaphragm `lag` cycles later, so that points go one way and come back by another: the
        hysteresis of lung motion (Seppenwoolde et al., IJROBP 53(4), 2002; Low et al., IJROBP 63(3), 2005).
        """

        def depth(at: float) -> float:
            return 0.5 - 0.5 * math.cos(2.0 * math.pi * at)

        return replace(self, depth=depth(time), widening=depth(time - lag) - depth(-lag))

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """Displacement (N, 3) in mm at points (N, 3)."""
        x, y, z = points.T
        lower = smoothstep((122.0 - z) / 195.0)
        side = 1.0 + self.asymmetry * np.tanh(x / 45.0)
        waves = np.sin(points @ self.wave_vectors.T + self.offsets) @ self.vectors * (0.3 + 0.7 * lower[:, None])
        lateral, anterior = self.widening * self.expansion
        regular = np.stack(
            [-lateral * x / 80.0 * lower, anterior * (90.0 - y) / 110.0 * lower, self.depth * lower * side], axis=1
        )
        return (self.scale * self._window(x, y, z))[:, None] * (self.phase * regular + self.depth * waves)

    def _window(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """1 inside, 0 at the spine, outside the body and above the shoulders."""
        begin, end = self.reach
        wall = 1.0 - smoothstep((cage_radius(x, y, z) - begin) / (end - begin))
        spine = smoothstep((np.hypot(x, y - spine_centre(z) - 6.0) - 16.0) / 54.0)
        return wall * spine * smoothstep((150.0 - z) / 60.0)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """b(p) for points (N, 3)."""
        return points + self.displacement(points)

    def inverse(self, points: np.ndarray, start: np.ndarray | None = None, tolerance: float = TOLERANCE) -> np.ndarray:
        """The points (N, 3) that b maps to `points`, by fixed-point iteration (the field's slope is mostly shear)."""
        return _fixed_point(points, lambda p, _: self.displacement(p), points if start is None else start, tolerance)


@dataclass(frozen=True)
class Slide:
    """The sliding part, closed form: at constant (X, Y), the position relative to the cage's section, z moves.

    Surfaces of constant cage radius, the costal pleura among them, are mapped onto themselves. The motion
    (`height` mm at most) fades out before diaphragm, apex and mediastinum.
    """

    shape: Shape
    height: float

    def apply(self, points: np.ndarray) -> np.ndarray:
        """s(p) for points (N, 3) inside the lungs."""
        section, z = _to_section(points)
        return _from_section(section, z + self._rise(section, z))

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """The points (N, 3) inside the lungs that s maps to `points`."""
        section, z = _to_section(points)
        start = _fixed_point(z[:, None], lambda v, i: self._rise(section[i], v[:, 0])[:, None], z[:, None])
        return _from_section(section, start[:, 0])

    def determinant(self, points: np.ndarray) -> np.ndarray:
        """Jacobian determinant (N,) of s."""
        section, z = _to_section(points)
        stretch = 1.0 + (self._rise(section, z + 0.05) - self._rise(section, z - 0.05)) / 0.1
        before, after = cage_axes(z), cage_axes(z + self._rise(section, z))
        return stretch * after[0] * after[1] / (before[0] * before[1])

    def _rise(self, section: np.ndarray, z: np.ndarray) -> np.ndarray:
        a, b, centre = cage_axes(np.float64(-60.0))
        floor = self.shape.diaphragm_height(section[:, 0] * a, section[:, 1] * b + centre) + 14.0
        t = np.clip((z - floor) / (68.0 - floor), 0.0, 1.0)
        lateral = smoothstep((np.abs(section[:, 0]) - 0.72) / 0.24)
        return self.height * lateral * (4.0 * t * (1.0 - t)) ** 3


@dataclass(frozen=True)
class Motion:
    """phi and its inverse, in LPS millimetres."""

    shape: Shape
    breathing: Breathing
    slide: Slide | None = None

    @classmethod
    def random(cls, shape: Shape, rng: np.random.Generator, *, sliding: bool) -> Motion:
        """A motion of scale 1 mm. With sliding, the smooth part ends at the ribs; without, at the skin."""
        breathing = Breathing.random(rng, reach=(0.48, 1.02) if sliding else (0.52, 1.28))
        return cls(shape, breathing, Slide(shape, 0.8 * breathing.phase) if sliding else None)

    def scaled(self, factor: float) -> Motion:
        """The same pattern, `factor` times as large."""
        slide = self.slide and replace(self.slide, height=self.slide.height * factor)
        return replace(self, breathing=replace(self.breathing, scale=self.breathing.scale * factor), slide=slide)

    def with_peak(self, amplitude: float, points: np.ndarray) -> Motion:
        """Scaled so that the largest displacement over points (N, 3) is `amplitude` mm."""
        size = np.linalg.norm(self.scaled(amplitude).displacement(points), axis=1)
        highest = points[np.argsort(size)[-max(2000, len(points) // 50) :]]
        factor = amplitude
        for _ in range(50):
            peak = np.linalg.norm(self.scaled(factor).displacement(highest), axis=1).max()
            if abs(peak - amplitude) < 1e-9 * amplitude:
                break
            factor *= amplitude / peak
        return self.scaled(factor)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """phi(x): fixed-space points (N, 3) to moving-space points."""
        return self.breathing.apply(self._in_lungs(self.slide and self.slide.apply, points))

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """u(x) = phi(x) - x, (N, 3) in mm."""
        return self.apply(points) - points

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Moving-space points (N, 3) to fixed-space points, to within `TOLERANCE` mm."""
        return self._in_lungs(self.slide and self.slide.inverse, self.breathing.inverse(points))

    def _in_lungs(self, move: Callable[[np.ndarray], np.ndarray] | None, points: np.ndarray) -> np.ndarray:
        """Points (N, 3), those inside the pleura moved."""
        if move is None:
            return points
        moved, inside = points.copy(), self.shape.pleura(*points.T) < 0
        moved[inside] = move(points[inside])
        return moved


def _to_section(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = points.T
    a, b, centre = cage_axes(z)
    return np.stack([x / a, (y - centre) / b], axis=1), z


def _from_section(section: np.ndarray, z: np.ndarray) -> np.ndarray:
    a, b, centre = cage_axes(z)
    return np.stack([section[:, 0] * a, section[:, 1] * b + centre, z], axis=1)


def _fixed_point(target: np.ndarray, shift: Shift, start: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Solve p + shift(p, index) = target for rows p; rows that have converged are left out of further steps."""
    solution = start.copy()
    active = np.arange(len(target))
    for _ in range(200):
        if not len(active):
            return solution
        update = target[active] - shift(solution[active], active)
        moving = np.abs(update - solution[active]).max(axis=1) > 0.1 * tolerance
        solution[active] = update
        active = active[moving]
    raise ValueError("The motion is too large to be invertible: choose a smaller amplitude.")
