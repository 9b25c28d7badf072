"""Vessel and bronchial trees as tapering capsules, and their painting into a possibly deformed grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shape import LEFT_HILUM, RIGHT_HILUM, Shape

LEAF_RADIUS = 0.95  # mm
LEAF_VOLUME = 2000.0  # mm^3 of lung that one terminal vessel of one tree supplies
WALL = 0.9  # mm, of a bronchus
CHUNK = 1_000_000
"""Voxels of tubes' boxes that are painted at a time."""
ARTERY, VEIN = np.array([0.0, -3.0, 5.0]), np.array([0.0, 4.0, -9.0])  # where they enter, from the hilum, mm


@dataclass(frozen=True)
class Capsules:
    """Tapering tubes: starts (N, 3), ends (N, 3) in mm LPS, start_radii (N,) and end_radii (N,) in mm."""

    starts: np.ndarray
    ends: np.ndarray
    start_radii: np.ndarray
    end_radii: np.ndarray

    @classmethod
    def path(cls, points: list[tuple[float, float, float]], radii: list[float]) -> Capsules:
        """A chain of tubes through the points."""
        p, r = np.array(points, float), np.array(radii, float)
        return cls(p[:-1], p[1:], r[:-1], r[1:])

    @classmethod
    def join(cls, parts: list[Capsules]) -> Capsules:
        """All tubes of all parts."""
        names = ("starts", "ends", "start_radii", "end_radii")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def widened(self, margin: float) -> Capsules:
        """The same tubes with `margin` mm added to every radius."""
        return Capsules(self.starts, self.ends, self.start_radii + margin, self.end_radii + margin)


def lung_trees(shape: Shape, rng: np.random.Generator) -> tuple[Capsules, Capsules]:
    """Arteries and veins that fill the five lobes from the hila, and the bronchi beside the larger arteries."""
    points = _lung_points(shape, rng)
    lobe = shape.lobes(*points.T)
    vessels, bronchi = [], []
    for number in np.unique(lobe):
        hilum = np.array(LEFT_HILUM if number <= 2 else RIGHT_HILUM)
        territory = points[lobe == number]
        half = rng.permutation(len(territory)) < len(territory) // 2
        arteries = _grow(hilum + ARTERY, territory[half], rng)
        vessels += [arteries, _grow(hilum + VEIN, territory[~half], rng)]
        bronchi.append(_beside(arteries, smallest=2.0))
    return Capsules.join(vessels), Capsules.join(bronchi)


