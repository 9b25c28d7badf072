"""Pairs of two contrasts: what is compared then, when that is chosen, and how near to the truth it comes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from benchmarks.ours import register
from scipy.ndimage import gaussian_filter

from inrreg.descriptors import mind
from inrreg.geometry import Grid
from inrreg.modality import UNEXPLAINED, suited, unexplained
from inrreg.phantom import Phantom, thorax
from inrreg.phantom.modality import in_view
from inrreg.pointwise import PointLoss
from inrreg.problem import Problem
from inrreg.protocol import Job, UserError
from inrreg.similarity import LocalNcc
from inrreg.transforms import DisplacementGrid

COARSE: dict[str, Any] = {"size": (48, 40, 48), "spacing": (6.0, 6.0, 6.0), "landmarks": 80}
DATA = Path(os.environ.get("INRREG_DATA") or Path(__file__).parents[3] / "shared" / "data")


def smooth(seed: int, *shape: int) -> torch.Tensor:
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return torch.as_tensor((values - values.min()) / np.ptp(values))


# --------------------------------------------------------------------------------------------- losses


def test_descriptors_are_unit_vectors_that_do_not_know_which_way_intensities_run() -> None:
    image = smooth(0, 12, 13, 14)
    found = mind(image, 1e-9)
    assert found.shape == (12, 12, 13, 14)
    assert torch.allclose(found, mind(1 - image, 1e-9), atol=1e-9)
    assert torch.allclose(found, mind(0.3 * image + 5, 1e-9), atol=1e-5)
    assert found.mean(0).abs().max() < 1e-9
    assert 0.8 < found.norm(dim=0).mean() <= 1
    other = mind(smooth(1, 12, 13, 14), 1e-9)
    assert (found * found).sum(0).mean() > 0.8 > 0.3 > (found * other).sum(0).mean()
    assert mind(torch.full((8, 8, 8), 0.4), 1e-9).abs().max() == 0


def test_a_squared_correlation_does_not_know_either() -> None:
    image, everywhere = smooth(0, 8, 9, 10), torch.ones(8, 9, 10, dtype=torch.float64)
    loss = LocalNcc(image, everywhere, (1, 1, 1), 1e-12, squared=True)
    assert loss(image, everywhere).item() == pytest.approx(0, abs=1e-4)
    assert loss(3 - 2 * image, everywhere).item() == pytest.approx(0, abs=1e-4)
    signed = LocalNcc(image, everywhere, (1, 1, 1), 1e-12)
    other = smooth(1, 8, 9, 10)
    assert loss(other, everywhere).item() > 0.5
    assert loss(other, everywhere).item() < 1 < signed(3 - 2 * image, everywhere).item()


@pytest.mark.parametrize("squared", [False, True])
def test_windows_see_their_support_alone_and_the_gradient_is_the_numerical_one(squared: bool) -> None:
    fixed, warped, other = (smooth(seed, 6, 7, 8) for seed in (0, 1, 2))
    support = torch.ones_like(fixed)
    support[:, 2:5, 3:6] = 0
    loss = LocalNcc(fixed, support, (1.0, 1.3, 0.8), 1e-3, squared=squared, support=support)
    hidden = torch.where(support > 0, warped, other)
    assert loss(warped, support).item() == pytest.approx(loss(hidden, support).item(), abs=1e-12)
    plain = LocalNcc(fixed, support, (1.0, 1.3, 0.8), 1e-3, squared=squared)
    assert abs(plain(warped, support).item() - plain(hidden, support).item()) > 1e-4
    leaf = warped.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda image: loss(image, support), leaf, atol=1e-7)


# --------------------------------------------------------------------------------------------- choice


def test_only_a_relation_that_falls_somewhere_is_unexplained() -> None:
    rng = np.random.default_rng(0)
    one, noise = rng.normal(size=20_000), rng.normal(size=20_000)
    for rising in (one + 0.5 * noise, np.exp(one), noise, np.sign(one)):
        assert unexplained(one, rising) < UNEXPLAINED
    for falling in (-one + 0.5 * noise, one**2, np.sin(2 * one)):
        assert unexplained(one, falling) > 4 * UNEXPLAINED


@pytest.fixture(scope="module")
def inverted() -> Phantom:
    return thorax(**COARSE, seed=0, amplitude=15.0, contrast="inverted")


def test_what_suits_a_pair_is_seen_before_it_is_aligned(inverted: Phantom) -> None:
    fixed, moving = inverted.fixed, inverted.moving
    plain = sitk.InvertIntensity(moving, 2048)
    magnitudes = sitk.Cast(fixed, sitk.sitkFloat32) + 1024  # as MR, without a scale of its own
    assert suited(Problem(fixed, moving)) == "multimodal"
    assert suited(Problem(magnitudes, moving)) == "multimodal"
    assert suited(Problem(magnitudes, plain)) == "ncc"
    assert suited(Problem(magnitudes, sitk.Sqrt(sitk.Cast(plain, sitk.sitkFloat32)))) == "ncc"
    assert suited(Problem(fixed, sitk.Cast(plain, sitk.sitkInt16) - 1024)) == "ncc"


@pytest.mark.skipif(not (DATA / "liver").is_dir(), reason="no liver images")
def test_the_liver_pairs_are_of_one_contrast_until_one_is_inverted() -> None:
    for path in sorted((DATA / "liver").glob("subject*/moving_?.nrrd")):
        fixed, moving = (sitk.ReadImage(str(each), sitk.sitkFloat32) for each in (path.parent / "fixed.nrrd", path))
        assert suited(Problem(fixed, moving)) == "ncc"
        largest = float(sitk.GetArrayViewFromImage(moving).max())
        assert suited(Problem(fixed, sitk.InvertIntensity(moving, largest))) == "multimodal"


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(UserError, match=r"'ssd'.*auto, ncc, multimodal"):
        Job("f", "m", overrides={"similarity": "ssd"})


# ----------------------------------------------------------------------------------------- registration


def errors(phantom: Phantom, similarity: str, **problem: Any) -> np.ndarray:
    given = Problem(phantom.fixed, phantom.moving, **problem)
    overrides = {"similarity": similarity, "steps": (50, 40), "image_spacing": (9, 6), "node_spacing": (12, 9)}
    field = DisplacementGrid.of(register(given, "fast", overrides)[0])
    return np.linalg.norm(field.map(phantom.fixed_landmarks) - phantom.moving_landmarks, axis=1)


@pytest.mark.parametrize("contrast", ["inverted", "nonlinear"])
def test_other_contrasts_are_registered_where_ncc_fails(contrast: str, inverted: Phantom) -> None:
    phantom = inverted if contrast == "inverted" else thorax(**COARSE, seed=0, amplitude=15.0, contrast=contrast)
    assert errors(phantom, "auto").mean() < 2.0
    assert errors(phantom, "ncc").mean() > 5.0


def test_random_points_are_compared_by_what_two_contrasts_share(inverted: Phantom) -> None:
    class Known(torch.nn.Module):
        """The true displacement, or none of it."""

        def __init__(self, problem: Problem, share: float) -> None:
            super().__init__()
            self.problem, self.share = problem, share

        def value(self, x: torch.Tensor) -> torch.Tensor:
            moved = inverted.displacement(self.problem.frame.to_world(x.double().numpy()))
            return torch.as_tensor(self.share * moved / self.problem.frame.scale, dtype=torch.float32)

    found = {}
    for similarity in ("ncc", "multimodal"):
        problem = Problem(inverted.fixed, inverted.moving, inverted.fixed_mask, similarity=similarity)
        for share in (0.0, 1.0):
            terms, _ = PointLoss(problem, 20_000, 0)(Known(problem, share), 1)
            found[similarity, share] = terms.popitem()[1].item()
    assert found["multimodal", 1.0] < found["multimodal", 0.0] - 0.1
    assert found["ncc", 1.0] > 1.3


# ------------------------------------------------------------------------------------------ cone beam


def test_a_cone_beam_ends_at_its_view_and_is_of_a_cts_contrast() -> None:
    phantom = thorax(**COARSE, seed=1, amplitude=20.0, cone_beam=True)
    grid, array = Grid.of(phantom.moving), sitk.GetArrayFromImage(phantom.moving)
    axes = [grid.origin[a] + grid.spacing[a] * np.arange(grid.size[a]) for a in range(3)]
    view = in_view(grid.points(), axes)
    assert (array[~view] == -1000).all()
    assert 0.2 < view.mean() < 0.6
    assert not (sitk.GetArrayFromImage(phantom.moving_mask) > 0)[~view].any()
    assert in_view(phantom.moving_landmarks, axes).all()
    assert suited(Problem(phantom.fixed, phantom.moving)) == "ncc"
