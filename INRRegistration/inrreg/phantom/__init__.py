"""A generated thorax CT in two respiratory states, with the motion between them known at every point.

The anatomy is a function of position in the fixed state. Each image evaluates that same function at its voxels,
the moving one through the inverse of the map, so that both are equally sharp and the truth is exact:

    moving(phi(x)) = fixed(x)  up to noise and, in the lungs, the density that breathing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from . import modality, organs
from .motion import Motion
from .shape import LOBES, Shape
from .vessels import LEAF_RADIUS, WALL, Capsules, lung_trees, paint

__all__ = ["LOBES", "Cycle", "Phantom", "cycle", "thorax"]

NODES = 4.0  # mm between the points where the inverse map is solved first; interpolated, it starts the voxels' solution
IMAGE_TOLERANCE = 1e-3  # mm, of that solution
CHUNK = 200_000  # voxels at a time
SAFE_DETERMINANT = 0.25
LANDMARK_MARGIN = 5.0  # mm

PointMap = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Phantom:
    """A pair of images (int16, HU) with all that is known of them.

    Masks (uint8) hold the lungs, labels (uint8) the lobes as numbered in `LOBES`; landmarks are (N, 3) in LPS mm,
    moving_landmarks = fixed_landmarks + displacement(fixed_landmarks). motion is phi itself.
    """

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: sitk.Image
    moving_mask: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    fixed_landmarks: np.ndarray
    moving_landmarks: np.ndarray
    motion: Motion = field(repr=False)

    def displacement(self, points: np.ndarray) -> np.ndarray:
        """The true displacement phi(x) - x, (N, 3) in mm, at fixed-space points (N, 3) in LPS mm."""
        return self.motion.displacement(np.asarray(points, float))

    def inverse_displacement(self, points: np.ndarray) -> np.ndarray:
        """The displacement (N, 3) in mm that leads moving-space points (N, 3) back to the fixed space."""
        points = np.asarray(points, float)
        return self.motion.inverse(points) - points


def thorax(
    size: tuple[int, int, int] = (96, 80, 96),
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    *,
    seed: int = 0,
    amplitude: float = 25.0,
    sliding: bool = False,
    noise: float = 20.0,
    landmarks: int = 300,
    contrast: str = "hounsfield",
    cone_beam: bool = False,
) -> Phantom:
    """A patient, drawn by `seed`, on a grid of `size` voxels (x, y, z) and `spacing` mm centred on the chest.

    amplitude: largest displacement in the lungs, mm. sliding: lungs glide along the rib cage (the displacement jumps
    at the costal pleura), which then hardly moves. noise: standard deviation in HU, independent in both images.
    landmarks: how many points, spread over the vessels. contrast: the moving image's, one of `modality.CURVES`.
    cone_beam: the moving image has a cone-beam's artifacts and its field of view, in which landmarks and masks end.
    """
    if not amplitude > 0:
        raise ValueError(f"The amplitude must be positive, not {amplitude} mm.")
    if contrast not in modality.CURVES:
        raise ValueError(f"There is no contrast '{contrast}': choose one of {', '.join(modality.CURVES)}.")
    if noise < 0:
        raise ValueError(f"The noise must not be negative, not {noise} HU.")
    rng = np.random.default_rng(seed)
    grid = _Grid(np.array(size, int), np.array(spacing, float))
    anatomy, motion = _patient(grid, rng, amplitude, sliding)
    shape, vessels = anatomy.shape, anatomy.vessels
    states = [_at_rest(grid, shape), _deformed(grid, shape, motion)]
    images = [_scan(anatomy, state, grid) for state in states]
    noises = [noise * _unit_noise(image.shape, rng) for image in images]
    images[1] = modality.contrast(images[1], contrast)
    view = None
    if cone_beam:
        images[1] = modality.cone_beam(images[1], grid.axes(), np.random.default_rng([seed, 1]))
        view = modality.in_view(np.stack(_mesh(grid.axes()), -1), grid.axes())
    images = [np.clip(np.rint(image + part), -1024, 3071) for image, part in zip(images, noises, strict=True)]
    labels = [np.where(state.pleura < 0, shape.lobes(*state.lungs), 0).astype(np.uint8) for state in states]
    if view is not None:
        images[1][~view] = organs.AIR
        labels[1][~view] = 0
    chosen = _landmarks(vessels, shape, motion, grid, labels[0], landmarks, rng, cone_beam)
    return Phantom(
        *(grid.image(image.astype(np.int16)) for image in images),
        *(grid.image((label > 0).astype(np.uint8)) for label in labels),
        *(grid.image(label) for label in labels),
        chosen,
        motion.apply(chosen),
        motion,
    )


@dataclass(frozen=True)
class Cycle:
    """A respiratory cycle: `images` (int16, HU) from the reference on, at equal parts of the cycle.

    `masks` (uint8) hold the lungs; `landmarks` are (T, N, 3) in LPS mm, the reference's first. `motions` lead from the
    reference to each image, the identity for itself.
    """

    images: list[sitk.Image]
    masks: list[sitk.Image]
    landmarks: np.ndarray
    motions: list[Motion] = field(repr=False)


def cycle(
    phases: int = 5,
    size: tuple[int, int, int] = (96, 80, 96),
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    *,
    seed: int = 0,
    amplitude: float = 25.0,
    lag: float = 0.1,
    noise: float = 20.0,
    landmarks: int = 300,
) -> Cycle:
    """The patient of `thorax` over a whole breath, `phases` images of it; points go and come back by different ways.

    `lag`, in cycles, is the chest's behind the diaphragm's (`motion.Breathing.at`); the rest is as in `thorax`.
    """
    rng = np.random.default_rng(seed)
    grid = _Grid(np.array(size, int), np.array(spacing, float))
    anatomy, whole = _patient(grid, rng, amplitude, sliding=False)
    motions = [replace(whole, breathing=whole.breathing.at(n / phases, lag)) for n in range(phases)]
    states = [_at_rest(grid, anatomy.shape), *(_deformed(grid, anatomy.shape, each) for each in motions[1:])]
    images = [_scan(anatomy, state, grid) for state in states]
    images = [np.clip(np.rint(image + noise * _unit_noise(image.shape, rng)), -1024, 3071) for image in images]
    masks = [(state.pleura < 0).astype(np.uint8) for state in states]
    # The whole breath, of which the phases are parts, keeps them in every image.
    chosen = _landmarks(anatomy.vessels, anatomy.shape, whole, grid, masks[0], landmarks, rng, cone_beam=False)
    return Cycle(
        [grid.image(image.astype(np.int16)) for image in images],
        [grid.image(mask) for mask in masks],
        np.stack([each.apply(chosen) for each in motions]),
        motions,
    )


def _patient(grid: _Grid, rng: np.random.Generator, amplitude: float, sliding: bool) -> tuple[_Anatomy, Motion]:
    shape = Shape.random(rng)
    motion = _random_motion(shape, grid, rng, amplitude, sliding)
    vessels, bronchi = lung_trees(shape, rng)
    texture = organs.Texture.random(rng, inhale=motion.breathing.phase > 0)
    return _Anatomy(shape, texture, vessels, bronchi), motion


# ------------------------------------------------------------------------------------------------ grid


@dataclass(frozen=True)
class _Grid:
    """A voxel grid of size and spacing (x, y, z), centred on the world's origin, axes along LPS."""

    size: np.ndarray
    spacing: np.ndarray

    @property
    def origin(self) -> np.ndarray:
        return -0.5 * (self.size - 1) * self.spacing

    def axes(self) -> list[np.ndarray]:
        """World coordinates of the voxel centres along x, y and z."""
        return [o + s * np.arange(n) for o, s, n in zip(self.origin, self.spacing, self.size, strict=True)]

    def index(self, points: np.ndarray) -> np.ndarray:
        """Continuous voxel indices (N, 3), x first, of world points (N, 3)."""
        return (points - self.origin) / self.spacing

    def image(self, array: np.ndarray) -> sitk.Image:
        """An image of an array (Z, Y, X)."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing.tolist())
        image.SetOrigin(self.origin.tolist())
        return image


def _mesh(axes: list[np.ndarray]) -> list[np.ndarray]:
    """x, y and z at every node of the lattice with these axes (x, y, z), each (Z, Y, X)."""
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    return [x, y, z]


def _points(coordinates: list[np.ndarray]) -> np.ndarray:
    """(N, 3) from three arrays."""
    return np.stack([c.ravel() for c in coordinates], axis=1)


def _cubic_weights(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Matrix (len(at), len(nodes)) of cubic Lagrange interpolation from equidistant nodes."""
    position = (at - nodes[0]) / (nodes[1] - nodes[0])
    first = np.clip(np.floor(position).astype(int) - 1, 0, len(nodes) - 4)
    t = position - first
    weights = np.zeros((len(at), len(nodes)))
    for k in range(4):
        others = [j for j in range(4) if j != k]
        weights[np.arange(len(at)), first + k] = np.prod([(t - j) / (k - j) for j in others], axis=0)
    return weights