def _lung_points(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Random points, evenly spread, at least 2 mm inside the pleura: where terminal vessels end, (N, 3)."""
    low, high = np.array([-120.0, -90.0, -125.0]), np.array([120.0, 100.0, 125.0])
    step = (LEAF_VOLUME / 2.0) ** (1.0 / 3.0)
    axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points + rng.uniform(-0.45, 0.45, points.shape) * step
    clear = (shape.pleura(*points.T) < -2.0) & (shape.fissures(*points.T) > 2.0)
    return points[clear]


def _grow(root: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Capsules:
    """A tree from root (3,) to all targets (N, 3): each branch runs part of the way to its targets' centre and
    splits them in two across its own direction; radii follow Murray's law (the cube adds up)."""
    tubes: list[tuple[np.ndarray, np.ndarray, float, float]] = []
    pending = [(root, targets, _radius(len(targets)))]
    while pending:
        start, group, radius = pending.pop()
        if len(group) == 1:
            tubes += _bent(start, group[0], radius, 0.8 * LEAF_RADIUS, rng)
            continue
        own = _radius(len(group))
        end = start + rng.uniform(0.35, 0.5) * (group.mean(axis=0) - start)
        tubes += _bent(start, end, radius, own, rng)
        first = _split(group, end - start, rng)
        pending += [(end, group[side], min(own, 1.1 * _radius(side.sum()))) for side in (first, ~first)]
    return Capsules(*(np.array(part) for part in zip(*tubes, strict=True)))


def _radius(leaves: int) -> float:
    return LEAF_RADIUS * leaves ** (1.0 / 3.0)


def _bent(start: np.ndarray, end: np.ndarray, first: float, last: float, rng: np.random.Generator) -> list[tuple]:
    """One branch as two tubes that meet a little beside the straight line."""
    middle = 0.5 * (start + end) + rng.normal(size=3) * 0.07 * np.linalg.norm(end - start)
    between = 0.5 * (first + last)
    return [(start, middle, first, between), (middle, end, between, last)]


def _split(group: np.ndarray, direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """True for the points (N, 3) on one side of a plane along `direction`, across the group's widest extent."""
    axis = direction / max(np.linalg.norm(direction), 1e-9)
    flat = group - group.mean(axis=0)
    flat = flat - 0.8 * np.outer(flat @ axis, axis)
    widest = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    order = np.argsort(flat @ widest)
    first = np.zeros(len(group), bool)
    first[order[: max(1, round(len(group) * rng.uniform(0.35, 0.65)))]] = True
    return first if not first.all() else first & (order != order[0])


def _beside(arteries: Capsules, smallest: float) -> Capsules:
    """Bronchi: companions of the arteries down to radius `smallest`, beside them and about as wide."""
    large = arteries.end_radii > smallest
    starts, ends = arteries.starts[large], arteries.ends[large]
    radii = 0.62 * arteries.start_radii[large], 0.62 * arteries.end_radii[large]
    across = np.array([0.0, 0.8, -0.6])
    offsets = [
        (a + r + WALL)[:, None] * across
        for a, r in zip((arteries.start_radii[large], arteries.end_radii[large]), radii, strict=True)
    ]
    return Capsules(starts + offsets[0], ends + offsets[1], *radii)


def paint(
    capsules: Capsules,
    positions: tuple[np.ndarray, np.ndarray, np.ndarray],
    to_index: Callable[[np.ndarray], np.ndarray],
    spacing: np.ndarray,
    width: float,
) -> np.ndarray:
    """Share of each voxel that lies in any capsule, (Z, Y, X) in [0, 1].

    positions: the anatomy's x, y, z at each voxel, three (Z, Y, X) arrays in mm. to_index: anatomy points (N, 3)
    to continuous (x, y, z) voxel indices. width: mm over which an edge is blurred; a tube that is thinner keeps
    its cross-section, so that it fades instead of vanishing between voxels.
    """
    share = np.zeros(positions[0].shape, np.float32)
    lengths = np.linalg.norm(capsules.ends - capsules.starts, axis=1)
    reach = np.maximum(capsules.start_radii, capsules.end_radii) + width
    # The grid may be stretched and bent: the box of the two ends is taken generously.
    margin = (1.7 * reach + 0.15 * lengths)[:, None] / spacing
    ends = np.stack([to_index(capsules.starts), to_index(capsules.ends)])
    limit = np.array(share.shape[::-1])
    lows = np.clip(np.floor(ends.min(axis=0) - margin), 0, limit).astype(int)
    highs = np.clip(np.ceil(ends.max(axis=0) + margin) + 1, 0, limit).astype(int)
    sizes = highs - lows
    counts = sizes.prod(axis=1)
    flat = [position.ravel() for position in positions]
    seen = np.flatnonzero((sizes > 0).all(axis=1))
    chunks = np.cumsum(counts[seen]) // CHUNK
    for tubes in np.split(seen, np.flatnonzero(np.diff(chunks)) + 1):
        tube = np.repeat(tubes, counts[tubes])
        within = np.arange(len(tube)) - np.repeat(np.cumsum(counts[tubes]) - counts[tubes], counts[tubes])
        x, rest = within % sizes[tube, 0], within // sizes[tube, 0]
        y, z = rest % sizes[tube, 1], rest // sizes[tube, 1]
        x, y, z = (index + lows[tube, axis] for axis, index in enumerate((x, y, z)))
        voxel = (z * limit[1] + y) * limit[0] + x
        np.maximum.at(share.reshape(-1), voxel, _tube_share([p[voxel] for p in flat], capsules, tube, width))
    return share


def _tube_share(positions: list[np.ndarray], capsules: Capsules, tube: np.ndarray, width: float) -> np.ndarray:
    """The share (N,) that lies in a tube each, of voxels at x, y and z, (N,) mm each."""
    axes = (capsules.ends - capsules.starts).astype(np.float32)
    squares = np.maximum((axes * axes).sum(1), np.float32(1e-6))
    starts, axes = capsules.starts.astype(np.float32)[tube].T, axes[tube].T
    away = [position - start for position, start in zip(positions, starts, strict=True)]
    along = np.clip(sum(d * axis for d, axis in zip(away, axes, strict=True)) / squares[tube], 0.0, 1.0)
    distance = np.sqrt(sum((d - along * axis) ** 2 for d, axis in zip(away, axes, strict=True)))
    first, last = (radii.astype(np.float32)[tube] for radii in (capsules.start_radii, capsules.end_radii))
    radius = first + along * (last - first)
    visible = np.maximum(radius, np.float32(0.5 * width))
    edge = np.clip((visible - distance) / np.float32(width) + np.float32(0.5), 0.0, 1.0)
    return edge * (radius / visible) ** 2
