"""Evaluation figures against tiny cases worked by hand, scipy and SimpleITK's own filters."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from inrreg.geometry import Grid
from inrreg.metrics import (
    dice,
    hausdorff95,
    jacobian_determinant,
    jacobian_summary,
    label_overlap,
    mean_distance_to_agreement,
    summary,
    target_registration_error,
)
from inrreg.protocol import UserError
from inrreg.structure_overlap import overlap
from inrreg.transforms import Affine

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
OBLIQUE = (0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, 0.6)
LEFT_HANDED = (0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 0.0, -0.8, 0.6)
SPACING = (0.7, 1.3, 2.5)


def image_of(array, spacing=SPACING, direction=IDENTITY, origin=(10.0, -20.0, 30.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.asarray(array).astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin(origin)
    return image


def balls(seed: int, shape=(14, 20, 24)) -> np.ndarray:
    """Two overlapping blobs as labels 1 and 2, the second touching the image's border."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, dtype=np.uint8)
    for label, centre in ((1, (6, 8, 8)), (2, (10, 13, 19))):
        centre = np.array(centre) + rng.uniform(-1, 1, 3)
        labels[(z - centre[0]) ** 2 / 12 + (y - centre[1]) ** 2 / 25 + (x - centre[2]) ** 2 / 30 < 1] = label
    return labels


# --------------------------------------------------------------------------------------- landmarks


def test_error_is_the_euclidean_distance():
    mapped = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    moving = np.array([[3.0, 4.0, 0.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(target_registration_error(mapped, moving), [5.0, 0.0])


@pytest.mark.parametrize("direction", [IDENTITY, OBLIQUE, LEFT_HANDED])
def test_snapping_agrees_with_itk(direction):
    image = image_of(np.zeros((10, 11, 12)), direction=direction)
    rng = np.random.default_rng(0)
    index = rng.uniform(0, 9, (50, 3))
    mapped = np.array([image.TransformContinuousIndexToPhysicalPoint(row) for row in index])
    snapped = [
        image.TransformIndexToPhysicalPoint(image.TransformPhysicalPointToIndex(point.tolist())) for point in mapped
    ]
    moving = rng.normal(size=(50, 3))
    expected = np.linalg.norm(np.array(snapped) - moving, axis=1)
    np.testing.assert_allclose(target_registration_error(mapped, moving, snap_to=image), expected)


def test_snapping_works_beyond_the_image():
    image = image_of(np.zeros((2, 2, 2)), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))
    error = target_registration_error(np.array([[-5.4, 7.6, 0.5]]), np.array([[-5.0, 8.0, 1.0]]), snap_to=image)
    np.testing.assert_allclose(error, [0.0], atol=1e-12)


@pytest.mark.parametrize(("mapped", "moving"), [((3, 3), (2, 3)), ((3, 2), (3, 2)), ((1, 3), (5, 3))])
def test_landmarks_that_do_not_correspond_are_refused(mapped, moving):
    with pytest.raises(UserError) as caught:
        target_registration_error(np.zeros(mapped), np.zeros(moving))
    assert caught.value.code == "points"


def test_summary_by_hand():
    assert summary(np.array([1.0, 2.0, 3.0, 4.0, 10.0])) == pytest.approx(
        {"mean": 4.0, "sd": np.sqrt(12.5), "median": 3.0, "p95": 8.8, "max": 10.0, "count": 5}
    )


def test_summary_of_one_value():
    assert summary([2.0]) == {"mean": 2.0, "sd": 0.0, "median": 2.0, "p95": 2.0, "max": 2.0, "count": 1}


def test_summary_of_nothing_is_refused():
    with pytest.raises(UserError):
        summary(np.array([]))


# ------------------------------------------------------------------------------------------ labels


def test_dice_by_hand():
    a = image_of([[[1, 1, 0, 0]]])
    b = image_of([[[0, 7, 7, 7]]])
    assert dice(a, b) == pytest.approx(2 * 1 / (2 + 3))


def test_dice_agrees_with_simpleitk():
    a, b = image_of(balls(0) == 1), image_of(balls(1) == 1)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(a, b)
    assert dice(a, b) == pytest.approx(measures.GetDiceCoefficient())


def test_empty_masks():
    empty, full = image_of(np.zeros((2, 2, 2))), image_of(np.ones((2, 2, 2)))
    assert np.isnan(dice(empty, empty))
    assert dice(empty, full) == 0.0
    assert np.isnan(hausdorff95(empty, full))
    assert np.isnan(hausdorff95(empty, empty))
    assert hausdorff95(full, full) == 0.0
    assert np.isnan(mean_distance_to_agreement(full, empty))
    assert mean_distance_to_agreement(full, full) == 0.0


def reference_distances(a: np.ndarray, b: np.ndarray, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """The definition spelt out: surfaces by erosion, nearest neighbours by a tree in world coordinates."""

    def surface(mask):
        index = np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=0))[:, ::-1]
        return np.array([image.TransformContinuousIndexToPhysicalPoint(row.astype(float)) for row in index])

    one, other = surface(a), surface(b)
    return cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]


