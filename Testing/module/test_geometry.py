"""Volumes, segmentations and transforms on their way to files and back: points end where they should."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import SimpleITK
import vtk

LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def lib(slicer):
    """The package's modules, importable once the host runs."""
    from INRRegistrationLib import export, hierarchy, nrrd, request, results, transforms

    class Modules:
        pass

    Modules.export, Modules.hierarchy, Modules.nrrd = export, hierarchy, nrrd
    Modules.request, Modules.results, Modules.transforms = request, results, transforms
    return Modules


@pytest.fixture
def oblique(slicer):
    """A left-handed, oblique, anisotropic volume of random voxels."""
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 7, 9)).astype(np.int16)
    node = slicer.util.addVolumeFromArray(array)
    node.SetName("Oblique")
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    if np.linalg.det(axes) > 0:
        axes[:, 0] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = axes * [1.5, 0.7, 4.0]
    matrix[:3, 3] = [10, -20, 30]
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


def linear(slicer, name, matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def rigid(angle, shift):
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = shift
    return matrix


def bump(slicer, lib, name="Bump", size=6.0, fixed=None, moving=None):
    """A grid transform node, from parent, that moves the middle by `size` mm in R."""
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, 12)] * 3, indexing="ij")
    vectors = np.zeros((12, 12, 12, 3))
    vectors[..., 0] = size * np.clip((1 - i**2) * (1 - j**2) * (1 - k**2), 0, 1)
    matrix = np.diag([12.0, 12.0, 12.0, 1.0])
    matrix[:3, 3] = -66
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    node.SetAndObserveTransformFromParent(lib.results.grid_transform(vectors, matrix))
    return node


