"""Random voxels, and a loss that regularizes a random subset of them: what it estimates, and how surely."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from benchmarks.step import bias, gradients, variance

from inrreg import protocol
from inrreg.fields import Jet, Siren
from inrreg.optimization import Run
from inrreg.phantom import thorax
from inrreg.pointwise import PointLoss
from inrreg.problem import Problem
from inrreg.regularization import curvature, jacobian_shrinkage


def image(seed: int, *, labels: bool = False) -> sitk.Image:
    """A small oblique image of smooth random values, or of integers."""
    array = np.random.default_rng(seed).normal(size=(9, 11, 13))
    result = sitk.GetImageFromArray((array > 0.5).astype(np.uint8) if labels else array.astype(np.float32))
    result.SetSpacing((1.5, 2.0, 3.0))
    result.SetOrigin((-10.0, 4.0, 30.0))
    result.SetDirection((0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6))
    return result if labels else sitk.DiscreteGaussian(result, 4.0)


def whole() -> Problem:
    return Problem(image(1), image(2))


def masked() -> Problem:
    return Problem(image(1), image(2), fixed_mask=image(3, labels=True))


def small(omega: float = 6.0) -> Siren:
    field = Siren(8, 2, omega, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        field.layers[-1].weight.mul_(0.3)
    return field


# -------------------------------------------------------------------------------------------- voxels


@pytest.mark.parametrize("make", [whole, masked])
def test_drawn_voxels_are_those_of_the_mask_with_their_values(make: Any) -> None:
    given = make()
    points, values = given.voxels().draw(5000)
    index = given.grid.to_index(given.frame.to_world(points.double().numpy()))
    nearest = np.rint(index).astype(int)
    assert np.abs(index - nearest).max() < 1e-3
    i, j, k = nearest.T
    assert np.array_equal(values[0].numpy(), sitk.GetArrayFromImage(given.images[0])[k, j, i])
    assert given.mask[k, j, i].all()
    assert len(np.unique(nearest, axis=0)) > 0.95 * given.mask.sum()  # 5000 draws of at most 1287


def test_drawn_labels_belong_to_their_voxels() -> None:
    labels = image(3, labels=True)
    given = Problem(image(1), image(2), fixed_labels=labels, moving_labels=labels)
    points, values = given.voxels().draw(500)
    i, j, k = np.rint(given.grid.to_index(given.frame.to_world(points.double().numpy()))).astype(int).T
    assert np.array_equal(values[1].numpy(), sitk.GetArrayFromImage(labels)[k, j, i])


# -------------------------------------------------------------------------------------------- subset


def regularity(jet: Jet) -> dict[str, torch.Tensor]:
    return {"curvature": 0.01 * curvature(jet.laplacian), "Jacobian": jacobian_shrinkage(jet.jacobian)}


def test_a_subset_estimates_the_gradient_at_every_voxel_without_bias() -> None:
    given, field = whole(), small()
    points = torch.as_tensor(given.frame.normalize(given.grid.points().reshape(-1, 3)), dtype=torch.float32)

    def everywhere() -> dict[str, torch.Tensor]:
        return regularity(field.jet(points, 2, trace=True))

    exact = gradients(field, everywhere, 1)[0]
    loss = PointLoss(given, 100, 10)
    rows = gradients(field, lambda: regularity(loss(field, 2, trace=True)[1]), 300)

    def distance(expected: torch.Tensor) -> float:
        return float((rows.mean(0) - expected).square().sum()) / (variance(rows) / len(rows))

    assert distance(exact) < 3  # 1 is expected by chance
    assert distance(1.2 * exact) > 10


def test_with_a_mask_a_subset_estimates_the_same_as_all_points() -> None:
    given, field = masked(), small()
    few, all_points = PointLoss(given, 100, 20), PointLoss(given, 100, 100)
    rows = [
        gradients(field, lambda loss=loss: regularity(loss(field, 2, trace=True)[1]), 200) for loss in (few, all_points)
    ]
    assert bias(*rows) < 3
    assert bias(rows[0], 1.2 * rows[1]) > 5


def test_the_subset_leaves_the_data_term_as_it_is() -> None:
    given, field = masked(), small()
    losses = [PointLoss(given, 100, count) for count in (0, 10, 100)]
    found = [loss(field, 2, trace=True)[0][loss.name].item() for loss in losses]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_no_regularized_points_no_derivatives() -> None:
    assert PointLoss(masked(), 100, 0)(small(), 2)[1] is None


@cache
def chest() -> Problem:
    pair = thorax((48, 40, 48), (6.0, 6.0, 6.0), seed=3, amplitude=15.0)
    names = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_labels", "moving_labels")
    return Problem(**{name: getattr(pair, name) for name in names})


@pytest.mark.parametrize("preset_name", ["dual", "idir"])
def test_the_published_presets_gradient_varies_at_most_twice_as_much_as_the_full_one(preset_name: str) -> None:
    torch.set_num_threads(1)
    preset = protocol.preset(preset_name)
    assert preset.settings.regularized < 1
    method = importlib.import_module(f"inrreg.methods.{preset.method}")
    steps = {"dual": (30, 30, 30), "idir": 90}[preset_name]
    settings = preset.settings.override({"width": 48, "points": 1000, "steps": steps, "rate": 1e-3})
    field = method.fit(chest(), settings, Run()).requires_grad_(True)
    losses = [PointLoss(chest(), 1000, round(share * 1000)) for share in (settings.regularized, 1.0)]
    cheap, full = (gradients(field, lambda loss=loss: method.terms(loss, field, settings), 30) for loss in losses)
    assert variance(cheap) < 2 * variance(full)
