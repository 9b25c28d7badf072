"""The benchmark's pairs under known fields: frozen, invertible, and true."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from benchmarks.known import MEAN, NOISE, known_field, known_pair

from inrreg.geometry import Frame, Grid, Volume
from inrreg.metrics import jacobian_determinant
from inrreg.transforms import sample_on


def chest() -> tuple[sitk.Image, sitk.Image]:
    """A smooth stand-in for a chest CT, HU, and the ellipsoid of its lung."""
    grid = Grid((46, 63, 52), np.array([-150.0, -150.0, -1430.0]), np.diag([3.4, 3.4, 6.2]))
    x, y, z = np.moveaxis((grid.points() - grid.centre) / (0.36 * grid.extent), -1, 0)
    radius = np.sqrt(x**2 + y**2 + z**2)
    lung = -850 + 150 * np.sin(5 * x) * np.cos(4 * y + z)
    array = np.where(radius < 1, lung, 50)
    return grid.image(array.astype(np.float32)), grid.image((radius < 1).astype(np.uint8))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_field_is_as_large_as_it_says_and_invertible(seed: int) -> None:
    _, lung = chest()
    displacement = sample_on(known_field(lung, seed), Grid.of(lung))
    length = np.linalg.norm(displacement, axis=-1)[sitk.GetArrayFromImage(lung) > 0]
    assert length.mean() == pytest.approx(MEAN)
    assert 24 < length.max() < 34
    assert jacobian_determinant(displacement, lung).min() > 0.2


def test_the_moving_points_are_where_the_fixed_ones_come_from() -> None:
    scan, lung = chest()
    pair = known_pair(scan, lung, 0)
    frame = Frame.covering(Grid.of(scan))

    def values(image: sitk.Image, points: np.ndarray) -> np.ndarray:
        volume = Volume.of(sitk.GetArrayFromImage(image), Grid.of(image), frame)
        return volume.sample(torch.as_tensor(frame.normalize(points), dtype=torch.float32))[0].numpy()

    inside = values(lung, pair.moving_landmarks) == 1  # away from the border, where a voxel holds both
    density = [
        values(image, points)[inside] + 1000
        for image, points in ((pair.fixed, pair.fixed_landmarks), (pair.moving, pair.moving_landmarks))
    ]
    determinant = jacobian_determinant(sample_on(known_field(lung, 0), Grid.of(lung)), lung)
    expected = density[1] * values(Grid.of(scan).image(determinant), pair.fixed_landmarks)[inside]
    assert np.corrcoef(density[0], expected)[0, 1] > 0.9
    assert np.abs(density[0] - expected).mean() < 1.5 * NOISE
    assert (values(pair.mask, pair.fixed_landmarks) > 0).all()


def test_a_seed_is_a_pair_for_ever() -> None:
    scan, lung = chest()
    first, again, other = (known_pair(scan, lung, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.fixed_landmarks, again.fixed_landmarks)
    assert np.array_equal(sitk.GetArrayViewFromImage(first.fixed), sitk.GetArrayViewFromImage(again.fixed))
    assert not np.array_equal(first.fixed_landmarks, other.fixed_landmarks)
    point = Grid.of(lung).centre[None]
    assert known_field(lung, 0).map(point) - point == pytest.approx(
        np.array([[-0.36696, -1.88946, 14.50425]]), abs=1e-4
    )