def world_of_voxel(slicer, node, index):
    """Where Slicer shows a voxel, in LPS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    point = np.array(matrix.MultiplyPoint([*index, 1])[:3])
    node.TransformPointToWorld(point, point)
    return LPS @ point


def matrix_of(lib, path):
    return lib.transforms.matrix(lib.hierarchy.composed(path))


def export(lib, node, path, moving=None):
    frame = None
    path_up = lib.hierarchy.unmoved(node, frame, moving or node)
    lib.export.volume(node, lib.hierarchy.composed(path_up)).write(path)
    return SimpleITK.ReadImage(str(path))


def test_an_oblique_volume_under_linear_transforms(slicer, lib, oblique, tmp_path):
    outer = linear(slicer, "Outer", rigid(0.3, [5, 6, 7]))
    inner = linear(slicer, "Inner", rigid(-0.8, [50, -6, 7]))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    oblique.SetAndObserveTransformNodeID(inner.GetID())
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    image = export(lib, oblique, tmp_path / "ö.nrrd")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), slicer.util.arrayFromVolume(oblique))
    for index in ((0, 0, 0), (8, 0, 0), (0, 6, 0), (0, 0, 4), (3, 2, 1)):
        expected = world_of_voxel(slicer, oblique, index)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-9)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_every_voxel_type_survives(lib, tmp_path, kind):
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    lib.nrrd.write(tmp_path / "a.nrrd", array, np.eye(4))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), array)
    again, matrix = lib.nrrd.read(tmp_path / "a.nrrd")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    np.testing.assert_allclose(matrix, np.eye(4))


@pytest.mark.parametrize("compressed", [False, True])
def test_fields_that_itk_wrote_are_read(lib, tmp_path, compressed):
    vectors = np.random.default_rng(0).normal(size=(3, 4, 5, 3)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(vectors, isVector=True)
    image.SetOrigin((1, 2, 3))
    image.SetSpacing((0.5, 2, 4))
    SimpleITK.WriteImage(image, str(tmp_path / "f.nrrd"), compressed)
    read, matrix = lib.results.read_grid(tmp_path / "f.nrrd")
    np.testing.assert_allclose(read, vectors * [-1, -1, 1])
    np.testing.assert_allclose(matrix @ [1, 1, 1, 1], [-1.5, -4, 7, 1])


@pytest.mark.parametrize("content", [b"", b"NRRD0004\n\n", b"NRRD0004\ntype: float\nsizes: 1 1 1\nencoding: hex\n\n"])
def test_damaged_files_are_an_error_in_words(lib, tmp_path, content):
    from inrreg.protocol import UserError

    (tmp_path / "f.nrrd").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        lib.nrrd.read(tmp_path / "f.nrrd")


@pytest.mark.parametrize("kind", ["shear", "grid"])
def test_what_a_file_cannot_hold_is_resampled(slicer, lib, pair, tmp_path, kind):
    moving = pair[1]
    moving.SetOrigin(-54, -48, -36)
    if kind == "shear":
        parent = linear(slicer, "Shear", np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    else:
        parent = bump(slicer, lib)
    moving.SetAndObserveTransformNodeID(parent.GetID())
    image = export(lib, moving, tmp_path / "m.nrrd")
    voxels = slicer.util.arrayFromVolume(moving)
    errors = []
    for index in np.random.default_rng(0).integers([8, 8, 6], [28, 24, 18], (60, 3)):
        point = world_of_voxel(slicer, moving, index)
        errors.append(image.EvaluateAtPhysicalPoint(point.tolist()) - float(voxels[tuple(index[::-1])]))
    assert np.abs(errors).mean() < 0.03 * np.ptp(voxels)


def show(lib, grid, fixed, moving, moving_side=(), fixed_side=()):
    """A result, put into the scene."""
    undo = ExitStack()
    transform = lib.results.show_transform(grid, None, fixed, moving, {}, undo)
    lib.hierarchy.place(transform, fixed, moving, moving_side, fixed_side, undo)
    undo.pop_all()
    return transform


def test_our_own_result_is_left_out_but_others_stay(slicer, lib, pair):
    fixed, moving = pair
    p = linear(slicer, "P", rigid(0.2, [1, 2, 3]))
    moving.SetAndObserveTransformNodeID(p.GetID())
    grid = bump(slicer, lib).GetTransformFromParent()
    first = show(lib, grid, fixed, moving)
    assert lib.hierarchy.chain(moving) == [p, first]
    assert lib.hierarchy.kept(moving) == [p]
    np.testing.assert_allclose(matrix_of(lib, lib.hierarchy.unmoved(moving, None, moving)), rigid(0.2, [1, 2, 3]))
    second = show(lib, grid, fixed, moving)
    assert lib.hierarchy.chain(moving) == [p, second]
    assert first.GetParentTransformNode() is None
    # Another volume that the user put under it is moved by it, like by any transform.
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Other")
    other.SetAndObserveTransformNodeID(second.GetID())
    assert lib.hierarchy.kept(other) == [second]


def test_a_transform_above_both_stays_above_both(slicer, lib, pair):
    fixed, moving = pair
    shared = linear(slicer, "Table", rigid(0.5, [10, 20, 30]))
    p = linear(slicer, "P", rigid(0.1, [1, 0, 0]))
    p.SetAndObserveTransformNodeID(shared.GetID())
    fixed.SetAndObserveTransformNodeID(shared.GetID())
    moving.SetAndObserveTransformNodeID(p.GetID())
    assert lib.hierarchy.frame(fixed, moving) is shared
    assert lib.hierarchy.shown(fixed, shared) == []
    np.testing.assert_allclose(matrix_of(lib, lib.hierarchy.unmoved(moving, shared, moving)), rigid(0.1, [1, 0, 0]))
    unrelated = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Mask in the world")
    expected = np.linalg.inv(rigid(0.5, [10, 20, 30]))
    np.testing.assert_allclose(matrix_of(lib, lib.hierarchy.shown(unrelated, shared)), expected)
    np.testing.assert_allclose(matrix_of(lib, lib.hierarchy.unmoved(unrelated, shared, moving)), expected)
    transform = show(lib, bump(slicer, lib).GetTransformFromParent(), fixed, moving)
    assert lib.hierarchy.chain(moving) == [p, transform, shared]


def test_segments_become_a_mask_where_they_are(slicer, lib, oblique, tmp_path):
    segmentation = make_segmentation(slicer, oblique, {"Liver": (1, 2, 3), "Spleen": (4, 5, 6)})
    oblique.SetAndObserveTransformNodeID(linear(slicer, "P", rigid(0.3, [5, 6, 7])).GetID())
    segmentation.SetAndObserveTransformNodeID(oblique.GetTransformNodeID())
    above = lib.hierarchy.composed(lib.hierarchy.shown(segmentation, None))
    spleen = segmentation.GetSegmentation().GetSegmentIdBySegmentName("Spleen")
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    lib.export.labels(segmentation, above, chosen=[spleen]).write(tmp_path / "one.nrrd")
    lib.export.labels(segmentation, above).write(tmp_path / "all.nrrd")
    lib.export.labels(segmentation, above, values={"Liver": 5, "Spleen": 7}).write(tmp_path / "values.nrrd")
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    for name, liver, spleen in (("one", 0, 1), ("all", 1, 1), ("values", 5, 7)):
        image = SimpleITK.ReadImage(str(tmp_path / f"{name}.nrrd"))
        assert value_at(image, world_of_voxel(slicer, oblique, (1, 2, 3))) == liver
        assert value_at(image, world_of_voxel(slicer, oblique, (4, 5, 2))) == spleen
        assert value_at(image, world_of_voxel(slicer, oblique, (8, 0, 0))) == 0


def value_at(image, point):
    index = image.TransformPhysicalPointToIndex(point.tolist())
    inside = all(0 <= at < size for at, size in zip(index, image.GetSize(), strict=True))
    return image[index] if inside else 0


def make_segmentation(slicer, reference, blocks):
    """A segmentation in the geometry of a volume; each segment a block of 2 voxels' size about an index."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    shape = reference.GetImageData().GetDimensions()[::-1]
    for name, (i, j, k) in blocks.items():
        array = np.zeros(shape, np.uint8)
        k = min(k, shape[0] - 1)
        array[max(0, k - 2) : k + 2, max(0, j - 1) : j + 2, max(0, i - 1) : i + 2] = 1
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*shape[::-1])
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())[:] = array.ravel()
        image.SetImageToWorldMatrix(matrix)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, name)
    return node


