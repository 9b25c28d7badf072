"""Hounsfield units of the tissues around and in the lungs, at any points of the fixed state.

An edge is a ramp `width` mm wide, as a voxel of that size would average it. Coordinates are three arrays of one
shape, LPS mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shape import VERTEBRA_PITCH, Shape, body, cage, cage_axes, ellipsoid, smooth_max, smoothstep, spine_centre
from .vessels import Capsules

Array = np.ndarray

AIR, FAT, MUSCLE, BLOOD = -1000.0, -100.0, 52.0, 42.0
INHALE, EXHALE = -885.0, -825.0  # of the parenchyma alone; its vessels raise a lung's mean by 60 HU or more
RIB_PITCH = 23.0


def tissue(x: Array, y: Array, z: Array, shape: Shape, width: float) -> Array:
    """HU of the whole patient, on the scanner's table; the lungs are left as fat."""
    hu = np.full(x.shape, AIR, np.float32)
    skin, wall = body(x, y, z), cage(x, y, z)
    table = np.maximum(np.abs(y - 112.0 + 30.0 * (x / 200.0) ** 2) - 1.5, np.abs(x) - 150.0)
    _fill(hu, -350.0, table, width)
    _fill(hu, 20.0, skin, width)
    _fill(hu, FAT, skin + 2.0, width)
    _fill(hu, _muscle(x, y, z), skin + 9.0 + 4.0 * np.abs(x) / 130.0, width)
    _fill(hu, FAT, np.maximum(np.abs(wall - 12.0) - 0.9, 30.0 - np.abs(x)), width)
    near = np.flatnonzero((wall > -6.0) & (wall < 30.0) & (skin < 0.0))
    _on(hu, near, _bones_of_the_wall, x, y, z, wall, width)
    _fill(hu, FAT, wall + 1.0, width)
    inside = np.flatnonzero(wall < 0.0)
    _on(hu, inside, _viscera, x, y, z, wall, shape, width)
    back = np.flatnonzero((np.abs(x) < 42.0) & (y > 30.0) & (skin < 0.0))
    _on(hu, back, _spine, x, y, z, width)
    return hu


def parenchyma(x: Array, y: Array, z: Array, shape: Shape, texture: Texture, thickness: float) -> Array:
    """HU of lung tissue without its vessels: denser at the back, mottled, with the fissures drawn.

    thickness: of the thickest voxel side in mm, over which a fissure is spread so that no slice misses it.
    """
    hu = texture.base + 0.45 * (y - 10.0) + texture.at(x, y, z)
    thin = np.clip(1.0 - shape.fissures(x, y, z) / thickness, 0.0, 1.0) * min(1.0, 1.1 / thickness)
    return hu + thin * (-150.0 - hu)


