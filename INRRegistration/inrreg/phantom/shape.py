"""The surfaces of the thorax as implicit functions of LPS millimetres: negative inside, about a distance in mm.

The patient is centred on the origin: x grows to the patient's left, y to the back, z to the head.
Coordinates come as three arrays of one shape, and every function answers with an array of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Triple = tuple[float, float, float]

LOBES = {1: "left upper", 2: "left lower", 3: "right upper", 4: "right middle", 5: "right lower"}
LEFT_HILUM = (38.0, 16.0, 14.0)
RIGHT_HILUM = (-38.0, 16.0, 8.0)
VERTEBRA_PITCH = 24.0  # mm
CORNER = 10.0  # radius in mm over which the surfaces that bound a lung are rounded into each other


def smoothstep(t: np.ndarray) -> np.ndarray:
    """0 below t = 0, 1 above t = 1, twice continuously differentiable."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * t * (t * (6.0 * t - 15.0) + 10.0)


def smooth_max(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Intersection of two implicit shapes, rounded where they are within `radius` mm of each other only."""
    return np.maximum(a, b) + np.maximum(radius - np.abs(a - b), 0.0) ** 2 / (4.0 * radius)


def smooth_min(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Union of two implicit shapes, rounded like `smooth_max`."""
    return -smooth_max(-a, -b, radius)


def squircle(x: np.ndarray, y: np.ndarray, squareness: float) -> np.ndarray:
    """Radius in the family of shapes between the circle (0) and the square (1), homogeneous of degree one."""
    q = x * x + y * y
    return np.sqrt(0.5 * (q + np.sqrt(np.maximum(q * q - (2.0 * squareness * x * y) ** 2, 0.0))))


def ellipsoid(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: Triple, radii: Triple) -> np.ndarray:
    """An axis-aligned ellipsoid; the distance is right to first order at its surface."""
    p = [(c - m) / r for c, m, r in zip((x, y, z), centre, radii, strict=True)]
    k0 = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
    k1 = np.sqrt(sum((c / r) ** 2 for c, r in zip(p, radii, strict=True)))
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-6)


def cage_axes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half width, half depth and centre (y) of the inner surface of the rib cage at height z, mm."""
    top = smoothstep((z - 5.0) / 135.0)
    return 113.0 - 46.0 * top - 5.0 * smoothstep((-85.0 - z) / 70.0), 82.0 - 24.0 * top, 4.0 + 16.0 * top


def cage_radius(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Relative distance from the axis of the thorax: 1 on the inner surface of the rib cage."""
    a, b, centre = cage_axes(z)
    return squircle(x / a, (y - centre) / b, 0.72)


