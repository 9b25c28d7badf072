"""Lung CT pairs whose truth is known at every point: one scan, and the same scan seen through a known field.

    python -m benchmarks.known [--seeds 0,1,2]      prints the size and the regularity of each field

There is no second scan of that patient: the evaluation data's CT is the moving image, and the fixed image is made
from it, fixed(x) = moving(phi(x)), so that the truth at a fixed point is phi itself, in closed form, without an
inverse. Breathing lifts the diaphragm most and the apex hardly; smooth random waves are the patient's own. Both images
get noise of their own, and the lung the density that the change of its volume gives it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.data import Pair, data_root
from inrreg.geometry import Grid
from inrreg.metrics import jacobian_determinant
from inrreg.transforms import sample_on

MEAN = 15.6
"""Mean displacement, in mm, where the scan's lung lies; in the fixed image's lung, which is larger, it is 1 mm more."""
NOISE = 20.0
"""Standard deviation in HU, independent in both images."""
POINTS = 300
"""Random points of the lung at which the error is taken."""
BORDER = 45.0
"""Distance in mm from a face of the image within which the motion through that face fades to none."""
WAVES = 8


@dataclass(frozen=True)
class Field:
    """phi(x) = x + scale (breathing + waves), in LPS mm, over the box of `grid`, which it maps into itself.

    `vectors` (K, 3), `wave_vectors` (K, 3) in 1/mm and `offsets` (K,) are the waves; `forward` is the part of the
    breathing that goes forward, and `apex` the part of it that is left at the top.
    """

    grid: Grid
    vectors: np.ndarray
    wave_vectors: np.ndarray
    offsets: np.ndarray
    forward: float
    apex: float
    scale: float = 1.0

    @classmethod
    def random(cls, grid: Grid, seed: int) -> Field:
        """The field of that seed, with about 1 mm of breathing at the diaphragm."""
        rng = np.random.default_rng(seed)
        direction = rng.normal(size=(WAVES, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = rng.uniform(90.0, 180.0, (WAVES, 1))
        vectors = rng.normal(size=(WAVES, 3)) * 0.07
        offsets = rng.uniform(0, 2 * np.pi, WAVES)
        forward, apex = rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.25)
        return cls(grid, vectors, 2 * np.pi * direction / wavelength, offsets, forward, apex)

    def scaled(self, points: np.ndarray) -> Field:
        """The same pattern with a mean displacement of `MEAN` mm over points (N, 3)."""
        return replace(self, scale=self.scale * MEAN / np.linalg.norm(self.map(points) - points, axis=1).mean())

    def map(self, points: np.ndarray) -> np.ndarray:
        """Moving-space points (N, 3) of fixed-space points (N, 3) inside the grid's box."""
        low, high = self.grid.origin, self.grid.origin + self.grid.extent
        depth = (high[2] - points[:, 2]) / self.grid.extent[2]
        breathing = self.apex + (1 - self.apex) * _smoothstep(depth / 0.85)
        u = np.sin(points @ self.wave_vectors.T + self.offsets) @ self.vectors
        u[:, 1] -= self.forward * breathing
        u[:, 2] += breathing
        above, below = (_smoothstep(distance / BORDER) for distance in (points - low, high - points))
        above[:, 2] = 1  # the diaphragm rises from beyond the lower face
        return points + self.scale * u * above * below


def _smoothstep(t: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, with two continuous derivatives between."""
    t = np.clip(t, 0, 1)
    return t * t * t * (10 + t * (6 * t - 15))


def read_lung(root: Path | None = None) -> tuple[sitk.Image, sitk.Image]:
    """The scan, float32 HU, and its lung, 0 and 1. Exits with a sentence where `data_root()` has none."""
    folder = (root or data_root()) / "lung"
    if not (folder / "ct.nrrd").is_file():
        raise SystemExit(f"There is no lung CT in {folder}. Set INRREG_DATA to the folder that holds lung/.")
    return (
        sitk.ReadImage(str(folder / "ct.nrrd"), sitk.sitkFloat32),
        sitk.ReadImage(str(folder / "lung_mask.nrrd"), sitk.sitkUInt8),
    )


def lung_pairs(seeds: tuple[int, ...] = (0, 1, 2), root: Path | None = None) -> Iterator[Pair]:
    """The pairs 'lung0' and so on, one for each seed, with the fixed image's lung as their mask."""
    scan, lung = read_lung(root)
    for seed in seeds:
        yield known_pair(scan, lung, seed)


def known_field(lung: sitk.Image, seed: int) -> Field:
    """The field of one seed over the grid of a lung's mask, which has the world's axes."""
    grid = Grid.of(lung)
    return Field.random(grid, seed).scaled(grid.points()[sitk.GetArrayViewFromImage(lung) > 0])


def known_pair(scan: sitk.Image, lung: sitk.Image, seed: int) -> Pair:
    """The pair of one seed from a CT in HU and the mask of its lung."""
    grid, field = Grid.of(scan), known_field(lung, seed)
    displacement = sample_on(field, grid)
    transform = sitk.DisplacementFieldTransform(grid.image(displacement))
    # exact at the voxels, where alone it is evaluated
    warped = sitk.GetArrayFromImage(sitk.Resample(scan, scan, transform, sitk.sitkBSpline5, -1000.0))
    mask = sitk.Resample(lung, scan, transform, sitk.sitkNearestNeighbor, 0)
    # mass is kept where there is air to lose: fully up to -500 HU, not at all from -200 HU on
    air = np.clip((-200 - warped) / 300, 0, 1)
    warped = (warped + 1000) * (1 + air * (jacobian_determinant(displacement, scan) - 1)) - 1000
    rng = np.random.default_rng([seed, 1])
    images = [_noisy(array, grid, rng) for array in (warped, sitk.GetArrayFromImage(scan))]
    k, j, i = np.nonzero(sitk.GetArrayViewFromImage(mask))
    chosen = rng.choice(len(k), POINTS, replace=False)
    index = np.stack([i, j, k], -1)[chosen] + rng.uniform(-0.5, 0.5, (POINTS, 3))
    points = grid.to_world(np.clip(index, 0, np.array(grid.size) - 1))
    return Pair(f"lung{seed}", *images, points, field.map(points), np.full(POINTS, "lung"), mask)


def _noisy(array: np.ndarray, grid: Grid, rng: np.random.Generator) -> sitk.Image:
    return grid.image(np.round(array + rng.normal(0, NOISE, array.shape)).astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    scan, lung = read_lung()
    for seed in (int(text) for text in options.seeds.split(",")):
        displacement = sample_on(known_field(lung, seed), Grid.of(lung))
        inside = sitk.GetArrayFromImage(known_pair(scan, lung, seed).mask) > 0
        length, determinant = np.linalg.norm(displacement, axis=-1), jacobian_determinant(displacement, lung)
        print(
            f"seed {seed}: in the fixed lung {length[inside].mean():.1f} mm mean, {length[inside].max():.1f} mm max;"
            f" determinant from {determinant.min():.2f} to {determinant.max():.2f} everywhere"
        )


if __name__ == "__main__":
    main()