def reference_hausdorff95(a: np.ndarray, b: np.ndarray, image: sitk.Image) -> float:
    return max(np.percentile(values, 95) for values in reference_distances(a, b, image))


@pytest.mark.parametrize("direction", [IDENTITY, OBLIQUE, LEFT_HANDED])
@pytest.mark.parametrize("label", [1, 2])
def test_hausdorff95_agrees_with_scipy(direction, label):
    a, b = balls(0) == label, balls(1) == label
    first, second = image_of(a, direction=direction), image_of(b, direction=direction)
    assert hausdorff95(first, second) == pytest.approx(reference_hausdorff95(a, b, first), rel=1e-5)


def test_hausdorff95_of_two_voxels_is_their_distance():
    a, b = np.zeros((9, 9, 9)), np.zeros((9, 9, 9))
    a[0, 0, 0] = b[8, 4, 2] = 1
    expected = np.linalg.norm(np.array([2, 4, 8]) * SPACING)
    assert hausdorff95(image_of(a), image_of(b)) == pytest.approx(expected, rel=1e-5)


def test_hausdorff95_measures_between_surfaces_not_volumes():
    outer, inner = np.zeros((11, 11, 11)), np.zeros((11, 11, 11))
    outer[1:10, 1:10, 1:10] = 1
    inner[4:7, 4:7, 4:7] = 1
    spacing = (1.0, 1.0, 1.0)
    # The inner one lies wholly within the outer: volume distances would be zero one way.
    result = hausdorff95(image_of(outer, spacing), image_of(inner, spacing))
    assert result == pytest.approx(reference_hausdorff95(outer == 1, inner == 1, image_of(outer, spacing)), rel=1e-5)
    assert result > 3.0


def test_mean_distance_by_hand():
    """One voxel against a row of three that begins with it: there 0, back 0, 1 and 2."""
    a, b = np.zeros((3, 3, 5)), np.zeros((3, 3, 5))
    a[1, 1, 1], b[1, 1, 1:4] = 1, 1
    spacing = (0.7, 1.0, 1.0)
    distance = mean_distance_to_agreement(image_of(a, spacing), image_of(b, spacing))
    assert distance == pytest.approx(0.7 * 3 / 4, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_distances_of_random_masks_agree_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.normal(size=(14, 16, 18)), 1.5) > 0.05 for _ in range(2))
    first, second = image_of(a, direction=OBLIQUE), image_of(b, direction=OBLIQUE)
    expected = np.concatenate(reference_distances(a, b, first)).mean()
    assert mean_distance_to_agreement(first, second) == pytest.approx(expected, rel=1e-5)
    assert hausdorff95(first, second) == pytest.approx(reference_hausdorff95(a, b, first), rel=1e-5)


def test_label_overlap_by_label():
    a, b = image_of(balls(0)), image_of(balls(1))
    overlap = label_overlap(a, b)
    assert list(overlap) == [1, 2]
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(a, b)
    for label in (1, 2):
        assert overlap[label]["dice"] == pytest.approx(measures.GetDiceCoefficient(label))
        assert overlap[label]["hd95"] == pytest.approx(hausdorff95(a == label, b == label))
        assert overlap[label]["mda"] == pytest.approx(mean_distance_to_agreement(a == label, b == label))


def test_a_label_in_one_image_only():
    a, b = balls(0), balls(0)
    b[b == 2] = 0
    overlap = label_overlap(image_of(a), image_of(b))
    assert overlap[1] == pytest.approx({"dice": 1.0, "hd95": 0.0, "mda": 0.0}, abs=1e-5)
    assert overlap[2] == {"dice": 0.0, "hd95": None, "mda": None}


@pytest.mark.parametrize("changes", [{"origin": (0.0, 0.0, 0.0)}, {"spacing": (1.0, 1.0, 1.0)}, {"direction": OBLIQUE}])
def test_different_grids_are_refused(changes):
    a, b = image_of(balls(0)), image_of(balls(0), **changes)
    for measure in (dice, hausdorff95, mean_distance_to_agreement, label_overlap):
        with pytest.raises(UserError) as caught:
            measure(a, b)
        assert caught.value.code == "labels"


