"""Pictures of a registration, with matplotlib: planes through both images, the deformed grid, the volume change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from inrreg.deformation import load_transform
from inrreg.geometry import Frame, Grid, Volume
from inrreg.images import read_image
from inrreg.intensities import normalize
from inrreg.protocol import Job, UserError
from inrreg.transforms import PointMap, invert
from inrreg.volume_change import whole_determinant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = {"axial": (0, 1, "RLAP"), "coronal": (0, 2, "RLSI"), "sagittal": (1, 2, "APSI")}
"""By plane: the axes, of L, P and S, that run across and along it, and what lies left, right, above and below."""

_LINES = 10.0
"""Distance in mm of the deformed grid's lines."""
_SQUARES = 8
"""Squares of the checkerboard along the longer side."""
_PIXELS = 300
"""Samples of a plane along its longer side, at most; but none closer than half a millimetre."""
_NODES = 4.0
"""Distance in mm at which a deformation is evaluated in a plane, and linear between: no eye sees more of it."""


def check_matplotlib() -> None:
    """Raise `UserError` (code `package`) without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(
            "package", "Pictures need matplotlib.", "Install it with: pip install 'inrreg[report]'"
        ) from None


def overview(job: Job, result: Path, path: Path) -> Path:
    """Fixed, moving, warped, both differences and the deformed grid in a coronal and a sagittal slice, as PNG.

    Raises `UserError` (code `package`) without matplotlib.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    scene = Scene(read_image(job.fixed, "fixed"), read_image(job.moving, "moving"), load_transform(result))
    middle, side = (
        scene.grid.to_world((np.array(scene.grid.size) - 1) * share) for share in (1 / 2, (1 / 3, 1 / 2, 1 / 2))
    )
    cuts = [scene.cut("coronal", middle), scene.cut("sagittal", side)]
    figure = Figure(figsize=(18, 6.4), layout="constrained", facecolor="black")
    draw = (_fixed, _moving, _warped, _difference_before, _difference, _deformed_grid)
    _draw_all(figure, cuts, dict(zip(_OVERVIEW, draw, strict=True)), colour="white")
    figure.savefig(path, dpi=100)
    return path


_OVERVIEW = ("fixed", "moving", "warped", "difference before", "difference after", "deformed grid")


def planes(scene: Scene, through: np.ndarray, landmark: dict[str, Any] | None = None) -> Figure:
    """The three planes through a point (3,) LPS mm, each as fixed, warped, checkerboard, difference, grid, Jacobian.

    A `landmark` of `inrreg.evaluation` at that point is marked: a cross in the fixed image, a circle in the warped
    one where the moving landmark comes to lie.
    """
    from matplotlib.figure import Figure

    cuts = [scene.cut(plane, through) for plane in PLANES]
    shapes = [cut.fixed.shape for cut in cuts]
    height = sum(2.6 * rows / columns for rows, columns in shapes)
    figure = Figure(figsize=(15.6, min(max(height, 4.5), 15.0) + 0.3), layout="constrained", facecolor="white")
    found = _draw_all(figure, cuts, _REPORT, colour="black", ratios=[rows / columns for rows, columns in shapes])
    colours = figure.colorbar(found["Jacobian determinant"], ax=figure.axes, shrink=0.6, pad=0.01, aspect=30)
    colours.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["0.5", "0.71", "1", "1.41", "2"])
    colours.set_label("volume in moving / volume in fixed; folding is black", fontsize=9)
    if landmark is not None:
        start = np.array(landmark["fixed"])
        end = invert(scene.transform, np.array([landmark["moving"]]))[0]
        for row, cut in enumerate(cuts):
            for column, point, marker in ((0, start, "+"), (1, start, "+"), (1, end, "o")):
                _mark(figure.axes[row * len(_REPORT) + column], cut, point, marker)
    return figure