# ------------------------------------------------------------------------------------------------ states


@dataclass(frozen=True)
class _State:
    """Where in the fixed anatomy each voxel (Z, Y, X) of an image lies.

    body, lungs: x, y, z in mm for what is outside and for what is inside the pleura (they differ where lungs slide).
    pleura: its implicit function. density: lung mass per volume relative to the fixed state. motion: from the fixed
    state to this one, None for itself.
    """

    body: list[np.ndarray]
    lungs: list[np.ndarray]
    pleura: np.ndarray
    density: np.ndarray
    motion: Motion | None = None


def _at_rest(grid: _Grid, shape: Shape) -> _State:
    position = [c.astype(np.float32) for c in _mesh(grid.axes())]
    return _State(position, position, shape.pleura(*position), np.ones(position[0].shape, np.float32))


def _deformed(grid: _Grid, shape: Shape, motion: Motion) -> _State:
    body, density = _inverse_on_grid(grid, motion)
    pleura = shape.pleura(*body)
    lungs = body
    if motion.slide is not None:
        lungs = [c.copy() for c in body]
        # A rim outside the pleura goes along, for the voxels that it cuts.
        inside = pleura < grid.spacing.max()
        slid = motion.slide.inverse(np.stack([c[inside] for c in body], axis=1).astype(float))
        for c, values in zip(lungs, slid.T, strict=True):
            c[inside] = values
        density[inside] /= motion.slide.determinant(slid)
    return _State(body, lungs, pleura, density, motion)


