"""The phantom's truth: what it says of its motion holds in its images, masks, labels and landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from inrreg.phantom import LOBES, Phantom, thorax
from inrreg.phantom.shape import cage

COARSE = {"size": (60, 48, 60), "spacing": (5.0, 5.0, 5.0)}
FINE = {"size": (120, 96, 100), "spacing": (2.4, 2.4, 2.9)}


@pytest.fixture(scope="module")
def smooth() -> Phantom:
    return thorax(**COARSE, seed=1, amplitude=25.0)


@pytest.fixture(scope="module")
def sliding() -> Phantom:
    return thorax(**COARSE, seed=3, amplitude=30.0, sliding=True)


@pytest.fixture(scope="module", params=[False, True], ids=["smooth", "sliding"])
def quiet(request: pytest.FixtureRequest) -> Phantom:
    """Fine enough to compare intensities, and without noise."""
    return thorax(**FINE, seed=2, amplitude=25.0, sliding=request.param, noise=0.0)


def voxel_centres(image: sitk.Image) -> np.ndarray:
    """World coordinates (Z, Y, X, 3) of an axis-aligned image."""
    axes = [
        o + s * np.arange(n) for o, s, n in zip(image.GetOrigin(), image.GetSpacing(), image.GetSize(), strict=True)
    ]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    return np.stack([x, y, z], axis=-1)


def lung_points(phantom: Phantom) -> np.ndarray:
    return voxel_centres(phantom.fixed)[sitk.GetArrayViewFromImage(phantom.fixed_mask) > 0]


def at(image: sitk.Image, points: np.ndarray, order: int) -> np.ndarray:
    """The image's values at world points (N, 3), NaN outside."""
    index = (points - image.GetOrigin()) / image.GetSpacing()
    array = sitk.GetArrayFromImage(image).astype(float)
    return ndimage.map_coordinates(array, index[:, ::-1].T, order=order, cval=np.nan)


def jacobian_determinant(phantom: Phantom, points: np.ndarray, step: float = 0.02) -> np.ndarray:
    columns = [
        (phantom.displacement(points + h) - phantom.displacement(points - h)) / (2.0 * step) for h in step * np.eye(3)
    ]
    return np.linalg.det(np.stack(columns, axis=-1) + np.eye(3))


@pytest.mark.parametrize("name", ["smooth", "sliding"])
def test_inverse_undoes_the_motion(name: str, request: pytest.FixtureRequest) -> None:
    phantom = request.getfixturevalue(name)
    points = voxel_centres(phantom.fixed).reshape(-1, 3)[::5] + 0.7
    moved = points + phantom.displacement(points)
    # Only on the pleura itself, to rounding, could a point change sides.
    assert np.abs(moved + phantom.inverse_displacement(moved) - points).max() < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_smooth_motion_folds_nowhere(seed: int) -> None:
    phantom = thorax((24, 20, 24), (12.0, 12.0, 12.0), seed=seed, amplitude=30.0, landmarks=20)
    assert jacobian_determinant(phantom, voxel_centres(phantom.fixed).reshape(-1, 3) + 5.0).min() > 0.2
    assert jacobian_determinant(phantom, voxel_centres(phantom.fixed).reshape(-1, 3)).min() > 0.2


def test_sliding_folds_on_neither_side(sliding: Phantom) -> None:
    points = voxel_centres(sliding.fixed).reshape(-1, 3)
    pleura = sliding.motion.shape.pleura(*points.T)
    assert jacobian_determinant(sliding, points[np.abs(pleura) > 0.1]).min() > 0.1


@pytest.mark.parametrize("name", ["smooth", "sliding"])
def test_amplitude_is_the_largest_displacement_in_the_lungs(name: str, request: pytest.FixtureRequest) -> None:
    phantom = request.getfixturevalue(name)
    expected = {"smooth": 25.0, "sliding": 30.0}[name]
    size = np.linalg.norm(phantom.displacement(lung_points(phantom)), axis=1)
    assert size.max() == pytest.approx(expected, rel=1e-3)


