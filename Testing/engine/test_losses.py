"""Losses against closed forms and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from inrreg.regularization import (
    bending,
    curvature,
    determinant,
    hyperelastic,
    isotropic_total_variation,
    jacobian_deviation,
    jacobian_shrinkage,
)
from inrreg.similarity import LocalNcc, box_mean, lobe_cross_entropy, ncc_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -------------------------------------------------------------------------------- global correlation


def test_ncc_equals_numpys_correlation() -> None:
    a, b = random(500), random(500, seed=1)
    expected = 1 - np.corrcoef(a.numpy(), b.numpy())[0, 1]
    assert ncc_loss(a, b, torch.ones(500)).item() == pytest.approx(expected, abs=1e-9)


def test_ncc_ignores_gain_and_offset() -> None:
    a = random(300)
    assert ncc_loss(a, 3 * a + 7, torch.ones(300)).item() == pytest.approx(0, abs=1e-6)
    assert ncc_loss(a, -a, torch.ones(300)).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_points_that_left_count_as_no_similarity(sign: int) -> None:
    a, b = random(400), sign * random(400)
    half = torch.cat([torch.ones(200), torch.zeros(200)])
    ncc = np.corrcoef(a[:200].numpy(), b[:200].numpy())[0, 1]
    assert ncc_loss(a, b, half).item() == pytest.approx(2 - 0.5 * (1 + ncc), abs=1e-6)
    assert ncc_loss(a, a, half).item() > ncc_loss(a, a, torch.ones(400)).item()
    assert ncc_loss(a, b, torch.zeros(400)).item() == pytest.approx(2)


def test_points_that_left_exert_no_pull() -> None:
    a, b = random(100), random(100, seed=1).requires_grad_(True)
    weight = (torch.arange(100) < 60).double()
    ncc_loss(a, b, weight).backward()
    assert torch.all(b.grad[60:] == 0)
    assert torch.any(b.grad[:60] != 0)


# --------------------------------------------------------------------------------- local correlation


def test_box_mean_equals_scipys_filter_inside() -> None:
    image = random(1, 1, 12, 11, 10)
    expected = uniform_filter(image[0, 0].numpy(), 5)
    assert np.allclose(box_mean(image, 2)[0, 0].numpy()[2:-2, 2:-2, 2:-2], expected[2:-2, 2:-2, 2:-2])


def test_box_mean_of_a_constant_is_the_constant_up_to_the_border() -> None:
    assert torch.allclose(box_mean(torch.full((1, 1, 6, 7, 8), 0.3), 2), torch.full((1, 1, 6, 7, 8), 0.3))


def test_local_ncc_equals_a_loop_over_windows() -> None:
    fixed, warped = random(1, 1, 7, 8, 9), random(1, 1, 7, 8, 9, seed=1)
    noise, values = 1e-3, []
    for k, j, i in np.ndindex(7, 8, 9):
        window = tuple(slice(max(0, n - 1), n + 2) for n in (k, j, i))
        f, m = (image[0, 0].numpy()[window] for image in (fixed, warped))
        covariance = (f * m).mean() - f.mean() * m.mean()
        values.append(covariance / ((f.var() + noise) * (m.var() + noise)) ** 0.5)
    everywhere = torch.ones_like(fixed)
    loss = LocalNcc(fixed, everywhere, 1, noise)(warped, everywhere)
    assert loss.item() == pytest.approx(1 - np.mean(values), abs=1e-9)


def test_local_ncc_counts_only_the_mask_and_what_came_from_inside() -> None:
    fixed = random(1, 1, 8, 8, 8)
    mask, inside = torch.zeros_like(fixed), torch.ones_like(fixed)
    mask[..., :4] = 1
    loss = LocalNcc(fixed, mask, 1, 1e-9)
    assert loss(fixed, inside).item() == pytest.approx(0, abs=1e-5)
    inside[..., :2] = 0  # half of the mask
    assert loss(fixed, inside).item() == pytest.approx(0.5, abs=1e-5)


def test_an_inverted_match_is_worse_than_none() -> None:
    fixed = random(1, 1, 8, 8, 8)
    everywhere = torch.ones_like(fixed)
    assert LocalNcc(fixed, everywhere, 1, 1e-9)(-fixed, everywhere).item() == pytest.approx(2, abs=1e-5)


# --------------------------------------------------------------------------------------------- labels


def test_cross_entropy_of_equal_labels_is_small_and_of_swapped_ones_large() -> None:
    labels = torch.eye(3, dtype=torch.float64).repeat(1, 20)
    ones = torch.ones(60)
    assert lobe_cross_entropy(labels, labels, ones).item() < 2e-3
    assert lobe_cross_entropy(labels, labels.flip(0), ones).item() > 1


def test_cross_entropy_equals_torchs() -> None:
    fixed, warped = (random(4, 50) > 0.5).double(), random(4, 50, seed=2) * 0.8 + 0.1
    expected = torch.nn.functional.binary_cross_entropy(warped * 0.998 + 0.001, fixed)
    assert lobe_cross_entropy(fixed, warped, torch.ones(50)).item() == pytest.approx(expected.item(), abs=1e-9)


# ------------------------------------------------------------------------------------- regularization


def test_determinant_equals_torchs() -> None:
    jacobian = random(30, 3, 3) - 0.5
    assert torch.allclose(determinant(jacobian), torch.linalg.det(jacobian + torch.eye(3, dtype=torch.float64)))


def test_jacobian_terms_of_a_uniform_scaling() -> None:
    def scaling(factor: float) -> torch.Tensor:
        return ((factor - 1) * torch.eye(3)).expand(5, 3, 3)

    assert jacobian_deviation(scaling(2.0)).item() == pytest.approx(7)
    assert jacobian_deviation(scaling(0.5)).item() == pytest.approx(1 - 1 / 8)
    assert jacobian_shrinkage(scaling(2.0)).item() == 0
    assert jacobian_shrinkage(scaling(0.5)).item() == pytest.approx(1 - 1 / 8)


def test_hyperelastic_energy_of_a_scaling_and_a_shear() -> None:
    def energy(matrix: list[list[float]]) -> float:
        return hyperelastic((torch.tensor(matrix, dtype=torch.float64) - torch.eye(3)).expand(4, 3, 3)).item()

    # twice as large: |grad u|^2 = 3, each column of the cofactors is 4 long, det = 8
    assert energy([[2, 0, 0], [0, 2, 0], [0, 0, 2]]) == pytest.approx(1.5 + 3 * 15**2 + 7**4 / 64)
    # x + 2 y keeps the volume; its cofactors are I but for -2 below the diagonal: columns of squared length 5, 1, 1
    assert energy([[1, 2, 0], [0, 1, 0], [0, 0, 1]]) == pytest.approx(2 + 4**2)
    # flattened to nothing the volume term stays finite
    assert energy([[0, 0, 0], [0, 1, 0], [0, 0, 1]]) == pytest.approx(0.5 + 1e4)


def test_hyperelastic_cofactors_equal_det_times_inverse_transposed() -> None:
    jacobian = 0.3 * (random(20, 3, 3) - 0.5)
    f = jacobian + torch.eye(3, dtype=torch.float64)
    det = torch.linalg.det(f)
    cofactors = det[:, None, None] * torch.linalg.inv(f).mT
    area = torch.relu(cofactors.square().sum(1) - 1).square().sum(1)
    expected = 0.5 * jacobian.square().sum((1, 2)) + area + (det - 1) ** 4 / det**2
    assert hyperelastic(jacobian).item() == pytest.approx(expected.mean().item(), rel=1e-9)


def test_second_order_terms_of_a_quadratic() -> None:
    hessian = torch.zeros(4, 3, 3, 3)
    hessian[:, 0, 0, 0], hessian[:, 1, 0, 2], hessian[:, 1, 2, 0] = 2.0, 3.0, 3.0
    assert bending(hessian).item() == pytest.approx(4 + 9 + 9)
    assert curvature(hessian.diagonal(dim1=2, dim2=3).sum(-1)).item() == pytest.approx(4)


def test_total_variation_is_linear_in_a_jump_and_blind_to_direction() -> None:
    jump = torch.zeros(10, 3, 3)
    jump[0, 0, 0] = 1.0
    spread = torch.zeros(10, 3, 3)
    spread[:, 0, 0] = 0.1
    assert isotropic_total_variation(jump, 1e-6).item() == pytest.approx(0.1, rel=1e-3)
    assert isotropic_total_variation(spread, 1e-6).item() == pytest.approx(0.1, rel=1e-3)
    rotation, _ = torch.linalg.qr(random(3, 3).float())
    turned = rotation @ jump @ rotation.T
    assert isotropic_total_variation(turned).item() == pytest.approx(isotropic_total_variation(jump).item(), rel=1e-5)


def test_no_deformation_costs_nothing() -> None:
    still = torch.zeros(6, 3, 3)
    for term in (hyperelastic, jacobian_deviation, jacobian_shrinkage, isotropic_total_variation):
        assert term(still).item() == pytest.approx(0, abs=1e-7)
