"""Voxels, millimetres and normalized coordinates: the only place that knows all three.

World coordinates are LPS millimetres (ITK). A network sees normalized coordinates: world coordinates
centred on the fixed image and divided by one scale for all axes, so that a derivative, and with it a
regularization weight, means the same in every direction however anisotropic the voxels are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = 16
"""Into how many parts points are split at most: torch resamples on one thread for each."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of points: `size` along the index axes (i, j, k), `origin` (3,) in LPS mm of the first
    point, and `matrix` (3, 3), direction times spacing, that takes an index to mm."""

    size: tuple[int, int, int]
    origin: np.ndarray
    matrix: np.ndarray

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The voxel centres of an image."""
        direction = np.array(image.GetDirection()).reshape(3, 3)
        return cls(image.GetSize(), np.array(image.GetOrigin()), direction * np.array(image.GetSpacing()))

    def equals(self, other: Grid) -> bool:
        """Whether it has the same points, but for rounding."""
        same = np.allclose(self.matrix, other.matrix) and np.allclose(self.origin, other.origin)
        return self.size == other.size and same

    @property
    def spacing(self) -> np.ndarray:
        """Distance of neighbours along each index axis, (3,) mm."""
        return np.linalg.norm(self.matrix, axis=0)

    @property
    def direction(self) -> np.ndarray:
        """Unit vectors of the index axes as columns, (3, 3)."""
        return self.matrix / self.spacing

    @property
    def extent(self) -> np.ndarray:
        """Distance from the first to the last point along each index axis, (3,) mm."""
        return (np.array(self.size) - 1) * self.spacing

    @property
    def centre(self) -> np.ndarray:
        """The middle of the grid, (3,) LPS mm."""
        return self.to_world((np.array(self.size) - 1) / 2)

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """Continuous indices (..., 3) to LPS mm (..., 3)."""
        return np.asarray(index) @ self.matrix.T + self.origin

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """LPS mm (..., 3) to continuous indices (..., 3)."""
        return (np.asarray(points) - self.origin) @ np.linalg.inv(self.matrix).T

    def points(self) -> np.ndarray:
        """All points, (k, j, i, 3) LPS mm, in the order of an image's memory."""
        k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self.size[::-1]), indexing="ij")
        return self.to_world(np.stack([i, j, k], axis=-1))

    def image(self, array: np.ndarray) -> sitk.Image:
        """An image on this grid from an array (k, j, i) or, for vectors, (k, j, i, components)."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 4)
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing(self.spacing.tolist())
        image.SetDirection(self.direction.ravel().tolist())
        return image

    def cropped(self, first: np.ndarray, last: np.ndarray) -> Grid:
        """The part from index `first` to index `last`, both (3,) and included."""
        size = tuple(int(n) + 1 for n in np.asarray(last) - np.asarray(first))
        return Grid(size, self.to_world(np.asarray(first)), self.matrix)

    def resampled(self, spacing: float | np.ndarray) -> Grid:
        """A grid over the same box, ends and all, whose spacing is at most `spacing` mm, one or (3,) along its axes."""
        steps = np.maximum(1, np.ceil(self.extent / spacing - 1e-6)).astype(int)
        return Grid(tuple(int(n) + 1 for n in steps), self.origin, self.direction * (self.extent / steps))


@dataclass(frozen=True)
class Frame:
    """Normalized coordinates: (world - `centre`) / `scale`, with `centre` (3,) and `scale` in mm."""

    centre: np.ndarray
    scale: float

    @classmethod
    def covering(cls, grid: Grid) -> Frame:
        """Centred on a grid, with half its longest side as scale: that side runs from -1 to 1."""
        return cls(grid.centre, float(grid.extent.max() / 2))

    def normalize(self, points: np.ndarray) -> np.ndarray:
        """LPS mm (..., 3) to normalized (..., 3)."""
        return (np.asarray(points) - self.centre) / self.scale

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Normalized (..., 3) to LPS mm (..., 3)."""
        return np.asarray(points) * self.scale + self.centre

    def affine(self, matrix: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map world -> matrix world + offset, of mm, as the matrix and offset of normalized coordinates."""
        return matrix, (matrix @ self.centre + offset - self.centre) / self.scale


@dataclass(frozen=True)
class Volume:
    """An image for a network: `data` (1, C, D, H, W), sampled at normalized coordinates."""

    data: Tensor
    matrix: Tensor
    offset: Tensor

    @classmethod
    def of(cls, array: np.ndarray, grid: Grid, frame: Frame, device: torch.device | str = "cpu") -> Volume:
        """A volume from an array (k, j, i) or (C, k, j, i) on a grid."""
        to_index = np.linalg.inv(grid.matrix) * frame.scale
        first = grid.to_index(frame.centre)
        # grid_sample with align_corners: index 0 is -1, index n - 1 is 1
        half = (np.array(grid.size) - 1) / 2
        matrix, offset = to_index / half[:, None], first / half - 1
        data = torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)
        data = data.reshape(1, -1, *array.shape[-3:])
        return cls(data, *(torch.as_tensor(part, dtype=torch.float32, device=device) for part in (matrix, offset)))

    def locate(self, points: Tensor) -> Tensor:
        """Normalized points (..., 3) to torch's grid_sample coordinates, -1 to 1 inside."""
        return points @ self.matrix.T + self.offset

    def sample(self, points: Tensor) -> Tensor:
        """Trilinear values (C, ...) at normalized points (..., 3); beyond the border, the border's value."""
        return self.sample_located(self.locate(points))

    def sample_located(self, located: Tensor) -> Tensor:
        """`sample` at what `locate` gave."""
        if self.data.device.type == "mps":  # where torch samples no volumes, or not in every version
            return trilinear(self.data[0], located)
        return interpolate(self.data, located)

    def contains(self, points: Tensor, *, beyond: float = 1e-4) -> Tensor:
        """Whether normalized points (..., 3) lie at most `beyond` voxels from the outermost centres; (...) bool."""
        return self.contains_located(self.locate(points), beyond=beyond)

    def contains_located(self, located: Tensor, *, beyond: float = 1e-4) -> Tensor:
        """`contains` of what `locate` gave."""
        x, y, z = located.abs().unbind(-1)
        # plain numbers: a tensor of them would make each step wait for a GPU
        most_x, most_y, most_z = (1 + 2 * beyond / max(size - 1, 1) for size in self.data.shape[:1:-1])
        return (x <= most_x) & (y <= most_y) & (z <= most_z)


def interpolate(data: Tensor, located: Tensor) -> Tensor:
    """Trilinear values (C, ...) of `data` (1, C, D, H, W) at torch's grid_sample coordinates (..., 3), on all threads.

    Beyond the border, the border's value.
    """
    count = located[..., 0].numel()
    parts = next(n for n in range(min(PARTS, max(count, 1)), 0, -1) if count % n == 0)
    grid = located.reshape(parts, 1, 1, -1, 3)
    values = F.grid_sample(data.expand(parts, -1, -1, -1, -1), grid, padding_mode="border", align_corners=True)
    return values.transpose(0, 1).reshape(data.shape[1], *located.shape[:-1])


def trilinear(data: Tensor, located: Tensor) -> Tensor:
    """Values (C, ...) of `data` (C, D, H, W) at coordinates (..., 3) by plain gathering.

    The same as torch's grid_sample with align_corners and its border padding, gradients included.
    """
    flat, index, weights, stride = data.flatten(1), [], [], 1
    for axis, size in enumerate(data.shape[:0:-1]):
        place = ((located[..., axis] + 1) * ((size - 1) / 2)).clamp(0, size - 1)
        first = place.detach().floor().clamp(max=max(size - 2, 0))
        part, below = place - first, first.long()
        index.append([stride * below, stride * (below + 1).clamp(max=size - 1)])
        weights.append([1 - part, part])
        stride *= size
    values = 0
    for corner in product((0, 1), repeat=3):
        x, y, z = (each[side] for each, side in zip(index, corner, strict=True))
        weight = math.prod(each[side] for each, side in zip(weights, corner, strict=True))
        values = values + weight * flat[:, x + y + z]
    return values