def histogram(before: Sequence[float], after: Sequence[float]) -> Figure:
    """How many landmarks have which target registration error, in mm, before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    bins = np.linspace(0, max(*before, *after, 1e-3), 25)
    for values, name, colour in ((before, "before", "#b0b0b0"), (after, "after", "#1668b0")):
        axes.hist(values, bins, alpha=0.75, color=colour, label=f"{name}: mean {np.mean(values):.2f} mm")
    axes.set_xlabel("target registration error (mm)")
    axes.set_ylabel("landmarks")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


# ------------------------------------------------------------------------------------------- planes


@dataclass(frozen=True)
class Scene:
    """Two images and the map from fixed to moving points, to be cut by planes of the fixed image."""

    fixed: sitk.Image
    moving: sitk.Image
    transform: PointMap

    @cached_property
    def grid(self) -> Grid:
        """The fixed image's grid, its axes ordered and turned as near to L, P and S as they come."""
        return Grid.of(sitk.DICOMOrient(self.fixed, "LPS"))

    @cached_property
    def frame(self) -> Frame:
        return Frame.covering(self.grid)

    @cached_property
    def volumes(self) -> tuple[Volume, Volume]:
        """Fixed and moving, normalized."""
        images = (self.fixed, self.moving)
        return tuple(Volume.of(normalize(sitk.GetArrayFromImage(one)), Grid.of(one), self.frame) for one in images)

    def cut(self, plane: str, through: np.ndarray) -> Cut:
        """A plane through a point (3,) LPS mm, or, where that lies outside, through the nearest of the fixed image."""
        across, along, _ = PLANES[plane]
        grid = self.grid
        local = np.clip((through - grid.origin) @ grid.direction, 0, grid.extent)
        step = max(0.5, max(grid.extent[across], grid.extent[along]) / _PIXELS)
        columns, rows = (np.linspace(0, grid.extent[a], int(grid.extent[a] / step) + 2) for a in (across, along))
        points = np.empty((len(rows), len(columns), 3))
        points[...] = local
        points[..., across], points[..., along] = columns[None, :], rows[:, None]
        return Cut(self, plane, points @ grid.direction.T + grid.origin)


