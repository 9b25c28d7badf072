"""Losses against closed forms and other libraries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from inrreg.regularization import (
    bending,
    curvature,
    cycle_distance,
    determinant,
    folding,
    hyperelastic,
    isotropic_total_variation,
    jacobian_deviation,
    jacobian_shrinkage,
    kinks,
    symmetric_jacobian,
)
from inrreg.similarity import GaussianWindow, LocalNcc, lobe_cross_entropy, ncc_loss


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


def test_window_equals_scipys_filter_inside() -> None:
    image = random(2, 24, 22, 20)
    expected = [gaussian_filter(channel, (1.2, 1.0, 0.8), truncate=8) for channel in image.numpy()]
    inner = (slice(None), *[slice(8, -8)] * 3)
    found = GaussianWindow(image.shape[1:], (1.2, 1.0, 0.8))(image).numpy()
    assert np.allclose(found[inner], np.stack(expected)[inner], atol=1e-6)


def test_window_of_a_constant_is_the_constant_up_to_the_border() -> None:
    assert torch.allclose(GaussianWindow((6, 7, 8), (2, 1, 3))(torch.full((1, 6, 7, 8), 0.3)), torch.tensor(0.3))


def test_windows_adjoint_is_its_transpose() -> None:
    window, a, b = GaussianWindow((5, 6, 7), (1, 2, 1.5)), random(1, 5, 6, 7), random(1, 5, 6, 7, seed=1)
    assert (window(a) * b).sum().item() == pytest.approx((a * window.adjoint(b)).sum().item(), rel=1e-9)


def test_local_ncc_equals_a_loop_over_windows() -> None:
    fixed, warped = random(7, 8, 9), random(7, 8, 9, seed=1)
    noise, sigma, values = 1e-3, (1.0, 1.5, 2.0), []
    axes = np.indices((7, 8, 9))
    for point in np.ndindex(7, 8, 9):
        distance = sum(((axes[a] - point[a]) / sigma[a]) ** 2 for a in range(3))
        weights = np.exp(-distance / 2)
        weights /= weights.sum()
        f, m = (image.numpy() for image in (fixed, warped))
        means = (weights * f).sum(), (weights * m).sum()
        variances = [(weights * a * a).sum() - mean**2 for a, mean in zip((f, m), means, strict=True)]
        covariance = (weights * f * m).sum() - means[0] * means[1]
        values.append(covariance / ((variances[0] + noise) * (variances[1] + noise)) ** 0.5)
    everywhere = torch.ones_like(fixed)
    loss = LocalNcc(fixed, everywhere, sigma, noise)(warped, everywhere)
    assert loss.item() == pytest.approx(1 - np.mean(values), abs=1e-7)


def test_local_nccs_gradient_is_the_numerical_one() -> None:
    fixed, warped = random(5, 6, 7), random(5, 6, 7, seed=1).requires_grad_(True)
    loss = LocalNcc(fixed, (random(5, 6, 7, seed=2) > 0.3).double(), (1.0, 1.3, 0.8), 1e-2)
    inside = (random(5, 6, 7, seed=3) > 0.2).double()
    assert torch.autograd.gradcheck(lambda image: 3 * loss(image, inside), warped, atol=1e-7)


def test_local_ncc_counts_only_the_mask_and_what_came_from_inside() -> None:
    fixed = random(8, 8, 8)
    mask, inside = torch.zeros_like(fixed), torch.ones_like(fixed)
    mask[..., :4] = 1
    loss = LocalNcc(fixed, mask, (1, 1, 1), 1e-9)
    assert loss(fixed, inside).item() == pytest.approx(0, abs=1e-5)
    inside[..., :2] = 0  # half of the mask
    assert loss(fixed, inside).item() == pytest.approx(0.5, abs=1e-5)


def test_an_inverted_match_is_worse_than_none() -> None:
    fixed = random(8, 8, 8)
    everywhere = torch.ones_like(fixed)
    assert LocalNcc(fixed, everywhere, (1, 1, 1), 1e-9)(-fixed, everywhere).item() == pytest.approx(2, abs=1e-5)


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


def test_symmetric_jacobian_is_the_same_for_a_map_and_its_inverse() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    jacobian = 0.2 * (random(20, 3, 3) - 0.5)
    inverse = torch.linalg.inv(jacobian + eye) - eye
    assert symmetric_jacobian(jacobian).item() == pytest.approx(symmetric_jacobian(inverse).item(), rel=1e-9)
    assert symmetric_jacobian(eye.expand(5, 3, 3)).item() == pytest.approx(7 - 7 / 8)
    assert symmetric_jacobian((-1.5 * eye).expand(5, 3, 3)).item() == pytest.approx(-0.9 + 9)  # folded: clipped at 0.1


def test_cycle_distance_of_two_translations() -> None:
    def translation(*shift: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: torch.tensor(shift).expand_as(x)

    points = random(10, 3).float()
    assert cycle_distance(translation(0.3, 0, 0), translation(-0.3, 0.4, 0), points).item() == pytest.approx(0.4)
    assert cycle_distance(translation(0.3, 0, 0), translation(-0.3, 0, 0), points).item() == pytest.approx(0)


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
    for term in (hyperelastic, jacobian_deviation, jacobian_shrinkage, isotropic_total_variation, folding):
        assert term(still).item() == pytest.approx(0, abs=1e-7)


def test_folding_sees_only_what_folds_or_is_about_to() -> None:
    squeezed = torch.diag_embed(torch.tensor([[-0.85, 0, 0], [-0.95, 0, 0], [-1.5, 0, 0]]))
    assert folding(squeezed, 0.1).item() == pytest.approx((0 + 0.05 + 0.6) / 3, abs=1e-6)


def test_kinks_saturate() -> None:
    size = torch.tensor([0.01, 0.2, 50.0])
    change = torch.zeros(3, 3, 3)
    change[:, 1, 2] = size
    costs = [kinks(part[None], 0.2, 1e-6).item() for part in change]
    assert costs == pytest.approx([0.2 * s / (s + 0.2) for s in size.tolist()], rel=1e-3)
    assert costs[2] < 0.2