def test_headers_may_differ_by_rounding():
    a, b = image_of(balls(0)), image_of(balls(0), origin=(10.0 + 1e-5, -20.0, 30.0))
    assert dice(a, b) == 1.0


# ------------------------------------------------------------------------------------- deformation


def smooth_field(shape=(37, 12, 15)) -> np.ndarray:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(*shape, 3))
    return 12.0 * ndimage.gaussian_filter(noise, (2, 2, 2, 0))


@pytest.mark.parametrize("direction", [IDENTITY, OBLIQUE, LEFT_HANDED])
def test_determinant_of_an_affine_map_is_that_of_its_matrix(direction):
    grid = image_of(np.zeros((4, 5, 6)), direction=direction)
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.8, 0.3], [0.05, 0.0, 1.3]])
    points = np.array(
        [[[grid.TransformIndexToPhysicalPoint((x, y, z)) for x in range(6)] for y in range(5)] for z in range(4)]
    )
    field = points @ (matrix - np.eye(3)).T
    np.testing.assert_allclose(jacobian_determinant(field, grid), np.linalg.det(matrix))


@pytest.mark.parametrize("direction", [IDENTITY, OBLIQUE, LEFT_HANDED])
def test_determinant_agrees_with_simpleitk_inside(direction):
    field = smooth_field()
    grid = image_of(np.zeros(field.shape[:3]), direction=direction)
    # ITK's filter takes the vectors as if they ran along the image's axes, so it is given them that way.
    along_axes = field @ np.reshape(direction, (3, 3))
    vectors = sitk.GetImageFromArray(along_axes, isVector=True)
    vectors.SetSpacing(SPACING)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(vectors))
    inside = (slice(1, -1),) * 3  # the two treat the boundary differently
    np.testing.assert_allclose(jacobian_determinant(field, grid)[inside], expected[inside], rtol=1e-5)


def test_determinant_of_no_displacement_is_one():
    np.testing.assert_allclose(jacobian_determinant(np.zeros((3, 3, 3, 3)), image_of(np.zeros((3, 3, 3)))), 1.0)


def test_determinant_of_a_single_slice():
    field = smooth_field()[:1]
    grid = image_of(np.zeros(field.shape[:3]))
    thick = np.repeat(field, 3, axis=0)
    expected = jacobian_determinant(thick, image_of(np.zeros(thick.shape[:3])))[1:2]
    np.testing.assert_allclose(jacobian_determinant(field, grid), expected)


def test_jacobian_summary_by_hand():
    determinant = np.array([[-1.0, 0.0], [1.0, np.e**2]])
    assert jacobian_summary(determinant) == pytest.approx({"min": -1.0, "max": np.e**2, "folding": 0.5, "sd_log": 1.0})
    assert jacobian_summary(determinant, mask=determinant > 0)["folding"] == 0.0


def test_jacobian_summary_stays_finite_where_volume_vanishes():
    result = jacobian_summary(np.array([1e-300, 1.0]))
    assert result["sd_log"] == pytest.approx(-np.log(1e-9) / 2)
    assert jacobian_summary(np.array([-1.0]))["sd_log"] == 0.0


def test_jacobian_summary_of_an_empty_mask_is_refused():
    with pytest.raises(UserError) as caught:
        jacobian_summary(np.ones((2, 2)), mask=np.zeros((2, 2)))
    assert caught.value.code == "mask"


@pytest.mark.parametrize("shift", [0.0, 18.0], ids=["apart", "shifted back"])
def test_a_cropped_label_map_counts_as_the_whole_one(shift):
    """What Slicer writes of a segmentation ends at its segments, and the warped structure may lie beyond."""
    grid = Grid((30, 24, 20), np.array([-20.0, 10, 5]), np.array([[0.0, -2, 0], [2, 0, 0], [0, 0, 3]]))
    fixed, moving = (np.zeros(grid.size[::-1], np.uint8) for _ in range(2))
    fixed[8:12, 5:9, 6:10] = 1
    moving[7:12, 14:18, 7:11] = 1
    transform = Affine(offset=np.array([-shift, 0, 0]))
    whole = overlap(transform, grid.image(fixed), grid.image(moving), grid)
    parts = []
    for labels in map(grid.image, (fixed, moving)):
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(labels)
        box = shape.GetBoundingBox(1)
        parts.append(sitk.RegionOfInterest(labels, box[3:], box[:3]))
    assert overlap(transform, *parts, grid) == whole
    assert whole["after"]["1"]["dice"] > 0.6 if shift else whole["after"]["1"]["hd95"] > 15
    assert overlap(transform, *parts, None) != whole