def test_structures_are_matched_by_name(slicer, lib, oblique):
    from inrreg.protocol import UserError

    one = make_segmentation(slicer, oblique, {"Liver": (1, 2, 3), "Spleen": (4, 5, 6)})
    other = make_segmentation(slicer, oblique, {"Kidney": (1, 2, 3), "Spleen": (4, 5, 6)})
    assert lib.export.common_segments(one, other) == {"Spleen": 1}
    third = make_segmentation(slicer, oblique, {"Heart": (1, 2, 3)})
    with pytest.raises(UserError, match="no segment name in common"):
        lib.export.common_segments(one, third)
    label_map = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    assert lib.export.common_segments(label_map, label_map) is None
    with pytest.raises(UserError, match="two segmentations or two label maps"):
        lib.export.common_segments(one, label_map)


def test_what_cannot_be_exported_says_why(slicer, lib, oblique):
    from inrreg.protocol import UserError

    identity = vtk.vtkGeneralTransform()
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(UserError, match="'Empty' has no binary labelmap"):
        lib.export.labels(empty, identity)
    one = make_segmentation(slicer, oblique, {"Liver": (1, 2, 3)})
    with pytest.raises(UserError, match="are empty"):
        lib.export.labels(one, identity, chosen=["nobody"])
    colour = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Colour")
    image = vtk.vtkImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    with pytest.raises(UserError, match="several components"):
        lib.export.volume(colour, identity)


def start_of(lib, node, frame, fixed, folder):
    """The engine's map, from fixed to moving points in LPS, of an initial transform, by way of its file."""
    from inrreg.transforms import read_transform

    image = lib.export.volume(fixed, lib.hierarchy.composed(lib.hierarchy.shown(fixed, frame)))
    toward = lib.hierarchy.composed(lib.hierarchy.inverse(lib.hierarchy.action(node, frame)))
    initial = lib.export.initial_transform(toward, image)
    initial.write(folder)
    return initial, read_transform(folder / initial.file)


def thin_plates(slicer, lib):
    """A thin-plate spline, which ITK's files do not know, of up to 8 mm."""
    spline = vtk.vtkThinPlateSplineTransform()
    for put, size in ((spline.SetSourceLandmarks, 0.0), (spline.SetTargetLandmarks, 8.0)):
        points = vtk.vtkPoints()
        for corner in np.ndindex(3, 3, 3):
            points.InsertNextPoint(*(60.0 * (np.array(corner) - 1) + size * (corner == (1, 1, 1))))
        put(points)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Thin plates")
    node.SetAndObserveTransformToParent(spline)
    return node