def test_motion_is_largest_below_and_vertical(smooth: Phantom) -> None:
    points = lung_points(smooth)
    u = smooth.displacement(points)
    low, high = points[:, 2] < -20.0, points[:, 2] > 60.0
    assert np.abs(u[low]).mean() > 2.0 * np.abs(u[high]).mean()
    assert np.abs(u[low, 2]).mean() > np.abs(u[low, :2]).mean(axis=0).max()


def test_spine_back_and_surroundings_stay(smooth: Phantom) -> None:
    height = np.linspace(-120.0, 120.0, 25)
    for x, y, bound in [(0.0, 68.0, 0.5), (0.0, 100.0, 0.3), (60.0, 105.0, 0.1), (140.0, 0.0, 0.3), (0.0, -118.0, 0.3)]:
        points = np.stack([np.full(25, x), np.full(25, y), height], axis=1)
        assert np.abs(smooth.displacement(points)).max() < bound, (x, y)


def test_moving_image_is_the_fixed_image_carried_by_the_motion(quiet: Phantom) -> None:
    points = lung_points(quiet)
    depth = quiet.motion.shape.pleura(*points.T)
    points = points[depth < -4.0]
    fixed = at(quiet.fixed, points, order=1)
    carried = at(quiet.moving, points + quiet.displacement(points), order=3)
    # Mass is conserved: what is compressed is denser by the determinant.
    carried_mass = (carried + 1000.0) * np.clip(jacobian_determinant(quiet, points), 0.1, 10.0)
    air = fixed < -780.0
    assert np.median(np.abs(carried_mass - fixed - 1000.0)[air]) < 12.0
    assert np.corrcoef(fixed, carried)[0, 1] > 0.93
    assert np.corrcoef(fixed, at(quiet.moving, points, order=1))[0, 1] < 0.75


def test_lungs_are_denser_and_smaller_in_the_exhale(smooth: Phantom) -> None:
    phantom, exhale_moving = smooth, smooth.motion.breathing.phase > 0
    images = [sitk.GetArrayFromImage(i) for i in (phantom.fixed, phantom.moving)]
    lungs = [sitk.GetArrayFromImage(m) > 0 for m in (phantom.fixed_mask, phantom.moving_mask)]
    density = [np.median(i[m]) for i, m in zip(images, lungs, strict=True)]
    assert (density[1] > density[0]) == exhale_moving
    assert (lungs[1].sum() < lungs[0].sum()) == exhale_moving


def test_intensities_are_those_of_a_chest(quiet: Phantom) -> None:
    image = sitk.GetArrayFromImage(quiet.fixed)
    lungs = sitk.GetArrayFromImage(quiet.fixed_mask) > 0
    assert quiet.fixed.GetPixelID() == sitk.sitkInt16
    assert -920 < np.median(image[lungs]) < -760
    assert np.percentile(image[lungs], 99) > -200
    assert image.max() > 400
    assert np.median(image[0, 0]) < -980
    litres = lungs.sum() * np.prod(quiet.fixed.GetSpacing()) / 1e6
    assert 2.5 < litres < 6.0


@pytest.mark.parametrize("name", ["smooth", "sliding"])
def test_masks_are_where_labels_are(name: str, request: pytest.FixtureRequest) -> None:
    phantom = request.getfixturevalue(name)
    for mask, labels in [(phantom.fixed_mask, phantom.fixed_labels), (phantom.moving_mask, phantom.moving_labels)]:
        mask, labels = sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(labels)
        assert mask.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(mask, labels > 0)
        assert set(np.unique(labels)) == {0, *LOBES}
        assert min(np.bincount(labels.ravel())[1:]) > 0.05 * mask.sum()


def test_sides_of_the_lobes(smooth: Phantom) -> None:
    labels = sitk.GetArrayFromImage(smooth.fixed_labels)
    centre = {n: voxel_centres(smooth.fixed)[labels == n].mean(axis=0) for n in LOBES}
    assert all((centre[n][0] > 0) == LOBES[n].startswith("left") for n in LOBES)
    assert centre[1][2] > centre[2][2]
    assert centre[3][2] > centre[4][2]
    assert centre[5][1] > centre[4][1]


