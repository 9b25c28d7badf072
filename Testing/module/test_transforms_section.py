"""The section Transforms and the menus for masks, with the real worker: files, nodes and maps in the right place."""

from __future__ import annotations

import html
import json
import shutil
import sys
import types
from contextlib import ExitStack

import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from conftest import snapshot
from standin import application, canvas, views
from test_geometry import make_segmentation

from inrreg.protocol import Job, UserError

FLIP = np.array([-1.0, -1.0, 1.0])
"""Between RAS and LPS."""


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Result folders over the fixed volume of `pair`, as the engine writes them: in the coordinates of the frame."""
    torch = pytest.importorskip("torch")
    from inrreg.deformation import Deformation
    from inrreg.fields import Dual, Siren
    from inrreg.geometry import Frame, Grid
    from inrreg.transforms import Affine

    torch.set_num_threads(1)
    grid = Grid((36, 32, 24), np.array([50.0, 40, 20]), np.diag([-3.0, -3, 3]))
    frame, random = Frame.covering(grid), torch.Generator().manual_seed(0)
    siren = Siren(24, 2, 4.0, generator=random)
    points = torch.as_tensor(frame.normalize(grid.resampled(10.0).points().reshape(-1, 3)), dtype=torch.float32)
    with torch.no_grad():
        largest = siren.value(points).norm(dim=1).max() * frame.scale
        for part in (siren.layers[-1].weight, siren.layers[-1].bias):
            part.mul_(9.0 / largest)
    dual = Dual(16, 2, 3.0, 6.0, 0.05, generator=random)
    dual.activate_fine(0.5)
    shift = Affine(np.diag([1.05, 1.0, 0.97]), np.array([3.0, -2.0, 4.0]))
    made = {}
    for name, field, before in (("plain", siren, ()), ("dual", dual, (shift,))):
        made[name] = tmp_path_factory.mktemp("results") / name
        made[name].mkdir()
        Deformation(field.freeze(), frame, grid, before).save(made[name])
        Job("fixed.nrrd", "moving.nrrd", prealign="affine" if before else "none").save(made[name])
    return made


@pytest.fixture
def shown(real_user, slicer, pair, results):
    """A result in the scene, both volumes under a turned and shifted parent, and it chosen as the output."""
    return place(real_user, slicer, pair, results["plain"])


def place(user, slicer, pair, folder):
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Patient")
    turned = vtk.vtkTransform()
    turned.RotateWXYZ(25, 1, 2, 3)
    turned.Translate(30, -20, 10)
    parent.SetMatrixTransformToParent(turned.GetMatrix())
    for volume in pair:
        volume.SetAndObserveTransformNodeID(parent.GetID())
    user.choose(*pair, "fast")
    user.window.show_volumes(pair[0])
    transform = load_result(user, pair, folder)
    section(user).ui.transformsSection.collapsed = False
    return transform


def load_result(user, pair, folder):
    """A result into the scene, as after a registration, and chosen as the output."""
    from INRRegistrationLib import hierarchy
    from INRRegistrationLib.results import grid_transform, read_grid, show_transform

    grid = grid_transform(*read_grid(folder / "displacement.nrrd"))
    with ExitStack() as undo:
        transform = show_transform(grid, None, *pair, {"Result": str(folder)}, undo)
        hierarchy.place(transform, *pair, [], [], undo)
        undo.pop_all()
    user.panel.parameters.output_transform = transform
    return transform


def section(user):
    return next(each for each in user.panel.sections if type(each).__name__ == "TransformsSection")


def fixed_points(count=100):
    """Random points (N, 3) in the fixed volume's own coordinates, RAS."""
    return np.random.default_rng(0).uniform([-48, -38, 22], [53, 51, 87], (count, 3))


def through(transform, points):
    return np.array([transform.TransformPoint(point) for point in points])


def world(slicer, node):
    """From a node's coordinates to the world's."""
    general = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(general)
    return general


def ways(slicer, transform):
    """100 fixed points in world coordinates, and where the scene's transform takes them."""
    parent = world(slicer, transform.GetParentTransformNode())
    points = fixed_points()
    moved = through(transform.GetTransformFromParent(), points)
    return through(parent, points), through(parent, moved)