@pytest.mark.parametrize("kind", ["linear", "grid", "grid to parent", "thin plates", "chain", "composite"])
def test_an_initial_transform_maps_fixed_to_moving_points(slicer, lib, pair, tmp_path, kind):
    if kind == "linear":
        node = linear(slicer, "I", rigid(0.2, [3, 4, 5]))
    elif kind == "thin plates":
        node = thin_plates(slicer, lib)
    else:
        node = bump(slicer, lib)
    if kind == "grid to parent":
        node.SetAndObserveTransformToParent(lib.transforms.compose([node.GetTransformFromParent()]))
    if kind == "chain":
        node.SetAndObserveTransformNodeID(linear(slicer, "Above", rigid(0.2, [3, 4, 5])).GetID())
    if kind == "composite":
        both = vtk.vtkGeneralTransform()
        both.Concatenate(node.GetTransformFromParent())
        both.Concatenate(thin_plates(slicer, lib).GetTransformToParent())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Both")
        node.SetAndObserveTransformToParent(both)
    initial, known = start_of(lib, node, None, pair[0], tmp_path)
    toward = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node, toward)
    for point in np.random.default_rng(0).uniform([-50, -45, 22], [45, 35, 60], (20, 3)):
        expected = LPS @ toward.TransformPoint(LPS @ point)
        np.testing.assert_allclose(known.map(point[None])[0], expected, atol=1e-9 if kind == "linear" else 0.05)
    assert initial.spacing == 2.0


@pytest.mark.parametrize("kind", ["identity", "shift", "under the frame"])
def test_an_initial_transform_is_about_what_the_volumes_do_not_share(slicer, lib, pair, tmp_path, kind):
    """Both volumes lie under a rotation. The identity does nothing, a shift in the world is one in the world."""
    turned = rigid(0.5, [10, 20, 30])
    shared = linear(slicer, "Table", turned)
    for volume in pair:
        volume.SetAndObserveTransformNodeID(shared.GetID())
    shift = np.eye(4)
    shift[:3, 3] = 0 if kind == "identity" else [7, 0, 0]
    node = linear(slicer, "I", shift)
    if kind == "under the frame":
        node.SetAndObserveTransformNodeID(shared.GetID())
    _, known = start_of(lib, node, lib.hierarchy.frame(*pair), pair[0], tmp_path)
    moved = LPS @ known.map(np.zeros((1, 3)))[0]
    in_frame = shift if kind == "under the frame" else np.linalg.inv(turned) @ shift @ turned
    np.testing.assert_allclose(moved, np.linalg.inv(in_frame)[:3, 3], atol=1e-9)


def test_what_is_written_does_not_follow_the_scene(slicer, lib, pair, tmp_path):
    """Files are written off the GUI thread, while the user goes on: transforms are those of the moment of gathering."""
    p, grid = linear(slicer, "P", rigid(0.0, [1, 2, 3])), bump(slicer, lib)
    for kind, node in (("linear", p), ("grid", grid), ("spline", thin_plates(slicer, lib))):
        pair[1].SetAndObserveTransformNodeID(node.GetID())
        above = lib.hierarchy.composed(lib.hierarchy.unmoved(pair[1], None, pair[1]))
        before = above.TransformPoint(5, 5, 5)
        if kind == "linear":
            node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(rigid(1.0, [0, 0, 0])))
        elif kind == "grid":
            node.GetTransformFromParent().SetDisplacementScale(3)
        else:
            node.GetTransformToParent().GetTargetLandmarks().SetPoint(13, 30, 30, 30)
            node.GetTransformToParent().Modified()
        assert above.TransformPoint(5, 5, 5) == before
        assert lib.hierarchy.composed([(node, False)]).TransformPoint(5, 5, 5) != pytest.approx(before, abs=0.1)


def test_a_resampled_image_keeps_its_spacing_along_each_axis(slicer, lib, pair, tmp_path):
    thick = pair[1]
    thick.SetSpacing(1, 2, 6)
    shear = np.eye(4)
    shear[0, 1] = 0.05
    thick.SetAndObserveTransformNodeID(linear(slicer, "Shear", shear).GetID())
    image = export(lib, thick, tmp_path / "m.nrrd")
    np.testing.assert_allclose(image.GetSpacing(), [1, 2, 6], rtol=0.05)