@dataclass(frozen=True)
class Texture:
    """The lung's density: mean (base, HU) and a mottle made of sines, wave_vectors (K, 3) in 1/mm."""

    base: float
    wave_vectors: Array
    offsets: Array
    amplitude: float = 7.0

    @classmethod
    def random(cls, rng: np.random.Generator, *, inhale: bool) -> Texture:
        """The texture of a patient in inhale or exhale."""
        direction = rng.normal(size=(16, 3))
        wavelength = rng.uniform(9.0, 40.0, (16, 1))
        vectors = 2.0 * np.pi * direction / np.linalg.norm(direction, axis=1, keepdims=True) / wavelength
        return cls(INHALE if inhale else EXHALE, vectors, rng.uniform(0.0, 2.0 * np.pi, 16))

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Deviation from the mean in HU."""
        total = np.zeros_like(x)
        for (kx, ky, kz), offset in zip(self.wave_vectors, self.offsets, strict=True):
            total += np.sin(x.dtype.type(kx) * x + x.dtype.type(ky) * y + x.dtype.type(kz) * z + x.dtype.type(offset))
        return self.amplitude * total


def great_vessels() -> Capsules:
    """Aorta with its branches, caval veins and pulmonary arteries."""
    aorta = [(-6, -20, -5), (-13, -22, 25), (-10, -14, 50), (3, 2, 62), (15, 22, 61), (22, 38, 48), (22, 43, 10)]
    aorta += [(20, 43, -60), (12, 40, -110), (8, 38, -170)]
    return Capsules.join(
        [
            Capsules.path(aorta, [15, 15, 14.5, 13.5, 12.5, 12, 11.5, 11, 10.5, 10]),
            Capsules.path([(-6, -12, 60), (-16, -8, 95), (-20, -2, 150)], [6, 6, 5]),
            Capsules.path([(4, 0, 66), (8, 2, 95), (14, 4, 150)], [5, 4.5, 4]),
            Capsules.path([(13, 14, 66), (20, 14, 95), (30, 12, 150)], [5, 5, 4.5]),
            Capsules.path([(-24, -8, -10), (-25, -10, 40), (-22, -12, 80), (-26, -10, 150)], [10, 9.5, 8, 7]),
            Capsules.path([(-22, -14, 78), (5, -24, 84), (26, -14, 105), (32, -4, 150)], [7, 6.5, 6.5, 6]),
            Capsules.path([(-18, 0, -60), (-20, 10, -90), (-18, 22, -170)], [12, 12, 11]),
            Capsules.path([(16, -34, -8), (18, -22, 22), (26, 0, 26), (40, 16, 20)], [14, 14, 12, 9]),
            Capsules.path([(18, -20, 22), (0, 0, 14), (-22, 10, 12), (-40, 14, 11)], [12, 11, 10.5, 9]),
            Capsules.path([(-5, 12, -14), (-36, 16, -4)], [9, 7]),
            Capsules.path([(5, 14, -12), (36, 18, 2)], [9, 7]),
        ]
    )


def great_airways() -> Capsules:
    """Lumen of the trachea and of the main bronchi, down to the hila."""
    return Capsules.join(
        [
            Capsules.path([(-2, 6, 160), (-1, 12, 100), (0, 20, 40)], [8.5, 8.5, 8.5]),
            Capsules.path([(0, 20, 40), (-20, 21, 22), (-38, 21, 6)], [7.5, 7, 6]),
            Capsules.path([(0, 20, 40), (22, 24, 24), (38, 22, 12)], [6.5, 6, 5.5]),
        ]
    )


def _fill(hu: Array, value: Array | float, surface: Array, width: float) -> None:
    """Blend `value` into hu inside an implicit surface."""
    hu += np.clip(0.5 - surface / width, 0.0, 1.0) * (value - hu)


def _on(hu: Array, where: Array, draw: Callable[..., None], *arguments: Array | Shape | float) -> None:
    """Draw on the voxels with the flat indices `where` only; array arguments are cut down likewise."""
    part = hu.reshape(-1)[where]
    draw(part, *(a.reshape(-1)[where] if isinstance(a, np.ndarray) else a for a in arguments))
    hu.reshape(-1)[where] = part


def _muscle(x: Array, y: Array, z: Array) -> Array:
    strands = np.sin(0.23 * np.abs(x) + 0.11 * z) * np.sin(0.21 * y - 0.17 * z)
    return MUSCLE - 110.0 * np.maximum(strands - 0.55, 0.0) / 0.45


def _bones_of_the_wall(hu: Array, x: Array, y: Array, z: Array, wall: Array, width: float) -> None:
    a, b, centre = cage_axes(z)
    angle = np.arctan2(np.abs(x) / a, (y - centre) / b) / np.pi  # 0 at the spine, 1 at the sternum
    _ribs(hu, x, z, wall, angle, width)
    half_width = 17.0 + 9.0 * smoothstep((z - 55.0) / 25.0)
    sternum = np.maximum(np.maximum(np.abs(wall - 8.0) - 5.0, np.abs(x) - half_width), np.abs(z - 22.0) - 72.0)
    _bone(hu, np.where(y < 0, sternum, 99.0), width, marrow=150.0, cortex=500.0)
    tip = 1.0 - np.clip((z - 20.0) / 110.0, 0.0, 1.0)
    blade = np.maximum(np.abs(angle - 0.34 + 0.04 * tip) - 0.11 * (1.0 - 0.8 * tip), (30.0 - z) / 130.0) * 280.0
    blade = np.maximum(blade, np.abs(wall - 17.0 - 3.0 * np.cos(20.0 * angle)) - 2.2)
    _bone(hu, blade, width, marrow=380.0, cortex=650.0)
    along = np.clip((np.abs(x) - 20.0) / 95.0, 0.0, 1.0)
    clavicle = np.hypot(y + 48.0 - 26.0 * along, z - 104.0 - 26.0 * along) - 6.5
    _bone(hu, np.maximum(clavicle, 20.0 - np.abs(x)), width, marrow=250.0, cortex=750.0)


def _ribs(hu: Array, x: Array, z: Array, wall: Array, angle: Array, width: float) -> None:
    """Twelve pairs: each runs down towards the front, where cartilage carries it up to the sternum."""
    fall = 90.0 * smoothstep((angle + 0.1) / 0.95) - 30.0 * smoothstep((angle - 0.74) / 0.3)
    level = z + fall
    offset = level - RIB_PITCH * np.round(level / RIB_PITCH)
    section = np.hypot(offset / 7.0, (wall - 5.5) / 3.8)
    last = np.clip(0.97 - 0.0075 * np.maximum(-level + 20.0, 0.0), 0.35, 1.0)
    surface = np.maximum((section - 1.0) * 4.6, np.maximum(12.0 - np.abs(x), (angle - last) * 250.0))
    surface = np.maximum(surface, level - 150.0)
    cartilage = smoothstep((angle - 0.76) / 0.06)
    _bone(hu, surface, width, marrow=230.0 - 120.0 * cartilage, cortex=780.0 - 630.0 * cartilage)


def _bone(
    hu: Array, surface: Array, width: float, *, marrow: Array | float, cortex: Array | float, thickness: float = 1.3
) -> None:
    _fill(hu, cortex, surface, width)
    _fill(hu, marrow, surface + thickness, width)


def _spine(hu: Array, x: Array, y: Array, z: Array, width: float) -> None:
    centre = spine_centre(z)
    level = z - VERTEBRA_PITCH * np.round(z / VERTEBRA_PITCH)
    v = y - centre
    _fill(hu, MUSCLE, np.hypot(x / 30.0, (v - 28.0) / 20.0) * 24.0 - 24.0, width)
    waist = 1.0 - 0.10 * (1.0 - (level / 10.0) ** 2)
    outline = (np.hypot(x / 17.5, v / 14.0) / waist - 1.0) * 15.0
    _fill(hu, 85.0, np.maximum(outline, np.abs(level) - 13.0), width)
    _bone(hu, np.maximum(outline, np.abs(level) - 9.8), width, marrow=190.0, cortex=480.0, thickness=1.5)
    process = np.maximum(
        np.abs(v - 17.0 - 0.35 * np.abs(x)) - 4.0, np.maximum(np.abs(x) - 33.0, np.abs(level - 2.0) - 5.0)
    )
    _bone(hu, process, width, marrow=260.0, cortex=620.0)
    canal = np.hypot(x, v - 23.0)
    arch = np.maximum(canal - 13.0, np.abs(level) - 9.0)
    spinous = np.maximum(np.maximum(np.abs(x) - 3.2, np.abs(v - 40.0) - 9.0), np.abs(level + 0.4 * (v - 34.0)) - 5.5)
    _bone(hu, np.minimum(arch, spinous), width, marrow=330.0, cortex=650.0)
    _fill(hu, -30.0, canal - 8.5, width)
    _fill(hu, 35.0, canal - 5.5, width)


def _viscera(hu: Array, x: Array, y: Array, z: Array, wall: Array, shape: Shape, width: float) -> None:
    diaphragm = shape.diaphragm(x, y, z)
    heart = shape.heart_surface(x, y, z)
    _fill(hu, BLOOD, heart + 3.5, width)
    groove = np.abs(0.82 * (x - 17.0) - 0.57 * (z + 46.0) + 16.0) - 0.22 * (heart + 17.0)
    _fill(hu, FAT, np.maximum(groove, -heart - 17.0), width)
    _fill(hu, 38.0, np.hypot(x - 5.0, (y - 36.0) * 1.4) - 7.5, width)
    below = -diaphragm
    _fill(hu, FAT, below, width)
    _fill(hu, 48.0, np.maximum(np.abs(below) - 1.8, -heart), width)
    abdomen = smooth_max(below + 3.0, wall + 5.0, 8.0)
    stomach = smooth_max(abdomen, ellipsoid(x, y, z, (50.0, -18.0, -116.0), (40.0, 46.0, 44.0)), 8.0)
    _fill(hu, 40.0, stomach, width)
    _fill(hu, np.where(y < -34.0, -950.0, 18.0), stomach + 4.0, width)
    _fill(hu, 52.0, smooth_max(abdomen, ellipsoid(x, y, z, (84.0, 44.0, -112.0), (28.0, 36.0, 36.0)), 8.0), width)
    edge = (x - 34.0 - 0.55 * np.maximum(-y, -60.0)) * 0.85
    liver = smooth_max(abdomen, np.maximum(edge, 36.0 - np.hypot(x - 8.0, y - 56.0)), 12.0)
    _fill(hu, 60.0, np.maximum(liver, -stomach), width)
