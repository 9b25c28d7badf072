"""What the images tell of a displacement."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from inrreg.fields import Siren
from inrreg.geometry import Grid
from inrreg.information import FREEDOM, WINDOW, doubt
from inrreg.problem import Problem

GRID = Grid((40, 36, 32), np.array([-60.0, -54, -48]), 3.0 * np.eye(3))
POINTS = GRID.points()
NOTHING = FREEDOM * 3**0.5
WAVE = 2 * np.pi / 24
"""Of the pattern, per mm."""
NOISE = 0.02
"""Standard deviation, of the full range of intensities."""


def pattern(axes: str) -> np.ndarray:
    """Waves along some of the axes x, y, z, 0 to 1."""
    waves = [0.5 + 0.5 * np.sin(WAVE * POINTS[..., "xyz".index(axis)]) for axis in axes]
    return np.mean(waves, axis=0)


def noisy(values: np.ndarray, seed: int) -> sitk.Image:
    return GRID.image((values + np.random.default_rng(seed).normal(0, NOISE, values.shape)).astype(np.float32))


def found(fixed: sitk.Image, moving: sitk.Image, **given) -> np.ndarray:
    """Doubt of no displacement at the nodes well inside the image, with their positions: (N, 4) in mm."""
    problem = Problem(fixed, moving, **({"similarity": "ncc"} | given))
    still = Siren(4, 1, generator=torch.Generator())
    torch.nn.init.zeros_(still.layers[-1].weight)
    torch.nn.init.zeros_(still.layers[-1].bias)
    geometry, values = doubt(problem, still.freeze())
    places = problem.frame.to_world(geometry.points().reshape(-1, 3))
    rows = np.column_stack([places, problem.frame.scale * values.numpy().ravel()])
    local = (places - GRID.origin) @ GRID.direction
    return rows[((local > 2 * WINDOW) & (local < GRID.extent - 2 * WINDOW)).all(1)]


@pytest.mark.parametrize("similarity", ["ncc", "multimodal"])
def test_doubt_is_the_least_error_that_structure_and_noise_allow(similarity: str) -> None:
    pair = noisy(pattern("xyz"), 0), noisy(pattern("xyz"), 1)
    low, high = np.percentile(sitk.GetArrayFromImage(pair[0]), [0.5, 99.5])
    assert high - low == pytest.approx(1, abs=0.1)  # what normalization leaves as it is
    slope = (0.5 / 3 * WAVE) ** 2 / 2  # mean square of each component
    samples = (2 * np.pi**0.5 * WINDOW / 3.0) ** 3
    expected = (3 * 2 * NOISE**2 / (samples * slope)) ** 0.5
    assert np.sqrt(np.mean(found(*pair, similarity=similarity)[:, 3] ** 2)) == pytest.approx(expected, rel=0.25)


def test_doubt_grows_where_structure_ends_and_along_what_has_none() -> None:
    values = np.where(POINTS[..., 0] < 0, pattern("xyz"), 0.5)
    rows = found(noisy(values, 0), noisy(values, 1))
    left, right = rows[rows[:, 0] < -3 * WINDOW, 3], rows[rows[:, 0] > 3 * WINDOW, 3]
    assert 3 * left.max() < np.median(right)
    assert right.max() <= NOTHING * 1.001
    along = found(noisy(pattern("xy"), 0), noisy(pattern("xy"), 1))[:, 3]
    assert 3 * left.max() < np.median(along)


def test_doubt_grows_where_the_images_do_not_match() -> None:
    fixed, moving = pattern("xyz"), pattern("xyz")
    away = POINTS[..., 1] > 0
    moving[away] = np.roll(moving, 3, axis=0)[away]
    rows = found(noisy(fixed, 0), noisy(moving, 1))
    assert 2 * rows[rows[:, 1] < -2 * WINDOW, 3].mean() < rows[rows[:, 1] > 2 * WINDOW, 3].mean()


def test_what_is_not_compared_tells_nothing() -> None:
    mask = GRID.image((POINTS[..., 2] < 0).astype(np.uint8))
    for given in ({"fixed_mask": mask}, {"moving_mask": mask}, {"exclude": mask == 0}):
        rows = found(noisy(pattern("xyz"), 0), noisy(pattern("xyz"), 1), **given)
        assert rows[rows[:, 2] > 6 * WINDOW, 3] == pytest.approx(NOTHING, rel=1e-3)
        assert rows[rows[:, 2] < -2 * WINDOW, 3].max() < 1
