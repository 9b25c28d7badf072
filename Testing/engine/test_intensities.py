"""Normalization: CT window and padding, robust MR scaling, images that cannot be registered."""

from __future__ import annotations

import numpy as np
import pytest

from inrreg.intensities import check, is_ct, normalize
from inrreg.protocol import UserError

RANDOM = np.random.default_rng(0)


def ct() -> np.ndarray:
    image = RANDOM.normal(40, 20, (10, 20, 20))
    image[:, :8] = -850
    return image.astype(np.int16)


def test_ct_is_recognized_by_its_air() -> None:
    assert is_ct(ct())
    assert not is_ct(RANDOM.uniform(0, 255, (5, 5, 5)))


def test_ct_padding_counts_as_air_and_metal_as_bone() -> None:
    image = ct()
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2], image[0, 0, 3] = -3024, -1000, 3000, 500
    scaled = normalize(image)
    assert scaled[0, 0, 0] == scaled[0, 0, 1] == 0
    assert scaled[0, 0, 2] == scaled[0, 0, 3] == 1


def test_ct_values_keep_their_meaning_whatever_else_is_in_the_image() -> None:
    image, brighter = ct(), ct()
    brighter[0, 0, :10] = 3000
    image[5, 15, 5] = brighter[5, 15, 5] = 40
    assert normalize(image)[5, 15, 5] == normalize(brighter)[5, 15, 5]


def test_a_few_bright_voxels_do_not_decide_the_scale_of_mr() -> None:
    image = RANDOM.uniform(0, 200, (20, 20, 20))
    spiked = image.copy()
    spiked[0, 0, :5] = 60_000
    assert np.abs(normalize(spiked) - normalize(image))[1:].max() < 0.02
    assert normalize(spiked).max() == 1


def test_a_large_background_does_not_decide_it_either() -> None:
    image = np.zeros((20, 20, 20))
    image[8:12, 8:12, 8:12] = RANDOM.uniform(50, 200, (4, 4, 4))
    scaled = normalize(image)
    assert scaled[0, 0, 0] == 0
    assert scaled[8:12, 8:12, 8:12].std() > 0.15


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float64])
def test_scale_and_type_do_not_matter_to_mr(kind: type) -> None:
    image = RANDOM.integers(0, 250, (10, 10, 10))
    assert np.allclose(normalize(image.astype(kind)), normalize(image.astype(np.float32)), atol=1e-6)


def test_two_values_are_enough() -> None:
    image = np.zeros((6, 6, 6))
    image[2:4, 2:4, 2:4] = 7
    assert set(np.unique(normalize(image))) == {0, 1}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_is_refused(value: float) -> None:
    image = np.arange(8.0).reshape(2, 2, 2)
    image[0, 0, 0] = value
    with pytest.raises(UserError, match="fixed image has NaN or infinite"):
        check(image, "fixed")


def test_a_constant_image_is_refused() -> None:
    with pytest.raises(UserError, match="same value everywhere"):
        check(np.full((3, 3, 3), 7), "moving")


@pytest.mark.parametrize("low", [-1000.0, 0.0])
def test_normalized_values_are_single_precision_and_the_image_is_left_alone(low: float) -> None:
    array = np.random.default_rng(0).uniform(low, low + 1500, (5, 6, 7)).astype(np.float32)
    before = array.copy()
    assert normalize(array).dtype == np.float32
    assert np.array_equal(array, before)