def deviation(first, second):
    return np.linalg.norm(first - second, axis=1).max()


def in_itk(path):
    if path.suffix in (".h5", ".tfm"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return lambda points: through(transform, points * FLIP) * FLIP


def choose(combo, data):
    combo.setCurrentIndex(combo.findData(data))


def export(user, monkeypatch, path, ending, inverse=False, part="whole", spacing=0.0):
    from INRRegistrationLib import transforms_section

    ui = section(user).ui
    choose(ui.formatSelector, ending)
    choose(ui.directionSelector, inverse)
    choose(ui.partSelector, part)
    ui.spacingSpinBox.setValue(spacing)
    asked = []
    monkeypatch.setattr(
        transforms_section, "ask_for_file", lambda *arguments, save: asked.append(arguments) or str(path)
    )
    assert ui.exportButton.enabled, ui.exportLabel.text
    ui.exportButton.click()
    assert asked
    user.wait_for_end(60)
    return ui.exportLabel.text


def load(user, monkeypatch, path):
    from INRRegistrationLib import transforms_section

    monkeypatch.setattr(transforms_section, "ask_for_file", lambda *arguments: str(path))
    section(user).ui.loadButton.click()
    user.wait_for_end(60)
    assert not user.error, user.error


def test_files_are_in_world_coordinates_and_come_back(real_user, slicer, shown, monkeypatch, tmp_path):
    user, folder = real_user, tmp_path / "exportéd"
    folder.mkdir()
    points, moved = ways(slicer, shown)
    assert deviation(points, moved) > 5
    for ending in (".h5", ".tfm", ".nrrd", ".nii.gz"):
        said = export(user, monkeypatch, folder / f"t{ending}", ending)
        assert not user.error, user.error
        error = float(said.split("error ")[1].split(" mm")[0])
        assert 0 < error <= 0.5
        assert deviation(in_itk(folder / f"t{ending}")(points), moved) <= error + 0.11  # the scene's grid has its own
    user.screenshot("transforms-export")
    said = export(user, monkeypatch, folder / "back.nrrd", ".nrrd", inverse=True)
    assert "come back to within" in said
    assert deviation(in_itk(folder / "back.nrrd")(moved), points) < 0.6
    said = export(user, monkeypatch, folder / "coarse", ".h5", spacing=12.0)  # the ending is put to it
    assert max(map(float, said.split("vectors ")[1].split(" mm")[0].split(" × "))) <= 12
    assert (folder / "coarse.h5").is_file()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    for name in ("t.h5", "t.nrrd", "t.nii.gz"):
        load(user, monkeypatch, folder / name)
        found = user.panel.parameters.output_transform
        assert found.GetName().startswith("t")
        assert found.GetParentTransformNode() is None
        assert deviation(through(found.GetTransformFromParent(), points), moved) < 0.6
        assert "loaded from a file" in section(user).ui.exportLabel.text
    assert not section(user).ui.exportButton.enabled


def test_parts_and_the_model(real_user, slicer, pair, results, monkeypatch, tmp_path):
    user = real_user
    transform = place(user, slicer, pair, results["dual"])
    ui, points = section(user).ui, ways(slicer, transform)[0]
    parts = [ui.partSelector.itemData(row) for row in range(ui.partSelector.count)]
    assert parts == ["whole", "prealignment", "deformable", "coarse", "fine"]
    moved = {}
    for part in parts:
        export(user, monkeypatch, tmp_path / f"{part}.h5", ".h5", part=part)
        assert not user.error, user.error
        moved[part] = in_itk(tmp_path / f"{part}.h5")(points) - points
    assert sitk.ReadTransform(str(tmp_path / "prealignment.h5")).IsLinear()
    assert deviation(moved["coarse"] + moved["fine"], moved["deformable"]) < 0.5
    both = in_itk(tmp_path / "prealignment.h5")(in_itk(tmp_path / "deformable.h5")(points))
    assert deviation(both, moved["whole"] + points) < 0.5
    load(user, monkeypatch, tmp_path / "prealignment.h5")
    linear = slicer.util.getNode("prealignment")
    assert linear.IsA("vtkMRMLLinearTransformNode")
    assert deviation(through(linear.GetTransformFromParent(), points), moved["prealignment"] + points) < 1e-6
    assert user.panel.parameters.output_transform is transform
    # the model, alone, is as good as the result
    assert "exact" in export(user, monkeypatch, tmp_path / "model", "model")
    load(user, monkeypatch, tmp_path / "model" / "model.json")
    again = user.panel.parameters.output_transform
    assert again is not transform
    own = fixed_points()
    there = through(transform.GetTransformFromParent(), own)
    assert deviation(through(again.GetTransformFromParent(), own), there) < 0.11
    assert again.GetNodeReference("INRRegistration.Fixed") is pair[0]
    export(user, monkeypatch, tmp_path / "again.h5", ".h5")
    assert not user.error, user.error
    assert deviation(in_itk(tmp_path / "again.h5")(own), there) < 0.6
    export(user, monkeypatch, tmp_path / "model", "model")
    assert "exists" in user.error


class Database:
    """Slicer's DICOM database, as far as it is asked."""

    def __init__(self, *folders):
        import pydicom

        self.files = {}
        for folder in folders:
            for path in sorted(folder.iterdir()):
                header = pydicom.dcmread(path)
                self.files[str(path)] = (str(header.SOPInstanceUID), str(header.SeriesInstanceUID))

    def fileForInstance(self, instance):
        return next((path for path, (uid, _) in self.files.items() if uid == instance), "")

    def seriesForFile(self, path):
        return self.files[path][1]

    def filesForSeries(self, series):
        return tuple(path for path, (_, uid) in self.files.items() if uid == series)


def write_series(folder, node):
    """The headers of a series in a volume's own coordinates; the UIDs of its instances."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir()
    uid, found = pydicom.uid.generate_uid, []
    common = {"PatientID": "17", "StudyInstanceUID": uid(), "SeriesInstanceUID": uid(), "FrameOfReferenceUID": uid()}
    size, origin, spacing = node.GetImageData().GetDimensions(), node.GetOrigin(), node.GetSpacing()
    for k in range(size[2]):
        data = pydicom.Dataset()
        for tag, value in common.items():
            setattr(data, tag, value)
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid()
        data.Columns, data.Rows, data.PixelSpacing = size[0], size[1], [spacing[1], spacing[0]]
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        data.ImagePositionPatient = [-origin[0], -origin[1], origin[2] + k * spacing[2]]
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
        found.append(str(data.SOPInstanceUID))
    return found


def test_dicom_is_in_the_images_own_coordinates(real_user, slicer, pair, shown, monkeypatch, tmp_path):
    from inrreg.deformation import load_transform

    pydicom = pytest.importorskip("pydicom")
    user, ui = real_user, section(real_user).ui
    instances = [write_series(tmp_path / name, node) for name, node in zip(("f", "m"), pair, strict=True)]
    choose(ui.formatSelector, ".dcm")
    assert not ui.exportButton.enabled
    assert "'Fixed' is not from Slicer's DICOM database" in ui.exportLabel.text
    assert ui.fixedSeriesEdit.visible
    user.screenshot("transforms-dicom")
    ui.fixedSeriesEdit.setCurrentPath(str(tmp_path / "f"))
    assert "'Moving' is not" in ui.exportLabel.text
    ui.fixedSeriesEdit.setCurrentPath("")
    monkeypatch.setattr(slicer, "dicomDatabase", Database(tmp_path / "f", tmp_path / "m"), raising=False)
    for node, found in zip(pair, instances, strict=True):
        node.SetAttribute("DICOM.instanceUIDs", " ".join(found))
    user.panel.enter()
    assert not ui.fixedSeriesEdit.visible
    # the moving volume has a transform of its own, which is no part of its images' coordinates
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "P")
    matrix = np.eye(4)
    matrix[:3, 3] = [5, -7, 2]
    own.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    own.SetAndObserveTransformNodeID(shown.GetID())
    pair[1].SetAndObserveTransformNodeID(own.GetID())
    points = fixed_points()
    expected = through(shown.GetTransformFromParent(), points) - [5, -7, 2]
    export(user, monkeypatch, tmp_path / "t.dcm", ".dcm")
    assert not user.error, user.error
    assert deviation(load_transform(tmp_path / "t.dcm").map(points * FLIP) * FLIP, expected) < 0.6
    items = pydicom.dcmread(tmp_path / "t.dcm").DeformableRegistrationSequence
    named = [[image.ReferencedSOPInstanceUID for image in item.ReferencedImageSequence] for item in items]
    assert [sorted(part) for part in named] == [sorted(part) for part in instances]
    if shutil.which("dciodvfy"):
        import subprocess

        answer = subprocess.run(["dciodvfy", tmp_path / "t.dcm"], capture_output=True, text=True, check=False)
        assert "Error" not in answer.stdout + answer.stderr
    export(user, monkeypatch, tmp_path / "back.dcm", ".dcm", inverse=True)
    assert deviation(load_transform(tmp_path / "back.dcm").map(expected * FLIP) * FLIP, points) < 0.6


def moving_side(slicer, pair):
    """A node of each kind on the moving volume, which stands under the result: with it, as the user sees it."""
    scene, volume = slicer.mrmlScene, pair[1]
    nodes = {}
    dose = slicer.util.addVolumeFromArray(np.full((12, 16, 18), 2.0, np.float32))
    dose.SetName("Dose")
    dose.SetSpacing(6, 6, 6)
    dose.SetOrigin(volume.GetOrigin())
    nodes["dose"] = dose
    labels = np.zeros((24, 32, 36), np.uint8)
    labels[8:16, 10:22, 12:24] = 3
    nodes["labels"] = slicer.util.addVolumeFromArray(labels, nodeClassName="vtkMRMLLabelMapVolumeNode")
    nodes["labels"].SetName("Labels")
    nodes["labels"].SetSpacing(volume.GetSpacing())
    nodes["labels"].SetOrigin(volume.GetOrigin())
    nodes["segments"] = make_segmentation(slicer, volume, {"Liver": (14, 12, 12), "Spleen": (22, 18, 12)})
    nodes["model"] = scene.AddNewNodeByClass("vtkMRMLModelNode", "Ball")
    ball = vtk.vtkSphereSource()
    ball.SetCenter(0, 5, 55)
    ball.SetRadius(12)
    ball.Update()
    nodes["model"].SetAndObserveMesh(ball.GetOutput())
    nodes["points"] = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    nodes["curve"] = scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "Curve")
    for node in (nodes["points"], nodes["curve"]):
        for point in fixed_points(6) * 0.5 + [0, 0, 30]:
            node.AddControlPoint(vtk.vtkVector3d(*point), f"of {node.GetName()}")
    for node in nodes.values():
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
    return nodes


def control_points(node):
    return np.array([node.GetNthControlPointPosition(n) for n in range(node.GetNumberOfControlPoints())])


def check(user, nodes):
    """Check these nodes, and no others."""
    box = section(user).ui.nodesSelector
    for node in box.checkedNodes():
        box.uncheck(node)
    for node in nodes:
        box.check(node)


def as_image(slicer, node):
    """A volume node without a parent, with the spacing of its matrix, as SimpleITK sees it."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    matrix = np.diag([*FLIP, 1]) @ slicer.util.arrayFromVTKMatrix(matrix)
    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node))
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetOrigin(matrix[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    return image


def test_new_nodes_of_every_kind(real_user, slicer, pair, shown, results, monkeypatch):
    """Each in its direction: images pulled through the map, points pushed by its inverse."""
    user, ui = real_user, section(real_user).ui
    nodes = moving_side(slicer, pair)
    assert not ui.toFixedButton.enabled
    check(user, nodes.values())
    ui.newNodesCheckBox.setChecked(True)
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")}
    # Drawing the views is Slicer's own work; what is measured is ours.
    slicer.util.forceRenderAllViews()
    monkeypatch.setattr(canvas, "FRAME", 10**8)
    gap, wall = user.check_no_long_stop(lambda: (ui.toFixedButton.click(), user.wait_for_end(60)))
    print(f"\nnew nodes: longest stop {gap:.0f} ms ({wall:.0f} ms by the clock)")
    assert not user.error, user.error
    user.screenshot("transforms-applied")
    made = {
        node.GetName(): node
        for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")
        if node.GetID() not in before
    }
    patient = shown.GetParentTransformNode()
    assert all(node.GetParentTransformNode() is patient for node in made.values())
    field = sitk.ReadImage(str(results["plain"] / "displacement.nrrd"), sitk.sitkVectorFloat64)
    pull, grid = sitk.DisplacementFieldTransform(field), as_image(slicer, pair[0])
    for name, interpolator in (("dose", sitk.sitkLinear), ("labels", sitk.sitkNearestNeighbor)):
        node = made[f"{nodes[name].GetName()} in Fixed"]
        expected = sitk.Resample(as_image(slicer, nodes[name]), grid, pull, interpolator, 0.0)
        expected, found = sitk.GetArrayFromImage(expected), slicer.util.arrayFromVolume(node)
        assert node.GetClassName() == nodes[name].GetClassName()
        assert found.dtype == expected.dtype
        assert (np.abs(found - expected.astype(float)) < 1e-3).mean() > 0.999
    assert (slicer.util.arrayFromVolume(made["Dose in Fixed"]) == 0).any()  # beyond the dose
    # what comes from the moving side comes back by the map itself
    forth = shown.GetTransformFromParent()
    for name in ("points", "curve"):
        node = made[f"{nodes[name].GetName()} in Fixed"]
        assert deviation(through(forth, control_points(node)), control_points(nodes[name])) < 0.15
        assert node.GetNthControlPointLabel(2) == f"of {nodes[name].GetName()}"
    model = made["Ball in Fixed"]
    there = vtk.util.numpy_support.vtk_to_numpy(model.GetMesh().GetPoints().GetData())
    original = vtk.util.numpy_support.vtk_to_numpy(nodes["model"].GetMesh().GetPoints().GetData())
    assert deviation(through(forth, there), original) < 0.15
    assert deviation(there, original) > 2
    segmentation = made["Segmentation in Fixed"].GetSegmentation()
    known = nodes["segments"].GetSegmentation()
    for identifier in known.GetSegmentIDs():
        assert segmentation.GetSegment(identifier).GetName() == known.GetSegment(identifier).GetName()
        centre = through(forth, [np.array(made["Segmentation in Fixed"].GetSegmentCenter(identifier))])
        assert deviation(centre, np.array([nodes["segments"].GetSegmentCenter(identifier)])) < 4
    # and back again: to the moving side, on a chosen grid
    ui.gridSelector.setCurrentNode(nodes["labels"])
    check(user, [made["Points in Fixed"], made["Labels in Fixed"]])
    ui.toMovingButton.click()
    user.wait_for_end(60)
    assert not user.error, user.error
    again = slicer.util.getNode("Points in Fixed in Moving")
    assert deviation(control_points(again), control_points(nodes["points"])) < 0.15
    labels = slicer.util.arrayFromVolume(slicer.util.getNode("Labels in Fixed in Moving"))
    original = slicer.util.arrayFromVolume(nodes["labels"])
    assert labels.shape == original.shape
    assert 2 * ((labels == 3) & (original == 3)).sum() / ((labels == 3).sum() + (original == 3).sum()) > 0.9


def test_nodes_follow_the_transform_and_its_inverse(real_user, slicer, pair, shown):
    user, ui = real_user, section(real_user).ui
    scene, patient = slicer.mrmlScene, shown.GetParentTransformNode()
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    for point in fixed_points(5) * 0.5 + [0, 0, 30]:
        points.AddControlPoint(vtk.vtkVector3d(*point))
    points.SetAndObserveTransformNodeID(patient.GetID())
    check(user, [points])
    ui.toFixedButton.click()
    assert points.GetParentTransformNode() is shown
    ui.toMovingButton.click()  # back, without an inverse
    assert points.GetParentTransformNode() is patient
    ui.toMovingButton.click()
    user.wait_for_end(60)
    assert not user.error, user.error
    inverse = points.GetParentTransformNode()
    assert inverse.GetName() == "Moving to Fixed, inverse"
    assert inverse.GetParentTransformNode() is patient
    assert inverse.GetTransformFromParent().IsA("vtkOrientedGridTransform")
    moved = through(inverse.GetTransformToParent(), control_points(points))
    assert deviation(moved, through(shown.GetTransformFromParent(), control_points(points))) < 0.3
    ui.toFixedButton.click()
    assert points.GetParentTransformNode() is patient
    ui.toMovingButton.click()  # known by now
    assert points.GetParentTransformNode() is inverse
    # what would move others too is refused, and nothing is changed
    other, own = (scene.AddNewNodeByClass(f"vtkMRML{kind}Node", kind) for kind in ("MarkupsLine", "LinearTransform"))
    own.SetAndObserveTransformNodeID(patient.GetID())
    for node in (points, other):
        node.SetAndObserveTransformNodeID(own.GetID())
    free = scene.AddNewNodeByClass("vtkMRMLModelNode", "Free")
    for node, words in ((points, "together with 'MarkupsLine'"), (free, "not under 'Patient'")):
        before = snapshot(slicer)
        check(user, [node])
        ui.toFixedButton.click()
        assert words in html.unescape(user.error)
        assert snapshot(slicer) == before
    check(user, [points, other])
    ui.toFixedButton.click()
    assert own.GetParentTransformNode() is shown


def test_what_goes_wrong_is_told(real_user, slicer, pair, shown, monkeypatch, tmp_path):
    from INRRegistration import INRRegistrationLogic

    user, ui = real_user, section(real_user).ui
    export(user, monkeypatch, tmp_path / "file" / "t.h5", ".h5")
    (tmp_path / "plain").write_text("no folder")
    before = snapshot(slicer)
    export(user, monkeypatch, tmp_path / "plain" / "t.h5", ".h5")
    assert "cannot be written" in user.error
    (tmp_path / "bad.nrrd").write_text("nothing")
    with pytest.raises(AssertionError, match="cannot be read"):
        load(user, monkeypatch, tmp_path / "bad.nrrd")
    export(user, monkeypatch, tmp_path / "t.png", ".h5")  # becomes t.png.h5
    assert (tmp_path / "t.png.h5").is_file()
    logic = INRRegistrationLogic()
    for arguments, words in (
        ({"path": tmp_path / "t.png"}, "no ending"),
        ({"path": tmp_path / "t.h5", "part": "fine"}, "no part"),
        ({"path": tmp_path / "t.h5", "spacing": -1.0}, "negative"),
        ({"path": tmp_path / "t.dcm"}, "DICOM database"),
    ):
        with pytest.raises(UserError, match=words):
            logic.export(shown, **arguments)
    with pytest.raises(UserError, match="no result"):
        logic.export(shown.GetParentTransformNode(), tmp_path / "t.h5")
    assert snapshot(slicer) == before
    figures = logic.export(shown, tmp_path / "api.h5", inverse=True)
    assert figures["return_error"]["p99"] < 0.5
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Bent")
    bent.SetAndObserveTransformFromParent(shown.GetTransformFromParent())
    shown.GetParentTransformNode().SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(UserError, match="not linear"):
        logic.export(shown, tmp_path / "t.h5")
    shown.GetParentTransformNode().SetAndObserveTransformNodeID(None)
    # deleted and closed meanwhile
    ui.volumeChangeButton.click()
    slicer.mrmlScene.RemoveNode(shown)
    user.wait_for_end(60)
    assert "was deleted" in user.error
    assert not ui.volumeChangeButton.enabled
    assert "Register first" in ui.exportLabel.text


def test_a_closed_scene_ends_it(real_user, slicer, shown):
    section(real_user).ui.volumeChangeButton.click()
    slicer.mrmlScene.Clear()
    assert real_user.panel.run is None
    assert not section(real_user).ui.volumeChangeButton.enabled


@pytest.fixture(scope="session")
def chest(tmp_path_factory):
    """The generated thorax in files, with a result beside it that was fitted to its true motion."""
    torch = pytest.importorskip("torch")
    from inrreg.deformation import Deformation
    from inrreg.fields import Siren
    from inrreg.geometry import Frame, Grid
    from inrreg.phantom import thorax

    torch.set_num_threads(1)
    folder, phantom = tmp_path_factory.mktemp("chest"), thorax((44, 36, 44), (6.5, 6.5, 6.5), seed=0, amplitude=25.0)
    for name in ("fixed", "moving", "fixed_mask"):
        sitk.WriteImage(getattr(phantom, name), str(folder / f"{name}.nrrd"))
    grid = Grid.of(phantom.fixed)
    frame, siren = Frame.covering(grid), Siren(40, 2, 5.0, generator=torch.Generator().manual_seed(0))
    points = grid.to_world(np.random.default_rng(0).random((2000, 3)) * (np.array(grid.size) - 1))
    x, u = (
        torch.as_tensor(array, dtype=torch.float32)
        for array in (frame.normalize(points), phantom.displacement(points) / frame.scale)
    )
    optimizer = torch.optim.Adam(siren.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (siren.value(x) - u).square().sum().backward()
        optimizer.step()
    (folder / "result").mkdir()
    Deformation(siren.freeze(), frame, grid).save(folder / "result")
    return folder, phantom


@pytest.fixture
def breathing(slicer, chest):
    """Both volumes of the chest in the scene."""
    nodes = [application.load_volume(chest[0] / f"{name}.nrrd") for name in ("fixed", "moving")]
    for node in nodes:
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(1500, -250)
    return nodes


def lungs_of(chest):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(chest[0] / "fixed_mask.nrrd"))) > 0


def test_masks_of_a_chest(real_user, slicer, chest, breathing):
    from INRRegistration import INRRegistrationLogic

    user, ui = real_user, real_user.ui
    assert not ui.fixedMakeMaskButton.enabled
    user.choose(*breathing, "fast")
    ui.moreSection.collapsed = False
    body, lungs, lobes = ui.fixedMakeMaskButton.menu().actions()
    ui.fixedMakeMaskButton.menu().aboutToShow.emit()
    assert not lobes.enabled
    assert "Extensions Manager" in lobes.toolTip
    body.trigger()
    user.wait_for_end(60)
    mask = user.panel.parameters.fixed_mask
    assert mask.GetSegmentation().GetNthSegment(0).GetName() == "Body"
    gap, wall = user.check_no_long_stop(lambda: (lungs.trigger(), user.wait_for_end(60)))
    print(f"\nmask: longest stop {gap:.0f} ms ({wall:.0f} ms by the clock)")
    assert not user.error, user.error
    assert user.panel.parameters.fixed_mask is mask  # replaced, not another
    segmentation = mask.GetSegmentation()
    assert [segmentation.GetNthSegment(0).GetName(), segmentation.GetNumberOfSegments()] == ["Lungs", 1]
    found = slicer.util.arrayFromSegmentBinaryLabelmap(mask, segmentation.GetNthSegmentID(0), breathing[0]) > 0
    true = lungs_of(chest)
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95
    assert mask.GetDisplayNode().GetVisibility()
    user.screenshot("mask-preview")
    ui.fixedMaskSelector.setCurrentNode(None)
    assert not mask.GetDisplayNode().GetVisibility()
    ui.fixedMaskSelector.setCurrentNode(mask)
    assert mask.GetDisplayNode().GetVisibility()
    logic = INRRegistrationLogic()
    made = logic.make_mask(breathing[1], "body")
    assert made is not mask
    assert made.GetSegmentation().GetNthSegment(0).GetName() == "Body"
    with pytest.raises(UserError, match="no mask 'heart'"):
        logic.make_mask(breathing[1], "heart")


def test_ventilation_and_inverse_of_a_chest(real_user, slicer, chest, breathing, monkeypatch):
    from inrreg.deformation import Deformation
    from inrreg.transforms import numerical_jacobian
    from INRRegistration import INRRegistrationLogic

    user, truth, true = real_user, chest[1], lungs_of(chest)
    user.choose(*breathing, "fast")
    load_result(user, breathing, chest[0] / "result")
    labels = slicer.util.addVolumeFromArray(true.astype(np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    matrix = vtk.vtkMatrix4x4()
    breathing[0].GetIJKToRASMatrix(matrix)
    labels.SetIJKToRASMatrix(matrix)
    # The gate on inverses, on a phantom: composed error over the mask, 99th percentile below half a voxel.
    logic, transform = INRRegistrationLogic(), user.panel.parameters.output_transform
    figures = logic.export(transform, chest[0] / "back.nrrd", inverse=True, mask=labels)
    assert figures["in_mask"]["p99"] < min(0.5, 6.5 / 2)
    print(f"\ninverse in the mask: {json.dumps(figures['in_mask'])}")
    transforms = section(user).ui
    user.ui.inputsSection.collapsed = True
    transforms.transformsSection.collapsed = False
    # The map is shown; but drawing the views is Slicer's own work, and what is measured is ours.
    with monkeypatch.context() as undrawn:
        undrawn.setattr(views.qMRMLSliceView, "forceRender", lambda self: None)
        gap, wall = user.check_no_long_stop(lambda: (transforms.volumeChangeButton.click(), user.wait_for_end(60)))
    print(f"volume change: longest stop {gap:.0f} ms ({wall:.0f} ms by the clock)")
    assert not user.error, user.error
    change = slicer.util.getNode("Volume change of *")
    values = slicer.util.arrayFromVolume(change)
    assert values.shape == true.shape
    k, j, i = np.nonzero(true)
    voxels = np.stack([i, j, k], -1)[::9].tolist()
    points = np.array([truth.fixed.TransformIndexToPhysicalPoint(voxel) for voxel in voxels])
    exact = np.linalg.det(numerical_jacobian(Deformation.load(chest[0] / "result"), points)) - 1
    assert np.abs(values[true][::9] - exact).max() < 0.01
    assert exact.mean() > 0.04  # from exhale to inhale the lungs grow
    user.screenshot("ventilation")
    transforms.volumeChangeButton.click()
    user.wait_for_end(60)
    assert slicer.util.getNode("Volume change of *") is change


def test_lobes_by_totalsegmentator(user, slicer, pair, monkeypatch):
    """Its logic is called where the extension is installed, and what it raises is told."""
    calls = []

    class TotalSegmentatorLogic:
        def setupPythonRequirements(self):
            calls.append("set up")

        def process(self, volume, segmentation, fast=True, task=None, subset=None):
            calls.append((volume.GetName(), task, len(subset)))
            if len(calls) == 2:
                raise RuntimeError("no network")
            segmentation.GetSegmentation().AddEmptySegment("lobe")

    module = types.ModuleType("TotalSegmentator")
    module.TotalSegmentatorLogic = TotalSegmentatorLogic
    monkeypatch.setitem(sys.modules, "TotalSegmentator", module)
    monkeypatch.setattr(slicer.modules, "totalsegmentator", object(), raising=False)
    user.choose(*pair)
    menu = user.ui.movingMakeMaskButton.menu()
    menu.aboutToShow.emit()
    before = snapshot(slicer)
    menu.actions()[2].trigger()
    assert "TotalSegmentator failed (no network)" in user.error
    assert snapshot(slicer) == before
    menu.actions()[2].trigger()
    assert calls[-1] == ("Moving", "total", 5)
    assert user.ui.movingMaskSelector.currentNode().GetName().startswith("Mask of Moving")


def test_the_engine_needs_a_result(tmp_path):
    """What the panel asks before any worker is there."""
    from inrreg.parts import parts_of

    with pytest.raises(UserError, match="does not exist"):
        parts_of(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"before": ["before_1.tfm"], "field": {"kind": "siren"}}))
    assert parts_of(tmp_path) == ["whole", "initial", "deformable"]