def cage(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Inner surface of the rib cage."""
    a, b, centre = cage_axes(z)
    radius = squircle(x / a, (y - centre) / b, 0.72)
    return (radius - 1.0) * np.hypot(x, y - centre) / np.maximum(radius, 1e-3)


def body(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The skin, with the furrow over the spine."""
    shoulders = smoothstep((z - 55.0) / 90.0)
    a, b, y = 137.0 + 3.0 * shoulders, 106.0 - 17.0 * shoulders, y - 11.0 * shoulders
    radius = squircle(x / a, y / b, 0.70)
    furrow = 6.0 * np.exp(-((x / 16.0) ** 2)) * (y > 0)
    return (radius - 1.0) * np.hypot(x, y) / np.maximum(radius, 1e-3) + furrow


def spine_centre(z: np.ndarray) -> np.ndarray:
    """The y of the centre of the vertebral bodies: the thoracic kyphosis."""
    return 62.0 - 12.0 * ((z - 10.0) / 140.0) ** 2


@dataclass(frozen=True)
class Shape:
    """What differs from patient to patient: heights and offsets in mm.

    right_dome, left_dome: tops of the diaphragm (z). heart: growth of the heart.
    left_oblique, right_oblique, horizontal: offsets of the fissures. bow: how far fissures bulge.
    """

    right_dome: float = -56.0
    left_dome: float = -68.0
    heart: float = 0.0
    left_oblique: float = 0.0
    right_oblique: float = 0.0
    horizontal: float = 0.0
    bow: float = 6.0

    @classmethod
    def random(cls, rng: np.random.Generator) -> Shape:
        """A patient."""
        offset = rng.uniform(-1.0, 1.0, 7)
        return cls(
            right_dome=-56.0 + 4.0 * offset[0],
            left_dome=-68.0 + 4.0 * offset[1],
            heart=3.0 * offset[2],
            left_oblique=7.0 * offset[3],
            right_oblique=7.0 * offset[4],
            horizontal=7.0 * offset[5],
            bow=6.0 + 3.0 * offset[6],
        )

    def diaphragm_height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The z of the diaphragm: two domes and, between them, the saddle under the heart, deepest at the back."""
        right = self.right_dome - 38.0 * ((x + 56.0) / 78.0) ** 2
        left = self.left_dome - 38.0 * ((x - 60.0) / 78.0) ** 2
        domes = smooth_max(right, left, 16.0) + 16.0 * np.exp(-(((x - 4.0) / 32.0) ** 2))
        behind = np.maximum(y + 8.0, 0.0)
        before = np.minimum(y + 8.0, 0.0)
        return domes - 42.0 * (behind / 90.0) ** 2 - 22.0 * (before / 75.0) ** 2

    def diaphragm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Negative above the diaphragm, about a distance."""
        slope = np.hypot(np.minimum(np.abs(np.abs(x) - 58.0) / 80.0, 1.0), np.maximum(y + 8.0, 0.0) / 96.0)
        return (self.diaphragm_height(x, y) - z) / np.sqrt(1.0 + slope**2)

    def heart_surface(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The pericardium: a long axis that points to the left, down and forward, and the great vessels' base."""
        c, s = 0.82, 0.57
        u, v, w = x - 17.0, y + 27.0, z + 46.0
        along, across = c * u - s * w, s * u + c * w
        g = self.heart
        ventricles = ellipsoid(along, v + 0.12 * along, across, (0.0, 0.0, 0.0), (56.0 + g, 42.0 + g, 42.0 + g))
        base = ellipsoid(x, y, z, (-8.0, -16.0, -14.0), (34.0, 34.0, 40.0))
        return smooth_min(ventricles, base, 12.0)

    def mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Everything between the lungs: heart, great vessels, hila, oesophagus, spine."""
        width = 25.0 + 6.0 * smoothstep((z - 70.0) / 60.0)
        column = (np.hypot(x / width, (y + 4.0) / 73.0) - 1.0) * width
        surface = smooth_min(column, self.heart_surface(x, y, z), 12.0)
        spine = (np.hypot(x / 22.0, (y - spine_centre(z) - 8.0) / 27.0) - 1.0) * 22.0
        surface = smooth_min(surface, spine, 10.0)
        descending = np.maximum(np.hypot(x - 23.0, y - 43.0) - 14.0, z - 62.0)
        surface = smooth_min(surface, descending, 6.0)
        arch = ellipsoid(x, y, z, (13.0, 10.0, 60.0), (25.0, 44.0, 17.0))
        surface = smooth_min(surface, arch, 8.0)
        hila = ellipsoid(np.abs(x), y, z, (32.0, 16.0, 11.0), (15.0, 17.0, 26.0))
        return smooth_min(surface, hila, 10.0)

    def pleura(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Both lungs: inside the rib cage, above the diaphragm, outside the mediastinum, below the apices."""
        apex = z - 118.0 + 12.0 * ((np.abs(x) - 42.0) / 44.0) ** 2 + 14.0 * ((y - 22.0) / 50.0) ** 2
        lungs = smooth_max(cage(x, y, z), self.diaphragm(x, y, z), CORNER)
        lungs = smooth_max(lungs, -self.mediastinum(x, y, z), CORNER)
        return smooth_max(lungs, 0.8 * apex, CORNER)

    def oblique_fissure(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Positive above and before the oblique fissure of the side on which x lies."""
        offset = np.where(x > 0, 6.0 + self.left_oblique, self.right_oblique)
        side = (np.abs(x) - 62.0) / 45.0
        return (z + 14.0 - offset - 1.02 * y + self.bow * side**2 - 5.0 * np.sin(y / 28.0)) / 1.43

    def horizontal_fissure(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Positive above the horizontal fissure (right lung only)."""
        bulge = self.bow * (1.0 - ((x + 62.0) / 45.0) ** 2)
        return z - 2.0 - self.horizontal - 0.12 * y - bulge

    def lobes(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The lobe, as numbered in `LOBES`, of points inside the lungs (uint8)."""
        upper = self.oblique_fissure(x, y, z) > 0
        left = np.where(upper, 1, 2)
        right = np.where(upper, np.where(self.horizontal_fissure(x, y, z) > 0, 3, 4), 5)
        return np.where(x > 0, left, right).astype(np.uint8)

    def fissures(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance in mm to the nearest fissure."""
        oblique = self.oblique_fissure(x, y, z)
        horizontal = np.abs(self.horizontal_fissure(x, y, z))
        return np.minimum(np.abs(oblique), np.where((x < 0) & (oblique > 0), horizontal, np.inf))