def _inverse_on_grid(grid: _Grid, motion: Motion) -> tuple[list[np.ndarray], np.ndarray]:
    """The smooth part's inverse at every voxel, three float32 (Z, Y, X), and its Jacobian determinant."""
    step = max(NODES, 0.6 * grid.spacing.min())
    axes = [np.arange(a[0] - 2 * step, a[-1] + 3 * step, step) for a in grid.axes()]
    coarse = motion.breathing.inverse(_points(_mesh(axes)))
    coarse = [c.reshape([len(a) for a in axes[::-1]]) for c in coarse.T]
    rows = [np.gradient(c, step) for c in coarse]
    jacobian = np.stack([np.stack(row[::-1], axis=-1) for row in rows], axis=-2)
    weights = [_cubic_weights(a, at).astype(np.float32) for a, at in zip(axes, grid.axes(), strict=True)]

    def refine(values: np.ndarray) -> np.ndarray:
        for w in weights[::-1]:  # contracts the first axis and appends the fine one: after three, (Z, Y, X) again
            values = np.tensordot(values, w, axes=(0, 1))
        return np.ascontiguousarray(values)

    starts = _points([refine(c.astype(np.float32)) for c in coarse]).astype(float)
    voxels = _points(_mesh(grid.axes()))
    exact = [
        motion.breathing.inverse(voxels[i : i + CHUNK], starts[i : i + CHUNK], IMAGE_TOLERANCE)
        for i in range(0, len(voxels), CHUNK)
    ]
    body = [c.reshape(grid.size[::-1]).astype(np.float32) for c in np.concatenate(exact).T]
    return body, refine(np.linalg.det(jacobian).astype(np.float32))


def _random_motion(shape: Shape, grid: _Grid, rng: np.random.Generator, amplitude: float, sliding: bool) -> Motion:
    """A motion of this amplitude over the grid's lung voxels that is safely invertible; rare bad draws are redrawn."""
    voxels = _points(_mesh(grid.axes()))
    lungs = voxels[shape.pleura(*voxels.T) < 0]
    if not len(lungs):
        raise ValueError("The grid holds no lung: choose a larger size or spacing.")
    check = _points(_mesh([np.arange(-n, n + 1.0, 10.0) for n in (140.0, 110.0, 150.0)]))
    for _ in range(12):
        motion = Motion.random(shape, rng, sliding=sliding).with_peak(amplitude, lungs)
        if _smallest_determinant(motion, check) > SAFE_DETERMINANT:
            return motion
    raise ValueError(f"An amplitude of {amplitude} mm is too large for an invertible motion of this chest.")


def _smallest_determinant(motion: Motion, points: np.ndarray, step: float = 0.1) -> float:
    sides = [
        (motion.breathing.apply(points + h) - motion.breathing.apply(points - h)) / (2.0 * step)
        for h in step * np.eye(3)
    ]
    return float(np.linalg.det(np.stack(sides, axis=-1)).min())


# ------------------------------------------------------------------------------------------------ scans


@dataclass(frozen=True)
class _Anatomy:
    shape: Shape
    texture: organs.Texture
    vessels: Capsules
    bronchi: Capsules


