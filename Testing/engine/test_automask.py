"""Masks by classical means, against the phantom's true ones."""

import numpy as np
import pytest
import SimpleITK as sitk

from inrreg import automask
from inrreg.geometry import Grid
from inrreg.metrics import dice
from inrreg.phantom import Phantom, thorax
from inrreg.phantom.shape import body as skin
from inrreg.protocol import UserError


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return thorax((72, 60, 72), (4.0, 4.0, 4.0), seed=1, landmarks=5)


@pytest.fixture(scope="module")
def true_body(phantom: Phantom) -> sitk.Image:
    """Where the phantom's fixed image, which has no motion, lies under its skin."""
    grid = Grid.of(phantom.fixed)
    return grid.image((skin(*np.moveaxis(grid.points(), -1, 0)) < 0).astype(np.uint8))


def same_place(a: sitk.Image, b: sitk.Image) -> bool:
    return a.GetSize() == b.GetSize() and np.allclose(
        a.GetOrigin() + a.GetDirection(), b.GetOrigin() + b.GetDirection()
    )


@pytest.mark.parametrize("name", ["fixed", "moving"])
def test_lungs_of_the_phantom(phantom: Phantom, name: str) -> None:
    image = getattr(phantom, name)
    found = automask.lungs(image)
    assert same_place(found, image)
    assert dice(found, getattr(phantom, f"{name}_mask")) > 0.95


def test_body_of_the_phantom(phantom: Phantom, true_body: sitk.Image) -> None:
    found = automask.body(phantom.fixed)
    assert same_place(found, phantom.fixed)
    assert dice(found, true_body) > 0.95


def test_body_of_an_image_that_is_no_ct(phantom: Phantom, true_body: sitk.Image) -> None:
    """As in MR: no Hounsfield units, lungs as dark as air, a coil that brightens one side fivefold."""
    array = np.maximum(sitk.GetArrayFromImage(phantom.fixed).astype(np.float32) + 950, 0)
    array *= np.linspace(1, 5, array.shape[1])[None, :, None]
    image = sitk.GetImageFromArray(array + np.random.default_rng(0).rayleigh(15, array.shape).astype(np.float32))
    image.CopyInformation(phantom.fixed)
    assert dice(automask.body(image), true_body) > 0.95


def test_a_turned_thick_sliced_image(phantom: Phantom) -> None:
    turned, mask = (
        sitk.DICOMOrient(
            sitk.Resample(image, (72, 60, 48), sitk.Transform(), kind, image.GetOrigin(), (4, 4, 6)), "PIR"
        )
        for image, kind in ((phantom.fixed, sitk.sitkLinear), (phantom.fixed_mask, sitk.sitkNearestNeighbor))
    )
    found = automask.lungs(turned)
    assert same_place(found, turned)
    assert dice(found, mask) > 0.95


def test_nothing_found_is_told(phantom: Phantom) -> None:
    rng = np.random.default_rng(0)
    like = lambda array: Grid.of(phantom.fixed).image(array.astype(np.float32))  # noqa: E731
    shape = sitk.GetArrayViewFromImage(phantom.fixed).shape
    air = like(-1000 + 10 * rng.standard_normal(shape))
    tissue = np.full(shape, -1000.0)
    tissue[20:50, 20:40, 20:50] = 40.0
    for make, image, words in (
        (automask.body, air, "No body"),
        (automask.lungs, air, "No body"),
        (automask.lungs, like(tissue), "No lungs"),
        (automask.lungs, like(np.abs(tissue)), "CT only"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            make(image)
        assert caught.value.code == "mask"


def test_a_word_or_a_file(phantom: Phantom, tmp_path) -> None:
    sitk.WriteImage(phantom.fixed_mask, str(tmp_path / "mask.nrrd"))
    for path, wanted in (
        ("auto", automask.body(phantom.fixed)),
        ("lungs", automask.lungs(phantom.fixed)),
        (str(tmp_path / "mask.nrrd"), phantom.fixed_mask),
    ):
        assert dice(automask.mask(path, "fixed mask", phantom.fixed), wanted) == 1.0