@pytest.mark.parametrize("name", ["smooth", "sliding"])
def test_moving_labels_are_the_fixed_labels_carried_by_the_motion(name: str, request: pytest.FixtureRequest) -> None:
    phantom = request.getfixturevalue(name)
    points = voxel_centres(phantom.moving).reshape(-1, 3)
    moving = sitk.GetArrayFromImage(phantom.moving_labels).ravel()
    pulled = at(phantom.fixed_labels, points + phantom.inverse_displacement(points), order=0)
    known = np.isfinite(pulled)
    # Nearest-neighbour sampling is half a voxel coarse; anatomy is not.
    assert (moving[known] == pulled[known]).mean() > 0.97
    for n in LOBES:
        overlap = 2.0 * ((moving == n) & (pulled == n)).sum() / ((moving == n).sum() + (pulled == n).sum())
        assert overlap > 0.88


@pytest.mark.parametrize("name", ["smooth", "sliding"])
def test_landmarks_are_exact_and_inside(name: str, request: pytest.FixtureRequest) -> None:
    phantom = request.getfixturevalue(name)
    fixed, moving = phantom.fixed_landmarks, phantom.moving_landmarks
    assert fixed.shape == moving.shape == (300, 3)
    np.testing.assert_allclose(fixed + phantom.displacement(fixed), moving, atol=1e-9)
    assert (at(phantom.fixed_mask, fixed, order=0) == 1).all()
    origin, extent = (
        np.array(phantom.moving.GetOrigin()),
        np.multiply(phantom.moving.GetSpacing(), phantom.moving.GetSize()),
    )
    assert ((moving - origin > 5.0) & (origin + extent - moving > 5.0)).all()
    gaps = np.linalg.norm(fixed[:, None] - fixed[None], axis=-1) + 1e9 * np.eye(300)
    assert gaps.min() > 4.0


def test_landmarks_lie_on_vessels(quiet: Phantom) -> None:
    lungs = np.median(at(quiet.fixed, lung_points(quiet), 1))
    assert np.median(at(quiet.fixed, quiet.fixed_landmarks, 1)) > lungs + 200.0
    assert np.median(at(quiet.moving, quiet.moving_landmarks, 1)) > lungs + 200.0


def test_same_seed_same_phantom_other_seed_other_patient() -> None:
    small = {"size": (30, 24, 30), "spacing": (10.0, 10.0, 10.0), "landmarks": 30}
    first, again, other = (thorax(**small, seed=s) for s in (4, 4, 5))
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        same = [sitk.GetArrayFromImage(getattr(p, name)) for p in (first, again, other)]
        np.testing.assert_array_equal(same[0], same[1])
        assert (same[0] != same[2]).any()
    np.testing.assert_array_equal(first.moving_landmarks, again.moving_landmarks)


def test_seeds_move_in_different_ways() -> None:
    small = {"size": (20, 16, 20), "spacing": (15.0, 15.0, 15.0), "landmarks": 10}
    phantoms = [thorax(**small, seed=s) for s in range(8)]
    points = lung_points(phantoms[0])
    correlation = np.corrcoef([p.displacement(points).ravel() for p in phantoms])
    others = correlation[np.triu_indices(8, 1)]
    assert others.min() < 0.0
    assert np.abs(others).max() < 0.97
    assert np.abs(others).mean() < 0.85
    assert {np.sign(p.displacement(points)[:, 2].sum()) for p in phantoms} == {-1.0, 1.0}