def label_block(slicer, name, low, high):
    """A label map in the world, 2 mm voxels, of the block between two corners."""
    axes = [np.arange(-90, 90, 2.0)] * 3
    k, j, i = np.meshgrid(*axes, indexing="ij")
    points = np.stack([i, j, k], -1)
    inside = ((points >= low) & (points <= high)).all(-1)
    node = slicer.util.addVolumeFromArray(inside.astype(np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    node.SetName(name)
    node.SetSpacing(2, 2, 2)
    node.SetOrigin(-90, -90, -90)
    return node


def centre_of(image):
    array = SimpleITK.GetArrayFromImage(image)
    index = np.argwhere(array)[:, ::-1].mean(0)
    return LPS @ image.TransformContinuousIndexToPhysicalPoint(index.tolist())


def test_what_is_drawn_over_the_result_is_taken_back_through_it(slicer, lib, pair, tmp_path):
    """The result moves the moving volume's middle by 20 mm; the mask is drawn where it is shown."""
    fixed, moving = pair
    transform = show(lib, bump(slicer, lib, size=20.0).GetTransformFromParent(), fixed, moving)
    mask = label_block(slicer, "Drawn on the result", [-8, -8, -8], [8, 8, 8])
    image = export(lib, mask, tmp_path / "mask.nrrd", moving=moving)
    values = set(np.unique(SimpleITK.GetArrayFromImage(image)))
    assert values == {0, 1}
    shown = np.array(transform.GetTransformFromParent().TransformPoint(0, 0, 0))
    assert shown[0] > 18
    np.testing.assert_allclose(centre_of(image), shown, atol=1.5)
    # Below the result it moves with the volume, and stands where the volume does without it.
    mask.SetAndObserveTransformNodeID(transform.GetID())
    np.testing.assert_allclose(centre_of(export(lib, mask, tmp_path / "m.nrrd", moving=moving)), [0, 0, 0], atol=1.5)


def test_the_fixed_side_stands_where_it_is_shown(slicer, lib, pair):
    """A fixed mask below an earlier result is moved by it: only the moving side was to be without."""
    fixed, moving = pair
    transform = show(lib, bump(slicer, lib).GetTransformFromParent(), fixed, moving)
    mask = label_block(slicer, "Fixed mask", [-8, -8, -8], [8, 8, 8])
    mask.SetAndObserveTransformNodeID(transform.GetID())
    assert lib.hierarchy.shown(mask, None) == [(transform, False)]


def test_what_is_drawn_on_the_moving_volume_goes_with_it(slicer, lib, pair):
    """And only that: a mask of both sides, and what was drawn over an earlier result, stay where they are."""
    fixed, moving = pair
    p = linear(slicer, "P", rigid(0.1, [1, 0, 0]))
    moving.SetAndObserveTransformNodeID(p.GetID())
    own, both, late, with_p = (label_block(slicer, name, [-8] * 3, [8] * 3) for name in ("A", "B", "C", "D"))
    with_p.SetAndObserveTransformNodeID(p.GetID())
    grid = bump(slicer, lib).GetTransformFromParent()
    first = show(lib, grid, fixed, moving, [own, both, with_p], [both])
    assert own.GetParentTransformNode() is first
    assert with_p.GetParentTransformNode() is p
    assert both.GetParentTransformNode() is None
    second = show(lib, grid, fixed, moving, [own, late])
    assert own.GetParentTransformNode() is second
    assert late.GetParentTransformNode() is None
    assert lib.hierarchy.unmoved(own, None, moving) == []


def test_masks_reach_the_worker(user, slicer, pair, monkeypatch):
    from INRRegistrationLib import run

    fixed, moving = pair
    user.choose(fixed, moving)
    segmentation = make_segmentation(slicer, fixed, {"Liver": (10, 12, 13), "Spleen": (24, 15, 16)})
    user.ui.moreSection.collapsed = False
    user.ui.fixedMaskSelector.setCurrentNode(segmentation)
    user.ui.fixedLabelsSelector.setCurrentNode(segmentation)
    assert "needed for both volumes" in user.ui.statusLabel.text
    user.ui.movingLabelsSelector.setCurrentNode(segmentation)
    button = user.ui.fixedSegmentsButton
    assert button.visible
    assert button.text == "All segments"
    first = button.menu().actions()[0]
    first.setChecked(False)
    assert button.menu().actions()[0] is first
    segmentation.GetSegmentation().GetNthSegment(1).SetName("Milz")
    button.menu().aboutToShow.emit()
    assert [action.text for action in button.menu().actions()] == ["Liver", "Milz"]
    assert button.text == "1 of 2 segments"
    user.screenshot("masks")
    kept = {}
    tidy = run.remove_files

    def look(folder):
        for path in folder.glob("*.nrrd"):
            kept[path.stem] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        tidy(folder)

    monkeypatch.setattr(run, "remove_files", look)
    user.register()
    needed = {"fixed", "moving", "fixed_mask", "fixed_labels", "moving_labels", "resampled"}
    assert set(kept) - {"preview"} == needed
    assert kept["fixed_mask"].sum() == 4 * 3 * 3
    assert set(np.unique(kept["fixed_labels"])) == {0, 1, 2}
    assert "masks: True" in user.ui.logText.plainText