def _scan(anatomy: _Anatomy, state: _State, grid: _Grid) -> np.ndarray:
    """The CT of one state in HU, without noise, (Z, Y, X)."""
    width = max(1.2, float(np.cbrt(grid.spacing.prod())))

    def draw(value: float, tubes: Capsules, positions: list[np.ndarray], to_state: PointMap) -> None:
        share = paint(tubes, positions, lambda p: grid.index(to_state(p)), grid.spacing, width)
        np.add(hu, share * (value - hu), out=hu)

    whole = state.motion.apply if state.motion else (lambda p: p)
    smooth = state.motion.breathing.apply if state.motion else (lambda p: p)
    hu = organs.tissue(*state.body, anatomy.shape, width)
    draw(organs.BLOOD, organs.great_vessels(), state.body, smooth)
    _draw_lungs(hu, anatomy, state, width, float(grid.spacing.max()))
    draw(organs.BLOOD, anatomy.vessels, state.lungs, whole)
    draw(0.0, anatomy.bronchi.widened(WALL), state.lungs, whole)
    draw(-960.0, anatomy.bronchi, state.lungs, whole)
    draw(10.0, organs.great_airways().widened(1.5), state.body, smooth)
    draw(-985.0, organs.great_airways(), state.body, smooth)
    return _smoothed(hu, 0.1, axes=(0, 1, 2))


def _draw_lungs(hu: np.ndarray, anatomy: _Anatomy, state: _State, width: float, thickness: float) -> None:
    """Blend parenchyma into hu: breathing changes its density so that its mass stays."""
    share = np.clip(0.5 - state.pleura / width, 0.0, 1.0)
    part = share > 0
    value = organs.parenchyma(*(c[part] for c in state.lungs), anatomy.shape, anatomy.texture, thickness)
    value = (value - organs.AIR) * state.density[part] + organs.AIR
    hu[part] += share[part] * (value - hu[part])


def _smoothed(array: np.ndarray, side: float, axes: tuple[int, ...]) -> np.ndarray:
    """Each voxel mixed with its neighbours, `side` of each, along the axes."""
    for axis in axes:
        padded = np.pad(array, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        n = array.shape[axis]
        before, after = (np.take(padded, range(s, s + n), axis=axis) for s in (0, 2))
        array = (1.0 - 2.0 * side) * array + side * (before + after)
    return array


def _unit_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance, correlated between neighbours in a slice, as reconstruction leaves it."""
    noise = _smoothed(rng.standard_normal(shape, dtype=np.float32), 0.2, axes=(1, 2))
    return noise / noise.std()


# ------------------------------------------------------------------------------------------------ landmarks


def _landmarks(
    vessels: Capsules,
    shape: Shape,
    motion: Motion,
    grid: _Grid,
    labels: np.ndarray,
    count: int,
    rng: np.random.Generator,
    cone_beam: bool,
) -> np.ndarray:
    """`count` points (count, 3) where vessels branch, far from each other, inside both images.

    A grid that shows too few of these fills up with points along the vessels.
    """
    branching = vessels.ends[vessels.end_radii > 1.1 * LEAF_RADIUS]
    chosen = np.empty((0, 3))
    for candidates in (branching, 0.5 * (vessels.starts + vessels.ends)):
        candidates = candidates[(shape.pleura(*candidates.T) < -2.0) & _within(grid, candidates, 0.0)]
        x, y, z = np.rint(grid.index(candidates)).astype(int).T
        moved = motion.apply(candidates)
        seen = (labels[z, y, x] > 0) & _within(grid, moved, LANDMARK_MARGIN)
        if cone_beam:
            seen &= modality.in_view(moved, grid.axes(), LANDMARK_MARGIN)
        candidates = candidates[seen]
        chosen = np.concatenate([chosen, _farthest(rng.permutation(candidates), count - len(chosen))])
    if len(chosen) < count:
        raise ValueError(f"The grid shows only {len(chosen)} places for landmarks, not {count}.")
    return chosen


def _within(grid: _Grid, points: np.ndarray, margin: float) -> np.ndarray:
    """Whether points (N, 3) are inside the grid's voxel centres by `margin` mm."""
    last = grid.origin + (grid.size - 1) * grid.spacing
    return ((points >= grid.origin + margin) & (points <= last - margin)).all(axis=1)


def _farthest(points: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the points (N, 3), each the one farthest from those before."""
    chosen: list[int] = []
    distance = np.full(len(points), np.inf)
    for _ in range(min(count, len(points))):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return points[chosen]