def test_noise_is_independent_and_of_the_asked_size(smooth: Phantom) -> None:
    clean = thorax(**COARSE, seed=1, amplitude=25.0, noise=0.0)
    first, second = (
        sitk.GetArrayFromImage(getattr(smooth, n)).astype(float) - sitk.GetArrayFromImage(getattr(clean, n))
        for n in ("fixed", "moving")
    )
    inside = sitk.GetArrayFromImage(smooth.fixed_mask) > 0
    assert first[inside].std() == pytest.approx(20.0, rel=0.05)
    assert abs(np.corrcoef(first[inside], second[inside])[0, 1]) < 0.02
    assert np.corrcoef(first[:, :, :-1].ravel(), first[:, :, 1:].ravel())[0, 1] > 0.1


def test_sliding_is_a_tangential_jump_at_the_pleura_while_ribs_stay(sliding: Phantom) -> None:
    angle = np.linspace(-0.6, 0.6, 60)
    side = np.repeat([-1.0, 1.0], 30)
    height = np.linspace(-35.0, 25.0, 60)
    direction = np.stack([side * np.cos(angle), np.sin(angle), np.zeros(60)], axis=1)
    low, high = np.full(60, 40.0), np.full(60, 140.0)
    for _ in range(50):  # where these rays meet the inner surface of the rib cage
        middle = 0.5 * (low + high)
        outside = cage(*(direction * middle[:, None] + height[:, None] * [0, 0, 1]).T) > 0
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    wall = direction * low[:, None] + height[:, None] * [0, 0, 1]
    inner, outer = (sliding.displacement(wall + d * direction) for d in (-0.05, 0.05))
    jump = inner - outer
    assert np.linalg.norm(jump, axis=1).max() > 8.0
    assert np.linalg.norm(jump, axis=1).mean() > 3.0
    gradient = np.stack([cage(*(wall + h).T) - cage(*(wall - h).T) for h in 0.01 * np.eye(3)], axis=1)
    normal = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    assert np.abs((jump * normal).sum(axis=1)).max() < 0.1 * np.linalg.norm(jump, axis=1).max()
    ribs = sliding.displacement(wall + 6.0 * direction)
    assert np.linalg.norm(ribs, axis=1).max() < 1.0


def test_lungs_that_slide_stay_in_their_place() -> None:
    phantom = thorax((30, 24, 30), (10.0, 10.0, 10.0), seed=7, amplitude=30.0, sliding=True, landmarks=30)
    points = lung_points(phantom)
    slid = phantom.motion.slide.apply(points)
    assert np.linalg.norm(slid - points, axis=1).max() > 8.0
    assert phantom.motion.shape.pleura(*slid.T).max() < 0.05


@pytest.mark.parametrize(
    ("size", "spacing"),
    [((96, 80, 30), (3.0, 3.0, 9.0)), ((150, 40, 50), (2.0, 6.0, 6.0)), ((40, 40, 40), (5.0, 5.0, 5.0))],
)
def test_any_grid_works_and_shows_the_same_patient(size: tuple, spacing: tuple) -> None:
    phantom = thorax(size, spacing, seed=1, landmarks=50)
    assert phantom.fixed.GetSize() == phantom.moving.GetSize() == size
    assert phantom.fixed.GetSpacing() == pytest.approx(spacing)
    assert (
        at(phantom.fixed_mask, np.array([[-70.0, 20.0, 20.0], [70.0, 20.0, 20.0], [0.0, 60.0, 0.0]]), 0) == [1, 1, 0]
    ).all()
    assert np.isfinite(phantom.displacement(phantom.fixed_landmarks)).all()


@pytest.mark.parametrize("amplitude", [0.0, -3.0, float("nan")])
def test_amplitude_must_be_positive(amplitude: float) -> None:
    with pytest.raises(ValueError, match="amplitude"):
        thorax((20, 20, 20), (14.0, 12.0, 14.0), amplitude=amplitude)


def test_an_amplitude_that_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        thorax((20, 20, 20), (14.0, 12.0, 14.0), amplitude=400.0)


def test_a_grid_without_lungs_is_refused() -> None:
    with pytest.raises(ValueError, match="no lung"):
        thorax((4, 4, 4), (1.0, 1.0, 1.0))


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        thorax(noise=-1.0)