@dataclass(frozen=True)
class Cut:
    """One plane: `points` (rows, columns, 3) LPS mm of the fixed image."""

    scene: Scene
    plane: str
    points: np.ndarray

    @cached_property
    def mapped(self) -> np.ndarray:
        """Where the points go, (rows, columns, 3) LPS mm."""
        moved = self.scene.transform.map(self._nodes.reshape(-1, 3)).reshape(self._nodes.shape) - self._nodes
        return self.points + _resized(moved, self.points.shape[:2])

    @cached_property
    def fixed(self) -> np.ndarray:
        return self._sampled(self.scene.volumes[0], self.points)

    @cached_property
    def moving(self) -> np.ndarray:
        return self._sampled(self.scene.volumes[1], self.points)

    @cached_property
    def warped(self) -> np.ndarray:
        return self._sampled(self.scene.volumes[1], self.mapped)

    @cached_property
    def determinant(self) -> np.ndarray:
        found = whole_determinant(self.scene.transform, self._nodes.reshape(-1, 3))
        return _resized(found.reshape(*self._nodes.shape[:2], 1), self.points.shape[:2])[..., 0]

    @cached_property
    def _nodes(self) -> np.ndarray:
        """Where the deformation is evaluated: points over the same rectangle, (rows, columns, 3) LPS mm."""
        rows, columns = (max(2, math.ceil(length / _NODES) + 1) for length in self.extent[::-1])
        return _resized(self.points, tuple(np.minimum((rows, columns), self.points.shape[:2])))

    @property
    def extent(self) -> np.ndarray:
        """Width and height in mm."""
        return self.flat(self.points[-1, -1])

    def flat(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) LPS mm, projected onto the plane: mm across and along it, (..., 2)."""
        across, along, _ = PLANES[self.plane]
        local = (points - self.scene.grid.origin) @ self.scene.grid.direction
        return local[..., [across, along]]

    def _sampled(self, volume: Volume, points: np.ndarray) -> np.ndarray:
        """An image at points, masked where they lie outside it."""
        at = torch.as_tensor(self.scene.frame.normalize(points), dtype=torch.float32)
        return np.ma.array(volume.sample(at)[0].numpy(), mask=~volume.contains(at, beyond=0.5).numpy())


def _resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values (rows, columns, n) of a rectangle, interpolated linearly at other numbers of rows and columns."""
    image = torch.as_tensor(values, dtype=torch.float64).permute(2, 0, 1)[None]
    size = tuple(int(n) for n in shape)
    return F.interpolate(image, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------------- panels


def _draw_all(
    figure: Figure,
    cuts: Sequence[Cut],
    panels: dict[str, Callable[[Axes, Cut], Any]],
    *,
    colour: str,
    ratios: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Every panel of every cut, a row for each cut; the last row's images by title."""
    table = figure.subplots(len(cuts), len(panels), squeeze=False, height_ratios=ratios)
    found = {}
    for row, cut in zip(table, cuts, strict=True):
        for axes, (title, draw) in zip(row, panels.items(), strict=True):
            found[title] = draw(axes, cut)
            width, height = cut.extent
            axes.set_xlim(0, width)
            axes.set_ylim((height, 0) if cut.plane == "axial" else (0, height))  # anterior is drawn above
            axes.set_aspect("equal")
            axes.set_axis_off()
            if cut is cuts[0]:
                axes.set_title(title, color=colour, fontsize=11)
        _letters(row[0], cut)
    return found


def _show(axes: Axes, cut: Cut, values: np.ndarray, colours: str, low: float, high: float) -> Any:
    from matplotlib import colormaps

    shades = colormaps[colours].with_extremes(bad="black")
    width, height = cut.extent
    place = (0, width, 0, height)
    return axes.imshow(values, cmap=shades, vmin=low, vmax=high, origin="lower", extent=place, interpolation="nearest")


def _fixed(axes: Axes, cut: Cut) -> Any:
    return _show(axes, cut, cut.fixed, "gray", 0, 1)


def _moving(axes: Axes, cut: Cut) -> Any:
    return _show(axes, cut, cut.moving, "gray", 0, 1)


def _warped(axes: Axes, cut: Cut) -> Any:
    return _show(axes, cut, cut.warped, "gray", 0, 1)


def _difference_before(axes: Axes, cut: Cut) -> Any:
    return _show(axes, cut, cut.moving - cut.fixed, "RdBu", -0.5, 0.5)


def _difference(axes: Axes, cut: Cut) -> Any:
    return _show(axes, cut, cut.warped - cut.fixed, "RdBu", -0.5, 0.5)


def _checkerboard(axes: Axes, cut: Cut) -> Any:
    """Squares of the fixed and of the warped image in turn: what continues across an edge matches."""
    place, side = cut.flat(cut.points), cut.extent.max() / _SQUARES
    first = (place // side).sum(-1) % 2 == 0
    return _show(axes, cut, np.ma.where(first, cut.fixed, cut.warped), "gray", 0, 1)


def _jacobian(axes: Axes, cut: Cut) -> Any:
    """The determinant's binary logarithm: red expands, blue shrinks, white keeps its volume, black folds."""
    positive = np.maximum(cut.determinant, 1e-9)
    return _show(axes, cut, np.ma.array(np.log2(positive), mask=cut.determinant <= 0), "RdBu_r", -1, 1)


def _deformed_grid(axes: Axes, cut: Cut) -> Any:
    """Where a regular grid of the plane goes, seen along its normal."""
    shown = _fixed(axes, cut)
    place, moved = cut.flat(cut.points), cut.flat(cut.mapped)
    rows, columns = (
        np.unique(np.abs(at[:, None] - np.arange(0, at[-1], _LINES)).argmin(0))
        for at in (place[:, 0, 1], place[0, :, 0])
    )
    for lines in (moved[rows], moved[:, columns].swapaxes(0, 1)):
        for line in lines:
            axes.plot(*line.T, color="#ffd040", linewidth=0.6)
    return shown


def _letters(axes: Axes, cut: Cut) -> None:
    """What lies left, right, above and below."""
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    places += ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, across, along) in zip(PLANES[cut.plane][2], places, strict=True):
        style = {"color": "#ffd040", "fontsize": 8, "ha": across, "va": along}
        axes.text(x, y, letter, transform=axes.transAxes, **style)


def _mark(axes: Axes, cut: Cut, point: np.ndarray, marker: str) -> None:
    x, y = cut.flat(point)
    fill = {"markerfacecolor": "none"} if marker == "o" else {}
    axes.plot([x], [y], marker, color="#40e0ff", markersize=9, markeredgewidth=1.4, clip_on=True, **fill)


_REPORT = {
    "fixed": _fixed,
    "warped": _warped,
    "checkerboard": _checkerboard,
    "warped - fixed": _difference,
    "deformed grid": _deformed_grid,
    "Jacobian determinant": _jacobian,
}
